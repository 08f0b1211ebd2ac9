"""Study: budgets, failures, and what ends a launch. Training is played."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from played import MODELLED, STUDY, new_study, optuna_trials, play, played, study_file, trained

from evaluators.scores import Score
from search.errors import StudyError
from search.folders import StudyFolder, utc_now
from search.outcomes import Failure
from search.spec import BudgetSpec
from search.study import Study
from search.yaml_file import load_study


def test_budget_of_trials_is_met_exactly_with_trials_in_flight(tmp_path: Path) -> None:
    study = new_study(tmp_path, text=STUDY + "compute: {concurrent_trials: 8}\n")
    in_flight = [study.next() for _ in range(8)]
    assert None not in in_flight
    assert study.next() is None
    assert study.stop_reason == "all 8 trials are done"


@pytest.mark.parametrize("sampler", ["stagewise", "tpe", "nsga2", "nsga3", "gp", "random"])
def test_every_sampler_fills_the_budget_and_repeats_itself(tmp_path: Path, sampler: str) -> None:
    recipes = []
    for attempt in ("one", "two"):
        (tmp_path / attempt).mkdir()
        # A proposal of gp takes seconds, so it gets fewer.
        modelled = MODELLED.replace("trials: 3", "trials: 7") if sampler == "gp" else MODELLED
        study = new_study(tmp_path / attempt, sampler, STUDY.replace("seed: 3", modelled))
        recipes.append([proposal.recipe for proposal in play(study, 8)])
        assert study.next() is None
        states = {trial.state for trial in optuna_trials(study)}
        assert states == {optuna.trial.TrialState.COMPLETE}
    assert recipes[0] == recipes[1]
    assert len({recipe.label() for recipe in recipes[0]}) > 2


def test_recipe_tried_before_costs_nothing_and_an_exhausted_space_ends_the_study(
    tmp_path: Path,
) -> None:
    text = STUDY.replace("{low: 100, high: 900}", "300").replace(
        "{low: 1e-4, high: 1e-2, log: true}", "0.001"
    )
    study = new_study(tmp_path, text=text.replace("trials: 8", "trials: 50"))
    # a, b, a > b, b > a, and the base: five recipes in all
    recipes = {proposal.recipe.order_label() for proposal in play(study, 5)}
    assert recipes == {"base", "a", "b", "a > b", "b > a"}
    assert study.next() is None
    assert study.stop_reason is not None
    assert "tried already" in study.stop_reason
    assert study.spent().trials == 5


def test_failure_of_the_base_ends_the_study_and_a_resume_tries_it_again(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    base = study.next()
    assert base is not None
    study.folder.trial(base.number).clear()
    study.finish(played(base, form=None))
    assert study.next() is None
    assert study.stop_reason is not None
    assert study.stop_reason == "the untouched base could not be scored: form: missing: empty"
    assert study.is_broken
    study.close("base failed")
    again = Study.open(study.folder.path, "apportion resume")
    assert "base" in {proposal.baseline for proposal in play(again, 2)}


def test_token_and_time_budgets_stop_new_trials(tmp_path: Path) -> None:
    clock = [0.0]
    path = study_file(tmp_path, text=STUDY.replace("{trials: 8}", "{wall_seconds: 100}"))
    study = Study.create(
        load_study(path), path, tmp_path / "results", "run", clock=lambda: clock[0]
    )
    play(study, 1)
    clock[0] = 99.0
    assert study.next() is not None
    clock[0] = 100.0
    assert study.next() is None
    assert study.stop_reason == "100 of 100 seconds are spent"


def test_time_of_earlier_launches_counts_and_a_resume_may_extend_the_budget(tmp_path: Path) -> None:
    clock = [0.0]
    path = study_file(tmp_path, text=STUDY.replace("{trials: 8}", "{wall_seconds: 100}"))
    study = Study.create(
        load_study(path), path, tmp_path / "results", "run", clock=lambda: clock[0]
    )
    clock[0] = 60.0
    play(study, 1)
    study.close("interrupted")
    clock[0] = 1000.0
    resumed = Study.open(study.folder.path, "resume", clock=lambda: clock[0])
    assert resumed.spent().wall_seconds == 60.0
    clock[0] = 1040.0
    assert resumed.next() is None
    resumed.close("budget")
    extended = Study.open(study.folder.path, "resume", BudgetSpec(trials=9), clock=lambda: clock[0])
    assert extended.next() is not None
    budget = json.loads(extended.folder.study_json.read_text())["budget"]
    assert budget["trials"] == 9


def test_too_many_failures_end_the_study(tmp_path: Path) -> None:
    study = new_study(tmp_path, text=STUDY.replace("{trials: 8}", "{trials: 8, failed_trials: 1}"))
    play(study, 1)
    for _ in range(2):
        proposal = study.next()
        assert proposal is not None
        failure = Failure(kind="diverged", reason="diverged", at=utc_now())
        study.finish(study.fail(proposal, failure))
    assert study.next() is None
    assert study.stop_reason == "2 trials failed, 1 are allowed"


def test_second_driver_is_refused(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    with pytest.raises(StudyError, match="another process runs this study"):
        Study.open(study.folder.path, "apportion resume")


def test_new_study_never_overwrites_an_old_one(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    study.close("done")
    with pytest.raises(StudyError, match="apportion resume"):
        new_study(tmp_path)
    assert StudyFolder(study.folder.path).read_file().launches[0].ended == "done"


def test_worker_that_can_run_nothing_ends_the_launch_and_costs_no_trial(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    play(study, 3)
    proposal = study.next()
    assert proposal is not None
    study.abandon(proposal, "SpecError: base.path model does not exist")
    assert study.next() is None
    assert study.stop_reason == "no trial can run here: SpecError: base.path model does not exist"
    study.close("broken")
    again = Study.open(study.folder.path, "apportion resume")
    assert not again.is_broken
    assert again.spent().trials == 3
    taken_up = again.next()
    assert taken_up is not None
    assert (taken_up.number, taken_up.params) == (proposal.number, proposal.params)


def test_attempt_that_died_before_there_was_a_study_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StudyFolder, "write_file", die)
        with pytest.raises(KeyboardInterrupt):
            new_study(tmp_path)
    assert len(play(new_study(tmp_path), 8)) == 8


def test_token_budget_stops_new_trials(tmp_path: Path) -> None:
    study = new_study(tmp_path, text=STUDY.replace("{trials: 8}", "{train_tokens: 1000}"))
    base = study.next()
    assert base is not None
    study.finish(played(base))
    for tokens in (600, 400):
        proposal = study.next()
        assert proposal is not None
        record = played(proposal).model_copy(update={"stages": (trained(proposal, tokens),)})
        study.finish(record)
    assert study.next() is None
    assert study.stop_reason == "1,000 of 1,000 training tokens are spent"


def test_missing_score_fails_its_trial_only_if_the_study_requires_it(tmp_path: Path) -> None:
    def states(name: str, more: str) -> list[str]:
        (tmp_path / name).mkdir()
        study = new_study(tmp_path / name, text=STUDY + more)
        found = []
        for _ in range(2):
            proposal = study.next()
            assert proposal is not None
            record = played(proposal)
            judged = Score(
                name="judged", value=None, n=0, unit="points", direction="maximise",
                status="missing", reason="no connection (ConnectError)",
            )  # fmt: skip
            last = record.boundaries[-1].model_copy(update={"holdout": (judged,)})
            record = record.model_copy(update={"boundaries": (*record.boundaries[:-1], last)})
            folder = study.folder.trial(proposal.number)
            folder.clear()
            folder.write_record(record)
            ended = study.finish(record)
            assert folder.read_record() == ended
            found.append(f"{ended.state} {ended.reason}")
            if study.is_broken:
                break
        study.close("done")
        return found

    assert states("free", "") == ["COMPLETE None", "COMPLETE None"]
    # The base comes first: where even it lacks a required score, no trial can work, and the study ends at once.
    assert states("strict", "required: [judged]\n") == [
        "FAIL judged: missing: no connection (ConnectError)"
    ]
