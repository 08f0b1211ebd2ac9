"""Early stopping in whole studies through Ray Tune: stopped trials end as PRUNED, and a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import STUDY as TINY
from tiny import command, environment, records, substance, write_data, write_model

Apportion = Callable[..., subprocess.CompletedProcess[str]]

CHANGES = {
    "name: tiny": "name: stopping",
    "{max_stages: 2}": "{min_stages: 2, max_stages: 3}",
    "sampler: {seed: 5, cost: tokens}": "sampler: {name: random, seed: 5}",
    "{trials: 6}": "{trials: 10}",
}


@pytest.fixture(scope="module")
def study_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that stops as soon as one trial has shown what remains."""
    folder = tmp_path_factory.mktemp("study")
    write_model(folder / "model")
    write_data(folder)
    text = TINY + "stopping: {alpha: 0.5, audit_share: 0.0}\n"
    for old, new in CHANGES.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def run(study_yaml: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("run", str(study_yaml)),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def finished(study_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of an undisturbed run, with what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = run(study_yaml, folder)
    assert done.returncode == 0, done.stderr[-4000:]
    (folder / "out.txt").write_text(done.stdout)
    return folder / "results/stopping"


def outcomes(results: Path) -> list[tuple[object, ...]]:
    return [
        (record["number"], record["state"], record["reason"], record["stopping"])
        for record in records(results)
    ]


def test_stopped_trials_train_no_further_stage_and_say_why(finished: Path) -> None:
    told = records(finished)
    stopped = [record for record in told if record["state"] == "PRUNED"]
    assert len(told) == 10
    assert stopped
    assert {record["state"] for record in told} == {"COMPLETE", "PRUNED"}
    for record in stopped:
        n_done, n_stages = len(record["boundaries"]), len(record["recipe"]["stages"])
        assert 0 < n_done == len(record["stages"]) < n_stages
        assert record["reason"].startswith(f"stopped after {n_done} of {n_stages} stages: cannot ")
        assert record["finished_at"] is not None
        assert record["boundaries"][-1]["holdout"] == []
    # Lines of the terminal name the same trials.
    lines = (finished.parents[1] / "out.txt").read_text()
    for record in stopped:
        assert f"trial {record['number']} {record['reason']}; up to " in lines


def test_status_and_report_tell_what_was_stopped(finished: Path, apportion: Apportion) -> None:
    n_stopped = sum(record["state"] == "PRUNED" for record in records(finished))
    told = json.loads(apportion("status", str(finished), "--json").stdout)
    assert told["trials"] == {
        "COMPLETE": 10 - n_stopped,
        "PRUNED": n_stopped,
        "FAIL": 0,
        "RUNNING": 0,
    }
    assert told["saved_tokens"] > 0
    assert f"{n_stopped} stopped early" in (finished / "report/report.md").read_text()


@pytest.mark.slow
def test_killed_study_stops_the_same_trials(
    finished: Path, study_yaml: Path, apportion: Apportion, tmp_path: Path
) -> None:
    results = tmp_path / "results/stopping"
    first = next(record["number"] for record in records(finished) if record["state"] == "PRUNED")
    driver = subprocess.Popen(
        command("run", str(study_yaml)),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 150
    path = results / f"trials/{first:04d}/trial.json"
    while not path.exists() or json.loads(path.read_text())["state"] == "RUNNING":
        assert driver.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(1)  # workers notice within moments
    apportion("resume", str(results))
    assert outcomes(results) == outcomes(finished)
    assert substance(results) == substance(finished)
