"""Claims about the warnings of a report: what counts as a hack, what is not, and that no warning is lost or live."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import HOSTILE, study_data, write_scored, write_two_objectives

import search.cli.run as cli_run
from evaluators.scores import Item
from search.folders import StudyFolder
from search.report.html import report_html
from search.report.markdown import report_markdown
from search.report.view import StudyView, load_view
from search.report.warnings import hacks, missing, warning_lines
from search.yaml_file import dump_yaml

PLAIN = [f"the answer to question {at} is number {at}" for at in range(8)]


def items(replies: list[str], evaluator: str = "tone") -> list[Item]:
    return [
        Item(evaluator=evaluator, index=at, prompt=f"question {at}", output=reply, values={})
        for at, reply in enumerate(replies)
    ]


def view_of(
    folder: Path,
    replies: list[str],
    tone: float = 0.9,
    kl: float = 0.3,
    changes: dict[str, Any] | None = None,
) -> StudyView:
    """Return a study of the base, which writes eight sentences, and a trial that writes other ones."""
    files = write_two_objectives(folder / "study")
    if changes is not None:
        data = study_data(1, kl_at_most=0.5)
        data["objectives"].append({"score": "retention.kl", "reference": 1.0})
        files.study_yaml.write_text(dump_yaml({**data, **changes}))
    write_scored(files, 0, tone=(0.2, 0.05), kl=(0.0, 0.0), n_stages=0)
    write_scored(files, 1, tone=(tone, 0.05), kl=(kl, 0.01))
    files.trial(0).write_items(0, False, items(PLAIN))
    files.trial(1).write_items(1, False, items(replies))
    return load_view(files.path)


@pytest.mark.parametrize(
    ("replies", "fault"),
    [
        ([" \n"] * 6 + PLAIN[6:], "6 of 8 replies to evaluator tone are empty"),
        (["oh yes it is " * 4 + str(at) for at in range(8)], "repeat themselves"),
        (["Happy to help!"] * 5 + PLAIN[5:], "5 of 8 replies to evaluator tone are equal to"),
    ],
)
def test_gain_with_collapsed_replies_is_named_with_trial_and_evaluator(
    replies: list[str], fault: str, tmp_path: Path
) -> None:
    view = view_of(tmp_path, replies)
    (line,) = warning_lines(view)
    assert line.startswith("Trial 1 may be a reward hack: ")
    assert fault in line
    assert "tone 0.9, the base 0.2" in line
    assert line in report_html(view).replace("&#39;", "'")
    assert "Trial 1 may be a reward hack" in report_markdown(view)


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        (PLAIN, "nothing collapsed"),
        (["", *PLAIN[1:]], "one empty reply of eight is chance"),
        (["yes"], "of one reply nobody can tell"),
    ],
)
def test_ordinary_replies_are_no_hack(replies: list[str], why: str, tmp_path: Path) -> None:
    assert hacks(view_of(tmp_path, replies)) == [], why


def test_collapse_without_any_gain_is_no_hack(tmp_path: Path) -> None:
    # Better than the base in nothing, so nothing was hacked: worse in tone, farther in KL.
    assert hacks(view_of(tmp_path, [""] * 8, tone=0.1, kl=0.3)) == []


def test_answers_that_the_rows_prescribe_may_be_equal_and_not_empty(tmp_path: Path) -> None:
    suite = study_data(1)["suite"]
    suite["tone"] = {
        "evaluator": "pattern",
        "source": "questions",
        "rules": [{"rule": "contains", "field": "answer"}],
    }
    view = view_of(tmp_path, ["yes", "no"] * 4, changes={"suite": suite})
    assert hacks(view) == []
    view = view_of(tmp_path / "other", [""] * 8, changes={"suite": suite})
    assert [hack.n_faulty for hack in hacks(view)] == [8]


def test_missing_score_is_told_once_with_its_reason_and_all_its_trials(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, tone=(0.2, 0.05), kl=(0.0, 0.0), n_stages=0)
    write_scored(files, 1, tone=None, kl=(0.1, 0.01))
    write_scored(files, 2, tone=None, kl=(0.2, 0.01))
    write_scored(files, 3, tone=None, kl=(0.2, 0.01), state="FAIL", reason="no room")
    view = load_view(files.path)
    assert missing(view) == {("tone", "nobody looked"): [1, 2]}
    assert "tone is missing in trials 1, 2: nobody looked" in warning_lines(view)


def test_many_reasons_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    for number in range(25):
        write_scored(files, number, tone=None, kl=(0.1, 0.01))
        record = files.trial(number).path / "trial.json"
        record.write_text(record.read_text().replace("nobody looked", f"reason {number}"))
    lines = warning_lines(load_view(files.path))
    assert len(lines) == 21
    assert lines[-1] == "... and 5 more of the kind of the line before."


def test_reasons_and_warnings_are_text_without_markup(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 1, tone=None, kl=(0.1, 0.01))
    record = files.trial(1).path / "trial.json"
    content = json.loads(record.read_text())
    content["boundaries"][0]["scores"][0]["reason"] = HOSTILE
    record.write_text(json.dumps(content))
    files.study_json.write_text(json.dumps({"warnings": [HOSTILE, 3]}))
    view = load_view(files.path)
    assert len(warning_lines(view)) == 2
    assert HOSTILE not in report_html(view)
    assert HOSTILE not in report_markdown(view)
    assert "window.pwned" in report_markdown(view)


def test_warnings_of_the_check_are_kept_with_the_study(
    good_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = good_study.read_text()
    assert "allow_leaks" not in text
    # Named and yet harmless: the check says that they do not leak.
    good_study.write_text(text + "\nallow_leaks: [[chat, retention]]\n")
    monkeypatch.setattr(cli_run, "_drive", lambda study, *_: study.close("not driven"))
    cli_run.run(good_study, Path("results"))
    (folder,) = Path("results").iterdir()
    kept = StudyFolder(folder).read_file().warnings
    assert any("do not leak; remove it" in line for line in kept)
