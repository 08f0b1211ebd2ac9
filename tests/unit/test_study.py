"""Study: proposals, ask and tell, and resuming after a driver's death. Training is played."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from played import MODELLED, STUDY, new_study, optuna_trials, play, played

from evaluators.scores import Score
from search.records import Proposal
from search.study import Study


def test_base_comes_first_then_the_baselines_then_proposals(tmp_path: Path) -> None:
    base, baseline, proposed = play(new_study(tmp_path), 3)
    assert (base.baseline, base.recipe.stages) == ("base", ())
    assert (baseline.baseline, baseline.recipe.order_label()) == ("b_alone", "b")
    assert proposed.baseline is None


def test_resumed_study_proposes_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    text = STUDY.replace("seed: 3", MODELLED)
    whole = [proposal.recipe for proposal in play(new_study(tmp_path / "whole", text=text), 8)]
    study = new_study(tmp_path / "cut", text=text)
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


def test_boundaries_are_observations_of_the_shorter_recipes_at_no_cost(tmp_path: Path) -> None:
    text = STUDY.replace(
        "baselines: [{name: b_alone, order: [b]}]", "baselines: [{name: ab, order: [a, b]}]"
    )
    study = new_study(tmp_path, text=text)
    play(study, 1)
    long = study.next()
    assert long is not None
    assert long.recipe.order_label() == "a > b"
    end = played(long, form=0.9, kl=0.4)
    middle = played(long, form=0.3, kl=0.6).boundaries[0].model_copy(update={"n_stages": 1})
    last = end.boundaries[0].model_copy(update={"n_stages": 2})
    record = end.model_copy(update={"boundaries": (middle, last)})
    folder = study.folder.trial(long.number)
    folder.clear()
    folder.write_record(record)
    study.finish(record)
    following = study.next()
    loaded = optuna.load_study(study_name="played", storage=f"sqlite:///{study.folder.database}")
    (prefix,) = [trial for trial in loaded.trials if "prefix_of" in trial.user_attrs]
    assert prefix.user_attrs["prefix_of"] == long.number
    assert prefix.params == {
        "order": "a",
        "a.dose_tokens": long.params["a.dose_tokens"],
        "a.learning_rate": long.params["a.learning_rate"],
    }
    assert prefix.values == [0.3, 0.6]
    assert list(prefix.constraints.values()) == [pytest.approx(0.1)]
    assert study.spent().trials == 2
    assert following is not None
    assert following.number > prefix.number
    study.close("killed")
    again = Study.open(study.folder.path, "apportion resume")
    play(again, 3)
    loaded = optuna.load_study(study_name="played", storage=f"sqlite:///{study.folder.database}")
    told = [
        trial.user_attrs["digest"] for trial in loaded.trials if "prefix_of" in trial.user_attrs
    ]
    assert len(told) == len(set(told))


def test_order_in_which_parallel_trials_end_does_not_change_what_is_proposed(
    tmp_path: Path,
) -> None:
    """Two slots; the trial that ends is the older one or the younger one, by turns or by a pattern."""
    text = STUDY.replace("trials: 8", "trials: 11") + "compute: {concurrent_trials: 2}\n"
    text = text.replace("seed: 3", "seed: 3, startup_trials: 3")
    outcomes = []
    for pattern in ([0], [1, 0, 1]):
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
        assert study.stop_reason == "all 11 trials are done"
        outcomes.append(recipes)
    assert outcomes[0] == outcomes[1]


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
