"""A trial that was stopped early is shown as what it is, with what it saved and how often the rule was wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import write_scored, write_two_objectives

from search.cli.main import app
from search.folders import StudyFolder
from search.records import StopDecision
from search.report.analysis import Analysis
from search.report.html import report_html
from search.report.markdown import report_markdown
from search.report.payload import payload
from search.report.picture import front_png
from search.report.stopping import stopped_rows, stopping_sentence
from search.report.tables import trials_csv
from search.report.terminal import front_table
from search.report.view import StudyView, hypervolumes, load_view
from spaces.recipe import Recipe

REASON = (
    "stopped after 1 of 3 stages: cannot reach the front "
    "(tone <= 0.3, retention.kl >= 0.2 by a bound with error rate 5 %; trial 1 has 0.5, 0.1)"
)


def said(files: StudyFolder, number: int, outcome: str, tone: float, kl: float) -> None:
    """Write into a trial's record what the rule said of it."""
    record = files.trial(number).read_record()
    assert record is not None
    decision = StopDecision(
        n_stages=1,
        outcome=outcome,  # type: ignore[arg-type]
        bounds={"tone": tone, "retention.kl": kl},
        n_past=19,
        reason=None if outcome == "go on" else REASON,
    )
    files.trial(number).write_record(record.model_copy(update={"stopping": (decision,)}))


def stop(files: StudyFolder, number: int, tone: float, kl: float) -> None:
    """Write a trial that was stopped after the first of three stages."""
    write_scored(files, number, (tone, 0.01), (kl, 0.01), state="PRUNED", reason=REASON)
    record = files.trial(number).read_record()
    assert record is not None
    stage = record.recipe.stages[0].model_copy(update={"dose_tokens": 700})
    recipe = Recipe(stages=(stage,) * 3)
    files.trial(number).write_record(record.model_copy(update={"recipe": recipe}))


@pytest.fixture
def files(tmp_path: Path) -> StudyFolder:
    """The front is trials 1 and 2; 3 and 4 were stopped, 5 and 6 audited, and 6 is better than its bound."""
    files = write_two_objectives(tmp_path)
    write_scored(files, 1, (0.5, 0.01), (0.1, 0.01))
    write_scored(files, 2, (0.6, 0.01), (0.2, 0.01))
    stop(files, 3, 0.2, 0.3)
    stop(files, 4, 0.1, 0.3)
    write_scored(files, 5, (0.2, 0.01), (0.3, 0.01))
    said(files, 5, "audit", tone=0.3, kl=0.2)
    write_scored(files, 6, (0.4, 0.01), (0.3, 0.01))
    said(files, 6, "audit", tone=0.3, kl=0.2)
    return files


@pytest.fixture
def view(files: StudyFolder) -> StudyView:
    return load_view(files.path)


def test_sentence_counts_stages_tokens_and_errors(view: StudyView) -> None:
    assert stopping_sentence(view) == (
        "2 trials were stopped early: 4 of their 6 stages did not run, which saved up to 2.8k stage tokens. "
        "Of 2 audited (to be stopped, and run on all the same), 0 reached the front; "
        "1 of their 2 bounds did not hold where the rule said stop. "
        "Over all trials that ran to their end, 1 of 2 bounds did not hold (50 %; 5 % may fail)."
    )


def test_error_rate_is_held_against_all_bounds_that_met_an_end(files: StudyFolder) -> None:
    said(files, 1, "go on", tone=0.9, kl=0.0)
    said(files, 2, "go on", tone=0.9, kl=0.0)
    said(files, 3, "stop", tone=0.0, kl=0.9)  # of a stopped trial: no end to hold it against
    write_scored(files, 7, (0.9, 0.01), (0.3, 0.01))
    said(files, 7, "go on", tone=0.3, kl=0.2)
    told = stopping_sentence(load_view(files.path))
    assert "1 of their 2 bounds did not hold where the rule said stop. " in told
    # Trials 6 and 7 of 1, 2, 5, 6 and 7.
    assert "2 of 5 bounds did not hold (40 %; 5 % may fail)." in told


