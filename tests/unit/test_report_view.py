"""Claims about what a results folder is read as: front, feasibility, noise, hypervolume."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import write_scored, write_study, write_two_objectives

from search.errors import SpecError, StudyError
from search.report import describe
from search.report.study_file import facts, launches, read_study_file, versions
from search.report.view import hypervolumes, load_view


def test_front_holds_the_feasible_completed_trials_that_none_dominates(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, (0.2, 0.01), (0.0, 0.0), n_stages=0)
    write_scored(files, 1, (0.6, 0.01), (0.2, 0.01))
    write_scored(files, 2, (0.5, 0.01), (0.2, 0.01))  # dominated by 1
    write_scored(files, 3, (0.9, 0.01), (0.6, 0.01))  # breaks the constraint
    write_scored(files, 4, (0.9, 0.01), (0.1, 0.01), state="FAIL", reason="lost")
    write_scored(files, 5, (0.9, 0.01), (0.1, 0.01), state="RUNNING")
    write_scored(files, 6, None, (0.1, 0.01))  # an objective is missing
    write_scored(files, 7, (0.9, 0.01), None)  # so is a constrained score
    view = load_view(tmp_path)
    assert view.feasible == {0, 1, 2}
    assert view.front == {0, 1}
    assert [trial.number for trial in view.front_trials] == [1, 0]
    assert view.base is not None
    assert view.base.number == 0
    assert [trial.number for trial in view.trials] == list(range(8))


def test_reasons_of_infeasible_trials_name_score_and_bound(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, (0.9, 0.01), (0.6, 0.01))
    write_scored(files, 1, None, (0.1, 0.01))
    write_scored(files, 2, (0.9, 0.01), None)
    assert describe.infeasible_rows(load_view(tmp_path)) == [
        ("retention.kl is above 0.5", [0]),
        ("objective tone is missing", [1]),
        ("objective retention.kl is missing", [2]),
        ("constraint on retention.kl: the score is missing", [2]),
    ]


def test_hypervolume_grows_with_feasible_trials_and_counts_failed_ones_in_time(
    tmp_path: Path,
) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, (0.2, 0.01), (0.0, 0.0), n_stages=0, seconds=5.0)
    write_scored(files, 1, (0.9, 0.01), (0.1, 0.01), state="FAIL", seconds=7.0)
    write_scored(files, 2, (0.6, 0.01), (0.5, 0.01), seconds=11.0)
    write_scored(files, 3, (0.1, 0.01), (0.4, 0.01), seconds=13.0)  # dominated
    write_scored(files, 4, (0.9, 0.01), (0.1, 0.01), state="RUNNING", seconds=17.0)
    points = hypervolumes(load_view(tmp_path))
    # Up to tone 0 and KL 1: .2 x 1, then the union with .6 x .5 is .2 + .3 - .2 x .5.
    assert [point.value for point in points] == pytest.approx([0.2, 0.2, 0.4, 0.4])
    assert [point.compute_seconds for point in points] == [5.0, 12.0, 23.0, 36.0]
    assert [point.n_finished for point in points] == [1, 2, 3, 4]


def test_gain_counts_only_beyond_the_noise_of_both_measurements(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, (0.20, 0.03), (0.0, 0.0), n_stages=0)
    # The difference of two stderrs .03 and .04 is .05; its interval is ±.098.
    write_scored(files, 1, (0.29, 0.04), (0.0, 0.0))
    write_scored(files, 2, (0.30, 0.04), (0.1, 0.01))
    write_scored(files, 3, (0.29, 0.04), (0.1, 0.01))
    write_scored(files, 4, (0.90, None), (0.1, 0.01))
    view = load_view(tmp_path)
    notes = [view.noise_note(trial) for trial in view.trials]
    assert notes == [
        None,  # the base itself
        "within noise of the base",
        None,  # .1 is more than .098
        "no gain over the base beyond noise",  # and a loss in KL
        "no gain over the base shown (tone without standard error)",
    ]


def test_front_sentence_never_claims_a_gain_inside_the_noise(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, (0.20, 0.03), (0.0, 0.0), n_stages=0)
    write_scored(files, 1, (0.29, 0.04), (0.1, 0.01))
    sentence = describe.front_sentence(load_view(tmp_path))
    assert "2 of 2 feasible trials" in sentence
    assert "none gains on the base by more than noise" in sentence
    write_scored(files, 2, (0.50, 0.04), (0.2, 0.01))
    assert "1 gains on the base" in describe.front_sentence(load_view(tmp_path))


def test_knee_needs_a_front_that_bulges_towards_the_ideal(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, (0.2, 0.01), (0.0, 0.0), n_stages=0)
    write_scored(files, 1, (0.9, 0.01), (0.4, 0.01))
    assert load_view(tmp_path).knee is None
    write_scored(files, 2, (0.8, 0.01), (0.1, 0.01))
    assert load_view(tmp_path).knee == 2


def test_study_without_trials_has_an_empty_view(tmp_path: Path) -> None:
    write_two_objectives(tmp_path)
    view = load_view(tmp_path)
    assert (view.trials, view.front, view.base, view.knee) == ((), frozenset(), None, None)
    assert hypervolumes(view) == ()
    assert describe.front_sentence(view) == "No trial has finished yet, so there is no front."


def test_objective_without_reference_point_has_no_hypervolume(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    text = files.study_yaml.read_text().replace("reference: 1.0", "direction: minimise")
    files.study_yaml.write_text(text)
    write_scored(files, 0, (0.2, 0.01), (0.0, 0.0), n_stages=0)
    view = load_view(tmp_path)
    assert [objective.reference for objective in view.objectives] == [0.0, None]
    assert hypervolumes(view) == ()


def test_direction_of_the_objective_wins_over_that_of_the_score(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    text = files.study_yaml.read_text()
    files.study_yaml.write_text(
        text.replace("- score: tone\n", "- score: tone\n  direction: minimise\n  reference: 1.0\n")
    )
    write_scored(files, 0, (0.2, 0.01), (0.1, 0.01))
    write_scored(files, 1, (0.6, 0.01), (0.1, 0.01))
    assert load_view(tmp_path).front == {0}


def test_folder_that_is_no_study_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no study\.yaml; give the folder of a study"):
        load_view(tmp_path)


def test_wrong_study_and_damaged_records_are_named(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, (0.2, 0.01), (0.0, 0.0))
    files.trial(0).record.write_text('{"number": 0')
    with pytest.raises(StudyError, match=r"0000.trial\.json"):
        load_view(tmp_path)
    shutil.rmtree(files.trials)
    files.study_json.write_text("[]")
    with pytest.raises(StudyError, match="no object at the top"):
        load_view(tmp_path)
    files.study_yaml.write_text("name: x\n")
    with pytest.raises(SpecError, match=r"study\.yaml"):
        load_view(tmp_path)


def test_provenance_is_read_with_keys_missing_and_without_local_folders(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study", 2).study_json
    content = read_study_file(path)
    assert [launch.wall_seconds for launch in launches(content)] == [1200.0, 600.0]
    assert [launch.ended for launch in launches(content)] == ["interrupted", ""]
    assert versions(content) == {"torch": "2.13.0", "optuna": "5.0.0"}
    assert ("machine.cpus", "2") in facts(content)
    assert "private" not in str(facts(content))
    assert (launches({}), versions({}), facts({})) == ((), {}, [])
    timed = {"launches": [{"started_at": "2026-01-01T00:00:00", "ended_at": "2026-01-01T00:01:00"}]}
    assert launches(timed)[0].wall_seconds == 60.0
    assert launches({"launches": [{"command": "x"}]})[0].wall_seconds is None


def test_budget_extended_by_resume_is_the_one_shown(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    assert ("trials finished", "0", "16") in describe.budget_rows(load_view(tmp_path))
    files.study_json.write_text('{"budget": {"trials": 40}}')
    assert ("trials finished", "0", "40") in describe.budget_rows(load_view(tmp_path))
