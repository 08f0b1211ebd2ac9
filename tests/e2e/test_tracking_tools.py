"""Tracking tools, the real ones: an MLflow server on this machine, and W&B's own files."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from played import new_study, play

from search.callback_spec import CallbackSpec
from search.errors import SpecError
from search.folders import StudyFolder
from search.outcomes import Failure
from search.records import TrialRecord
from search.runner.trackers import open_trackers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = f"--backend-store-uri=sqlite:///{tmp_path}/mlflow.db"
    words = [place, f"--default-artifact-root={tmp_path}/artifacts", "--workers=1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words, "--host=127.0.0.1", f"--port={port}"],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(400):
            assert server.poll() is None, "the server ended"
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield uri, server
    finally:
        stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def three_records(folder: Path) -> list[TrialRecord]:
    study = new_study(folder)
    play(study, 3)
    study.close("ended")
    return StudyFolder(folder / "results/played").records()


def failed(record: TrialRecord) -> TrialRecord:
    failure = Failure(kind="hang", reason="nothing was done", at=record.started_at)
    ended = {"state": "FAIL", "reason": failure.reason, "failure": failure}
    return record.model_copy(update=ended)


def test_mlflow_has_a_run_per_trial_and_the_study_goes_on_without_it(
    tmp_path: Path,
    mlflow_server: tuple[str, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    mlflow_uri, server = mlflow_server
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    records = three_records(tmp_path)
    # The address comes from a variable, as one with a password would.
    monkeypatch.setenv("TRACKING", mlflow_uri)
    spec = CallbackSpec(name="mlflow", options={"uri": "${TRACKING}"})
    said: list[str] = []
    results = tmp_path / "results/played"
    trackers = open_trackers([spec], "played", results, tmp_path, said.append)
    trackers.scored(records[1])
    trackers.close()
    # A later launch goes on in the run that this one began.
    trackers = open_trackers([spec], "played", results, tmp_path, said.append)
    trackers.ended(records[1])
    trackers.ended(failed(records[2]))
    trackers.close()
    assert said == []
    last = open_trackers([spec], "played", results, tmp_path, said.append)
    client = MlflowClient(tracking_uri=mlflow_uri)
    experiment = client.get_experiment_by_name("played")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["trial-0001", "trial-0002"]
    run = runs["trial-0001"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "recipe": records[1].recipe.label(),
        **{name: str(value) for name, value in records[1].params.items()},
    }
    for boundary in records[1].boundaries:
        (form,) = (score.value for score in boundary.scores if score.name == "form")
        told = client.get_metric_history(run.info.run_id, "form")
        assert form in [each.value for each in told if each.step == boundary.n_stages]
    other = runs["trial-0002"]
    assert (other.info.status, other.data.tags["failure.kind"]) == ("FAILED", "hang")
    stop(server)
    last.ended(records[0])
    (line,) = said
    assert "callback mlflow failed and is told no more" in line
    with pytest.raises(SpecError, match=r"callbacks\[0\]: mlflow cannot be made"):
        open_trackers([spec], "played", results, tmp_path, said.append)


def wandb_records(folder: Path) -> list[object]:
    """Read W&B's file: a log of LevelDB's format, records of at most a block each here."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, found = path.read_bytes()[7:], []
    while data:
        _, length, kind = struct.unpack("<IHB", data[:7])
        assert kind == 1, "a record in parts"
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data[7 : 7 + length])
        found.append(record)
        data = data[7 + length :]
    return found


OFFLINE = """
import sys
from pathlib import Path
from search.callback_spec import CallbackSpec
from search.folders import StudyFolder
from search.runner.trackers import open_trackers
root = Path(sys.argv[1])
folder = StudyFolder(root / "results/played")
spec = CallbackSpec(name="wandb", folder="runs", options={"mode": "offline", "project": "mine"})
trackers = open_trackers([spec], "played", folder.path, root, print)
record = folder.record_or_none(1)
trackers.scored(record)
trackers.ended(record)
trackers.close()
"""


def test_wandb_keeps_a_run_per_trial_offline(tmp_path: Path) -> None:
    record = three_records(tmp_path)[1]
    # In a process of its own: W&B writes the last of it when the process ends.
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    found = wandb_records(tmp_path / "runs")
    (run,) = (each.run for each in found if each.WhichOneof("record_type") == "run")  # type: ignore[attr-defined]
    assert (run.project, run.display_name) == ("mine", "trial-0001")
    config = {each.key or each.nested_key[0]: each.value_json for each in run.config.update}
    for name, value in record.params.items():
        assert config[name].strip('"') == str(value)
    steps = {}
    for each in found:
        if each.WhichOneof("record_type") == "history":  # type: ignore[attr-defined]
            row = {
                item.key or item.nested_key[0]: item.value_json
                for item in each.history.item  # type: ignore[attr-defined]
            }
            steps[each.history.step.num] = row  # type: ignore[attr-defined]
    for boundary in record.boundaries:
        (form,) = (score.value for score in boundary.scores if score.name == "form")
        assert float(steps[boundary.n_stages]["form"]) == form


def test_wandb_without_a_key_is_refused_before_it_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SpecError, match=r"set WANDB_API_KEY, or options\.mode"):
        open_trackers([CallbackSpec(name="wandb")], "played", tmp_path, tmp_path, print)
