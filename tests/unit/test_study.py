"""Study: budget, ask and tell, failures, duplicates, and resuming after a driver's death. Training is played."""

from __future__ import annotations

import json
import math
from pathlib import Path

import optuna
import pytest

from evaluators.scores import Score
from search.errors import StudyError
from search.folders import StudyFolder, utc_now
from search.records import Boundary, Proposal, TrialRecord
from search.spec import BudgetSpec
from search.study import Study
from search.yaml_file import load_study

STUDY = """
name: played
base: {path: model}
sources:
  chat: {path: chat.jsonl, format: messages}
  ask: {path: ask.jsonl, format: prompt}
influences:
  a: {method: sft, adapter: {kind: lora, rank: 8}, mix: {chat: 1.0}, dose_tokens: {low: 100, high: 900},
      learning_rate: {low: 1e-4, high: 1e-2, log: true}}
  b: {method: sft, adapter: {kind: full}, mix: {chat: 1.0}, dose_tokens: 500, learning_rate: 1e-4}
suite:
  form: {evaluator: pattern, source: ask, rules: [{rule: starts_with, text: A}], max_new_tokens: 4}
objectives: [{score: form}, {score: retention.kl, reference: 1.0}]
constraints: [{score: retention.kl, at_most: 0.5}]
baselines: [{name: b_alone, order: [b]}]
sampler: {name: SAMPLER, seed: 3}
budget: {trials: 8}
"""


def study_file(folder: Path, sampler: str = "tpe", text: str = STUDY) -> Path:
    path = folder / "study.yaml"
    path.write_text(text.replace("SAMPLER", sampler))
    return path


def new_study(folder: Path, sampler: str = "tpe", text: str = STUDY) -> Study:
    path = study_file(folder, sampler, text)
    return Study.create(load_study(path), path, folder / "results", "apportion run study.yaml")


def played(
    proposal: Proposal, form: float | None = 0.5, kl: float = 0.1, state: str = "COMPLETE"
) -> TrialRecord:
    scores = (
        Score(name="form", value=form, n=10, unit="share", direction="maximise")
        if form is not None
        else Score(
            name="form",
            value=None,
            n=0,
            unit="share",
            direction="maximise",
            status="missing",
            reason="empty",
        ),
        Score(name="retention.kl", value=kl, n=10, unit="nats/token", direction="minimise"),
    )
    return TrialRecord(
        number=proposal.number,
        state=state,  # type: ignore[arg-type]
        params=proposal.params,
        recipe=proposal.recipe,
        baseline=proposal.baseline,
        seed=3,
        boundaries=(Boundary(n_stages=0, digest="d", scores=scores, evaluate_seconds=1.0),),
        started_at=utc_now(),
    )


def play(study: Study, n_trials: int) -> list[Proposal]:
    proposals = []
    for _ in range(n_trials):
        proposal = study.next()
        assert proposal is not None
        form = 0.1 * len(proposal.recipe.stages) + 0.0001 * sum(
            s.dose_tokens for s in proposal.recipe.stages
        )
        folder = study.folder.trial(proposal.number)
        folder.clear()
        record = played(proposal, form, kl=0.2 * len(proposal.recipe.stages))
        folder.write_record(record)
        study.finish(record)
        proposals.append(proposal)
    return proposals


