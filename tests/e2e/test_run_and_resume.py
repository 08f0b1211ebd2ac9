"""Whole studies on a tiny model through the command line: run, kill, resume, repeat, report, train."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from recompute import compare
from tiny import command, environment, records, substance

Apportion = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def finished(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one undisturbed run."""
    folder = tmp_path_factory.mktemp("finished")
    done = subprocess.run(
        command("run", str(tiny_study / "study.yaml"), "--json"),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1])["trials"] == 6
    return folder / "results/tiny"


def states(results: Path) -> Counter[str]:
    with sqlite3.connect(results / "study.db") as database:
        rows = database.execute(
            "select trials.state from trials where trial_id not in "
            "(select trial_id from trial_user_attributes where key in ('not_trained', 'prefix_of'))"
        )
        return Counter(state for (state,) in rows)


def test_run_scores_the_model_after_every_stage_and_holds_the_holdout_back(finished: Path) -> None:
    assert states(finished) == {"COMPLETE": 6}
    for record in records(finished):
        n_stages = len(record["recipe"]["stages"])
        expected = list(range(1, n_stages + 1)) or [0]
        assert [boundary["n_stages"] for boundary in record["boundaries"]] == expected
        assert [bool(boundary["holdout"]) for boundary in record["boundaries"]] == [
            number == n_stages for number in expected
        ]
    base = records(finished)[0]
    scores = {score["name"]: score["value"] for score in base["boundaries"][0]["scores"]}
    assert scores["retention.kl"] == pytest.approx(0.0, abs=1e-6)
    assert scores["taste.gain"] == pytest.approx(0.0, abs=1e-5)


def test_training_moves_the_scores(finished: Path) -> None:
    trained = [record for record in records(finished) if record["stages"]]
    assert trained
    for record in trained:
        kl = {score["name"]: score["value"] for score in record["boundaries"][-1]["scores"]}[
            "retention.kl"
        ]
        assert kl > 1e-5


def test_time_of_a_trial_is_split_without_a_rest_that_hides_it(finished: Path) -> None:
    for record in records(finished):
        seconds = record["seconds"]
        trained = [stage["train_seconds"] for stage in record["stages"] if not stage["is_stored"]]
        assert seconds["train"] == pytest.approx(sum(trained), abs=0.01)
        assert seconds["evaluate"] > 0
        begun, ended = (
            datetime.fromisoformat(record[key]) for key in ("started_at", "finished_at")
        )
        whole = (ended - begun).total_seconds()
        # Times are kept in whole seconds; loading and waiting before the start are in the split and not in between.
        in_trial = seconds["train"] + seconds["evaluate"]
        assert in_trial <= whole + 1
        assert whole <= sum(seconds.values()) + 1
        assert seconds["rest"] < 3


def test_scores_in_trials_csv_follow_from_the_kept_items(finished: Path) -> None:
    n_equal, faults = compare(finished)
    assert faults == []
    # 6 trials, each with 8 scores (short, 4 of taste, 2 of retention, shorter) and as many standard errors
    assert n_equal == 6 * 8 * 2


def test_report_is_there_and_can_be_rebuilt(finished: Path, apportion: Apportion) -> None:
    names = {path.name for path in (finished / "report").iterdir()}
    assert names == {"report.html", "report.md", "front.csv", "trials.csv", "front.png"}
    before = (finished / "report/trials.csv").read_text()
    apportion("report", str(finished))
    assert (finished / "report/trials.csv").read_text() == before


def test_status_and_show_tell_what_happened(finished: Path, apportion: Apportion) -> None:
    told = json.loads(apportion("status", str(finished), "--json").stdout)
    assert told["trials"] == {"COMPLETE": 6, "PRUNED": 0, "FAIL": 0, "RUNNING": 0}
    shown = apportion("show", str(finished), "1").stdout
    assert "stage 1" in shown
    assert "after 1" in shown
    events = [line.split()[2] for line in apportion("logs", str(finished), "1").stdout.splitlines()]
    assert events[0] == "started"
    assert events[-1] == "ended"
    assert {"step", "stage", "scored"} <= set(events)
    refused = apportion("show", str(finished), "99", check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "known: 0, 1" in refused.stderr


def test_what_a_study_leaves_is_text_numbers_and_safetensors(finished: Path) -> None:
    with sqlite3.connect(finished / "study.db") as database:
        tables = [
            name
            for (name,) in database.execute("select name from sqlite_master where type = 'table'")
        ]
        values = [
            value
            for name in tables
            for row in database.execute(f"select * from {name}")
            for value in row
        ]
    assert len(values) > 100
    assert not any(isinstance(value, bytes) for value in values)
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    for path in files:
        start = path.open("rb").read(2)
        assert start not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), (
            f"{path} is a pickle"
        )
        assert start != b"PK", f"{path} is a zip, as torch.save writes them"


