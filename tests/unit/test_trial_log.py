"""A trial's log: whole lines, a bounded size, no secrets, and a command that prints it; and a study that is watched."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from played import new_study, play, played
from rich.console import Console

from search import trial_log
from search.cli import logs as logs_command
from search.cli import watch
from search.cli.main import main
from search.folders import TrialFolder
from search.trial_log import TrialLog, older, read_log


def test_lines_have_time_level_event_and_fields_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "Planted-token-99")
    log = TrialLog(tmp_path / "log.jsonl")
    log.write("stage", number=1, loss=float("nan"), text="x" * 5000)
    log.write("ended", "error", reason="used Planted-token-99")
    first, last = read_log(tmp_path / "log.jsonl")
    assert datetime.fromisoformat(first["time"]) <= datetime.now(UTC)
    assert (first["level"], first["event"], first["number"], first["loss"]) == (
        "info",
        "stage",
        1,
        "nan",
    )
    assert len(first["text"]) == 1000
    assert (last["level"], last["reason"]) == ("error", "used ***")


def test_steps_are_logged_every_ten_seconds_and_nothing_of_empty_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(trial_log.time, "monotonic", lambda: now[0])
    log = TrialLog(tmp_path / "log.jsonl")
    for second in range(25):
        now[0] = float(second)
        log.hear({})
        log.hear({"step": second})
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [0, 10, 20]


def test_size_is_bounded_and_the_newest_lines_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_log, "MAX_BYTES", 2000)
    path = tmp_path / "log.jsonl"
    log = TrialLog(path)
    for number in range(200):
        log.write("step", number=number)
    assert path.stat().st_size + older(path).stat().st_size <= 4000
    numbers = [line["number"] for line in read_log(path)]
    assert numbers == list(range(numbers[0], 200))
    path.write_text(path.read_text() + '{"time": "torn')
    assert [line["number"] for line in read_log(path)] == numbers


def test_log_that_cannot_be_written_fails_nobody(tmp_path: Path) -> None:
    TrialLog(tmp_path / "no folder" / "log.jsonl").write("stage")


def test_command_prints_lines_and_escapes_what_steers_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = new_study(tmp_path)
    play(study, 1)
    folder = study.folder.trial(0)
    TrialLog(folder.log).write("missing", "warning", score="form", reason="\x1b[31mred\nline")
    study.close("ended")
    assert main(["logs", str(study.folder.path), "0", "--follow"]) == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "warning  missing  score=form" in told
    assert "\x1b" not in told
    assert main(["logs", str(study.folder.path), "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["event"] == "missing"
    assert main(["logs", str(study.folder.path), "7"]) == 2
    assert "trial 7 has no log" in capsys.readouterr().err


def test_follow_prints_new_lines_until_the_trial_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study(tmp_path)
    proposal = study.next()
    assert proposal is not None
    folder = study.folder.trial(proposal.number)
    folder.clear()
    folder.write_record(played(proposal, state="RUNNING"))
    log = TrialLog(folder.log)
    log.write("started")

    def go_on(_: float) -> None:
        log.write("ended")
        folder.write_record(played(proposal))

    monkeypatch.setattr(logs_command.time, "sleep", go_on)
    assert main(["logs", str(study.folder.path), "0", "--follow"]) == 0
    events = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert events == ["started", "ended"]
    study.close("ended")


def test_watch_shows_80_columns_and_ends_with_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study(tmp_path)
    play(study, 3)
    proposal = study.next()
    assert proposal is not None
    folder: TrialFolder = study.folder.trial(proposal.number)
    folder.clear()
    folder.write_record(played(proposal, state="RUNNING"))
    look = watch.Look.at(study.folder.path, datetime.now(UTC) + timedelta(seconds=90))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(look.screen(80))
    lines = captured.get().splitlines()
    assert lines[0].startswith("played: 3/8 trials done, 1 running")
    assert any(line.startswith(f"  trial {proposal.number}: stage ") for line in lines)
    assert max(map(len, lines)) <= 80
    assert not look.is_over

    def end(_: float) -> None:
        study.close("all 8 trials are done")

    monkeypatch.setattr(watch.time, "sleep", end)
    watcher = threading.Thread(target=main, args=(["status", str(study.folder.path), "--watch"],))
    watcher.start()
    watcher.join(timeout=120)
    assert not watcher.is_alive()
    assert "state    all 8 trials are done" in capsys.readouterr().out