def optuna_trials(study: Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of the storage, without those that repeat an earlier recipe at no cost."""
    loaded = optuna.load_study(study_name="played", storage=f"sqlite:///{study.folder.database}")
    return [trial for trial in loaded.trials if "duplicate_of" not in trial.user_attrs]


def test_base_comes_first_then_the_baselines_then_proposals(tmp_path: Path) -> None:
    base, baseline, proposed = play(new_study(tmp_path), 3)
    assert (base.baseline, base.recipe.stages) == ("base", ())
    assert (baseline.baseline, baseline.recipe.order_label()) == ("b_alone", "b")
    assert proposed.baseline is None


def test_budget_of_trials_is_met_exactly_with_trials_in_flight(tmp_path: Path) -> None:
    study = new_study(tmp_path, text=STUDY + "compute: {concurrent_trials: 8}\n")
    in_flight = [study.next() for _ in range(8)]
    assert None not in in_flight
    assert study.next() is None
    assert study.stop_reason == "all 8 trials are done"


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "gp", "random"])
def test_every_sampler_fills_the_budget_and_repeats_itself(tmp_path: Path, sampler: str) -> None:
    recipes = []
    for attempt in ("one", "two"):
        (tmp_path / attempt).mkdir()
        study = new_study(tmp_path / attempt, sampler)
        recipes.append([proposal.recipe for proposal in play(study, 8)])
        assert study.next() is None
        states = {trial.state for trial in optuna_trials(study)}
        assert states == {optuna.trial.TrialState.COMPLETE}
    assert recipes[0] == recipes[1]
    assert len({recipe.label() for recipe in recipes[0]}) > 2


def test_resumed_study_proposes_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = [proposal.recipe for proposal in play(new_study(tmp_path / "whole"), 8)]
    study = new_study(tmp_path / "cut")
    first = play(study, 4)
    abandoned = study.next()
    assert abandoned is not None
    study.close("killed")  # the lock dies with a real process
    resumed = Study.open(tmp_path / "cut/results/played", "apportion resume")
    rest = play(resumed, 4)
    assert rest[0].number == abandoned.number
    assert [proposal.recipe for proposal in (*first, *rest)] == whole
    assert resumed.next() is None
    assert [trial.state.name for trial in optuna_trials(resumed)] == ["COMPLETE"] * 8


def test_order_in_which_parallel_trials_end_does_not_change_what_is_proposed(
    tmp_path: Path,
) -> None:
    """Two slots; the trial that ends is the older one or the younger one, by turns or by a pattern."""
    text = STUDY.replace("trials: 8", "trials: 14") + "compute: {concurrent_trials: 2}\n"
    text = text.replace("seed: 3", "seed: 3, startup_trials: 3")
    outcomes = []
    for pattern in ([0], [1, 0], [0, 0, 1]):
        folder = tmp_path / str(len(outcomes))
        folder.mkdir()
        study = new_study(folder, text=text)
        slots: list[Proposal] = []
        recipes: dict[int, str] = {}
        n_ended = 0
        while True:
            while len(slots) < 2 and (proposal := study.next()) is not None:
                slots.append(proposal)
                recipes[proposal.number] = proposal.recipe.label()
            if not slots:
                break
            ending = slots.pop(pattern[n_ended % len(pattern)] % len(slots))
            n_ended += 1
            form = 0.0001 * sum(stage.dose_tokens for stage in ending.recipe.stages)
            study.finish(played(ending, form, kl=0.1 * len(ending.recipe.stages)))
        assert study.stop_reason == "all 14 trials are done"
        outcomes.append(recipes)
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_trial_that_finished_in_its_folder_alone_is_told_and_not_trained_again(
    tmp_path: Path,
) -> None:
    study = new_study(tmp_path)
    play(study, 2)
    proposal = study.next()
    assert proposal is not None
    folder = study.folder.trial(proposal.number)
    folder.clear()
    folder.write_record(played(proposal, form=0.75))
    study.close("killed")
    resumed = Study.open(study.folder.path, "apportion resume")
    (told,) = [trial for trial in optuna_trials(resumed) if trial.number == proposal.number]
    assert told.values == [0.75, 0.1]
    following = resumed.next()
    assert following is not None
    assert following.number > proposal.number


def test_missing_objective_fails_the_trial_with_its_reason_and_never_reaches_the_sampler(
    tmp_path: Path,
) -> None:
    study = new_study(tmp_path)
    play(study, 2)
    proposal = study.next()
    assert proposal is not None
    study.folder.trial(proposal.number).clear()
    record = study.finish(played(proposal, form=None))
    assert (record.state, record.reason) == ("FAIL", "form: missing: empty")
    (trial,) = [trial for trial in optuna_trials(study) if trial.number == proposal.number]
    assert (trial.state.name, trial.values) == ("FAIL", None)
    assert study.folder.trial(proposal.number).read_record() == record


def test_non_finite_score_cannot_be_recorded_at_all() -> None:
    with pytest.raises(ValueError, match="finite"):
        Score(name="x", value=math.inf, n=1, unit="share", direction="maximise")


def test_violated_constraint_makes_a_trial_infeasible_and_keeps_its_values(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    for kl in (0.0, 0.7, 0.5):
        proposal = study.next()
        assert proposal is not None
        study.finish(played(proposal, form=0.5 + kl, kl=kl))
    loaded = optuna.load_study(study_name="played", storage=f"sqlite:///{study.folder.database}")
    # .7 exceeds the bound of .5 by .2; .5 is on the bound, and inside
    assert [list(t.constraints.values()) for t in loaded.trials[:3]] == [
        [-0.5],
        [pytest.approx(0.2)],
        [0.0],
    ]
    assert [trial.number for trial in loaded.best_trials] == [0, 2]


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
    study.fail(base, "DataError: model/config.json is missing")
    assert study.next() is None
    assert study.stop_reason is not None
    assert "model/config.json is missing" in study.stop_reason
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
        study.fail(proposal, "diverged")
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