def test_same_study_and_seed_give_the_same_recipes_and_scores(
    finished: Path, tiny_study: Path, apportion: Apportion, tmp_path: Path
) -> None:
    apportion("run", str(tiny_study / "study.yaml"))
    assert substance(tmp_path / "results/tiny") == substance(finished)


def test_recipe_of_a_trial_repeats_outside_the_study(
    finished: Path, apportion: Apportion, tmp_path: Path
) -> None:
    record = next(record for record in records(finished) if len(record["stages"]) == 2)
    recipe = finished / f"trials/{record['number']:04d}/recipe.yaml"
    done = apportion("train", str(recipe), "--out", "model", "--form", "merged", "--json")
    trained = json.loads(done.stdout)
    assert [stage["loss_by_step"] for stage in trained] == [
        stage["loss_by_step"] for stage in record["stages"]
    ]
    assert [stage["digest"] for stage in trained] == [stage["digest"] for stage in record["stages"]]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model(**tokenizer("hello", return_tensors="pt")).logits.isfinite().all()


def wait_for(condition: Callable[[], bool], seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)
        yield


def test_killed_driver_loses_no_finished_trial_and_resume_meets_the_budget(
    finished: Path, tiny_study: Path, apportion: Apportion, tmp_path: Path
) -> None:
    results = tmp_path / "results/tiny"
    driver = subprocess.Popen(
        command("run", str(tiny_study / "study.yaml")),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def n_finished() -> int:
        return sum(record["state"] == "COMPLETE" for record in records(results))

    for _ in wait_for(lambda: n_finished() >= 2, 240):
        assert driver.poll() is None, "the study ended before it could be killed"
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(1)  # workers notice within moments
    kept = {
        record["number"]: (results / f"trials/{record['number']:04d}/trial.json").stat().st_mtime_ns
        for record in records(results)
        if record["state"] == "COMPLETE"
    }
    apportion("resume", str(results))
    assert states(results) == {"COMPLETE": 6}
    for number, written in kept.items():
        assert (results / f"trials/{number:04d}/trial.json").stat().st_mtime_ns == written
    assert substance(results) == substance(finished)
    apportion("resume", str(results), "--trials", "7")
    assert states(results) == {"COMPLETE": 7}


def test_base_that_cannot_be_loaded_ends_the_study_with_its_reason(
    tiny_study: Path, apportion: Apportion, tmp_path: Path
) -> None:
    for path in tiny_study.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    model = tmp_path / "model"
    model.mkdir()
    for path in (tiny_study / "model").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = apportion("run", "study.yaml", check=False)
    assert done.returncode == 1
    assert "ended: no trial can run here: SpecError: base: " in done.stdout
    assert "go on with: apportion resume results/tiny" in done.stdout
    assert "Traceback" not in done.stderr


def test_interrupt_ends_with_130_and_leaves_the_study_resumable(
    tiny_study: Path, apportion: Apportion, tmp_path: Path
) -> None:
    results = tmp_path / "results/tiny"
    driver = subprocess.Popen(
        command("run", str(tiny_study / "study.yaml")),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in the background of a script ignores interrupts, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in wait_for(lambda: bool(records(results)), 120):
        assert driver.poll() is None, "the study ended before it could be interrupted"
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does it
    stdout, stderr = driver.communicate(timeout=60)
    assert driver.returncode == 130, stderr[-3000:]
    assert "apportion resume results/tiny" in stdout
    assert "Traceback" not in stderr
    apportion("resume", str(results))
    assert states(results) == {"COMPLETE": 6}