def test_bound_whose_score_is_missing_at_the_end_is_not_counted(files: StudyFolder) -> None:
    record = files.trial(5).read_record()
    assert record is not None
    (decision,) = record.stopping
    more = decision.model_copy(update={"bounds": {**decision.bounds, "unmeasured": 1.0}})
    files.trial(5).write_record(record.model_copy(update={"stopping": (more,)}))
    assert "1 of 1 bound did not hold (100 %; 5 % may fail)." in (
        stopping_sentence(load_view(files.path))
    )


def test_study_in_which_nothing_was_stopped_says_nothing(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 1, (0.5, 0.01), (0.1, 0.01))
    said(files, 1, "go on", tone=0.9, kl=0.0)
    assert stopping_sentence(load_view(files.path)) == ""


def test_audited_trial_on_the_front_is_counted_as_an_error(files: StudyFolder) -> None:
    write_scored(files, 7, (0.9, 0.01), (0.05, 0.01))
    said(files, 7, "audit", tone=0.3, kl=0.2)
    assert "Of 3 audited (to be stopped, and run on all the same), 1 reached the front" in (
        stopping_sentence(load_view(files.path))
    )


def test_stopped_trial_is_neither_on_the_front_nor_in_the_hypervolume(files: StudyFolder) -> None:
    stop(files, 8, 0.99, 0.0)
    view = load_view(files.path)
    assert view.front == {1, 2}
    assert 8 in {trial.number for trial in view.finished}
    # (0.5 * 0.9) + (0.1 * 0.8): the reference is 0 in tone and 1 in retention.kl
    assert hypervolumes(view)[-1].value == pytest.approx(0.53)
    assert "The last model of stopped trial 8 is dominated by no front trial" in (
        stopping_sentence(view)
    )


def test_model_of_a_stopped_trial_that_breaks_a_constraint_is_not_recommended(
    files: StudyFolder,
) -> None:
    stop(files, 8, 0.99, 0.6)
    assert "worth a look" not in stopping_sentence(load_view(files.path))


def test_reasons_are_grouped_without_the_numbers_of_each_trial(view: StudyView) -> None:
    assert stopped_rows(view) == [
        ("stopped after 1 of 3 stages: cannot reach the front", [3, 4]),
    ]


def test_every_part_of_the_report_shows_it(view: StudyView) -> None:
    page, text = report_html(view), report_markdown(view)
    for found in (page, text):
        assert "2 stopped early" in found
        assert "4 of their 6 stages did not run" in found
        assert "stopped after 1 of 3 stages: cannot reach the front" in found
    assert page.count('<span class="badge">stopped early</span>') == 2
    shown = {trial["n"]: trial for trial in payload(Analysis(view))["trials"]}
    assert (shown[3]["state"], shown[3]["reason"]) == ("PRUNED", REASON)
    row = next(line for line in trials_csv(view).splitlines() if line.startswith("3,"))
    assert row.startswith('3,PRUNED,"stopped after 1 of 3 stages')
    assert front_png(view).startswith(b"\x89PNG")
    assert "2 stopped early" in str(front_table(view, 100).caption)


def test_status_tells_trials_saved_tokens_and_audits(files: StudyFolder) -> None:
    (files.path / "study.json").write_text(
        json.dumps(
            {
                "root": "x",
                "created_at": "2026-11-24",
                "study_hash": "0",
                "budget": {"trials": 9},
                "launches": [],
                "provenance": {},
            }
        )
    )
    told = json.loads(CliRunner().invoke(app, ["status", str(files.path), "--json"]).stdout)
    assert told["trials"] == {"COMPLETE": 4, "PRUNED": 2, "FAIL": 0, "RUNNING": 0}
    assert told["saved_tokens"] == 2 * 2 * 700
    lines = CliRunner().invoke(app, ["status", str(files.path)]).stdout
    assert "4 complete, 2 stopped early, 0 failed" in lines
    assert "stopping 2 trials were stopped early: 4 of their 6 stages did not run" in lines
