"""Early stopping: the bound holds as often as it says, and the rule stops what cannot come to anything."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from evaluators.scores import Score
from search.records import Boundary, TrialRecord
from search.spec import ConstraintSpec, StudySpec
from search.stopping.calibration import margin, n_needed, residuals, upper_rank
from search.stopping.past import Example, Gains, Goals, PastTrial, alike, examples
from search.stopping.predictor import LinearGain, MeanGain
from search.stopping.rule import StoppingRule
from spaces.recipe import Full, Recipe, Stage

GOALS = Goals(("form", "kl"), (1.0, -1.0), (ConstraintSpec(score="kl", at_most=0.5),))


def stage(influence: str, dose_tokens: int = 100) -> Stage:
    return Stage(
        influence=influence,
        method="sft",
        adapter=Full(),
        mix={"chat": 1.0},
        dose_tokens=dose_tokens,
        learning_rate=1e-3,
    )


def trial(
    number: int,
    order: str,
    scores: Sequence[tuple[float, float]],
    doses: Sequence[int] = (),
    baseline: str | None = None,
) -> TrialRecord:
    """A trial of one-letter influences with `form` and `kl` after each stage that is done."""
    stages = [
        stage(name, doses[index] if doses else 100 + number) for index, name in enumerate(order)
    ]
    boundaries = tuple(
        Boundary(
            n_stages=n_stages,
            digest=f"{number} {n_stages}",
            scores=(
                Score(name="form", value=form, n=9, unit="share", direction="maximise"),
                Score(name="kl", value=kl, n=9, unit="nats/token", direction="minimise"),
            ),
            evaluate_seconds=1.0,
        )
        for n_stages, (form, kl) in enumerate(scores, 1)
    )
    return TrialRecord(
        number=number,
        state="COMPLETE" if len(scores) == len(order) else "RUNNING",
        params={},
        recipe=Recipe(stages=tuple(stages)),
        baseline=baseline,
        seed=0,
        boundaries=boundaries,
        started_at="",
    )


def past(*records: TrialRecord) -> list[PastTrial]:
    return [PastTrial.of(record, GOALS) for record in records]


def rule(alpha: float = 0.5, audit_share: float = 0.0, seed: int = 0) -> StoppingRule:
    influence = {
        "method": "sft",
        "adapter": {"kind": "full"},
        "mix": {"chat": 1.0},
        "dose_tokens": 100,
        "learning_rate": 1e-3,
    }
    data = {
        "name": "stopping",
        "base": {"path": "model"},
        "sources": {"ask": {"path": "a.jsonl", "format": "prompt"}},
        "influences": {"a": influence},
        "suite": {
            "form": {
                "evaluator": "pattern",
                "source": "ask",
                "rules": [{"rule": "starts_with", "text": "A"}],
            },
            "kl": {"evaluator": "likelihood", "source": "ask"},
        },
        "objectives": [{"score": "form"}, {"score": "kl", "reference": 1.0}],
        "constraints": [{"score": "kl", "at_most": 0.5}],
        "sampler": {"seed": seed},
        "budget": {"trials": 9},
        "stopping": {"alpha": alpha, "audit_share": audit_share},
    }
    spec = StudySpec.model_validate_json(json.dumps(data))
    made = StoppingRule(spec, MeanGain)
    assert made.goals == GOALS
    return made


def test_gains_are_higher_when_better_and_negative_outside_a_constraint() -> None:
    found = PastTrial.of(trial(1, "a", [(0.3, 0.7)]), GOALS).gains[1]
    assert found == pytest.approx([0.3, -0.7, -0.2])
    assert GOALS.values(found) == pytest.approx({"form": 0.3, "kl": 0.7})


@pytest.mark.parametrize(("alpha", "expected"), [(0.05, 19), (0.1, 9), (0.5, 1), (0.3, 3)])
def test_bound_needs_as_many_examples_as_make_its_rank_exist(alpha: float, expected: int) -> None:
    assert n_needed(alpha) == expected
    assert upper_rank(expected, alpha) <= expected
    with pytest.raises(ValueError, match="too few"):
        upper_rank(expected - 1, alpha)


def test_rank_of_the_quantile_counts_the_next_trial_too() -> None:
    # ceil(20 * .95) = 19, ceil(40 * .95) = 38, ceil(101 * .95) = ceil(95.95) = 96
    assert [upper_rank(n, 0.05) for n in (19, 39, 100)] == [19, 38, 96]


def test_margin_of_one_score_is_the_residual_of_that_rank() -> None:
    # ceil(5 * .6) = 3: the third of four
    found = margin(np.array([[4.0], [1.0], [3.0], [2.0]]), 0.4)
    assert found.added == pytest.approx([3.0])
    assert found.n_past == 4


def test_margin_of_several_scores_bounds_all_of_them_at_once() -> None:
    # Root mean squares 3/sqrt(2) and 4/sqrt(2), so both rows reach sqrt(2) and each score is bounded by its largest.
    assert margin(np.array([[3.0, 0.0], [0.0, 4.0]]), 0.34).added == pytest.approx([3.0, 4.0])


def test_score_that_was_always_predicted_gets_no_margin() -> None:
    assert margin(np.array([[1.0, 0.0], [2.0, 0.0]]), 0.34).added == pytest.approx([2.0, 0.0])


def test_bound_fails_as_often_as_alpha_says_and_no_more() -> None:
    draw = np.random.default_rng(0)
    n_draws, n_past, n_failed = 4000, 59, 0
    for _ in range(n_draws):
        rows_NK = draw.standard_normal((n_past + 1, 3)) * [1.0, 10.0, 0.1]
        n_failed += bool((rows_NK[-1] > margin(rows_NK[:-1], 0.1).added).any())
    # Exactly 6 in 60 where ties are impossible; three standard errors of 4,000 draws are .014. The scale is taken from
    # the past rows alone, which costs a little.
    assert 0.086 < n_failed / n_draws < 0.118


def test_prefix_that_two_trials_share_is_one_example() -> None:
    first, second = trial(1, "abc", [(0, 0)] * 3), trial(2, "abd", [(0, 0)] * 3)
    shared = second.model_copy(update={"boundaries": (*first.boundaries[:2], second.boundaries[2])})
    pairs = [(e.trial.number, e.start, e.end) for e in examples(past(first, shared))]
    assert pairs == [(1, 1, 2), (1, 1, 3), (1, 2, 3), (2, 1, 3), (2, 2, 3)]


def test_examples_are_taken_from_the_narrowest_sense_that_has_enough() -> None:
    orders = ["abc", "abc", "acb", "bca"]
    known = examples(past(*(trial(n, order, [(0, 0)] * 3) for n, order in enumerate(orders))))

    def found(remaining: tuple[str, ...], n_least: int) -> list[tuple[int, int, int]]:
        return [(e.trial.number, e.start, e.end) for e in alike(known, remaining, n_least)]

    assert found(("b", "c"), 2) == [(0, 1, 3), (1, 1, 3)]
    assert found(("b", "c"), 3) == [(0, 1, 3), (1, 1, 3), (2, 1, 3)]
    assert found(("b", "c"), 4) == [(n, 1, 3) for n in range(4)]
    assert found(("b", "c"), 5) == []


def test_trial_that_offers_several_examples_counts_once_with_its_latest() -> None:
    known = examples(past(trial(1, "aaaa", [(0, 0)] * 4), trial(2, "aa", [(0, 0)] * 2)))
    chosen = [(e.trial.number, e.start, e.end) for e in alike(known, ("a",), 2)]
    assert chosen == [(1, 3, 4), (2, 1, 2)]


def test_mean_gain_adds_what_the_same_influences_changed() -> None:
    known = examples(past(*(trial(n, "ab", [(0.1, 0.0), (0.1 + n / 10, 0.2)]) for n in range(5))))
    start = np.array([[0.5, -0.1, 0.4]])
    # Mean of 0, .1, .2, .3, .4 is .2; kl rises by .2 each time.
    recipe = Recipe(stages=(stage("a"), stage("b")))
    assert MeanGain(known).predict(recipe, 1, start)[:2] == pytest.approx([0.7, -0.3])
    assert MeanGain(known[:4]).predict(recipe, 1, start) == pytest.approx(start[0])


def test_linear_gain_tells_large_doses_from_small_ones() -> None:
    doses = [100 * 2 ** (n % 6) for n in range(120)]
    records = [
        trial(n, "ab", [(0.0, 0.0), (np.log(dose / 100), 0.0)], (100, dose))
        for n, dose in enumerate(doses)
    ]
    predictor = LinearGain(examples(past(*records)))
    start = np.array([[0.0, 0.0, 0.5]])
    for factor in (1, 8, 32):
        recipe = Recipe(stages=(stage("a"), stage("b", 100 * factor)))
        found = predictor.predict(recipe, 1, start)
        assert found[:2] == pytest.approx([np.log(factor), 0.0], abs=0.05)


class Memory:
    """Knows the end of every trial that it was taught, and nothing else."""

    def __init__(self, known: Sequence[Example]) -> None:
        self._ends = {e.trial.recipe.stages[0].dose_tokens: e.after for e in known}

    def predict(self, recipe: Recipe, n_done: int, gains_MK: Gains, share: float = 0.0) -> Gains:
        return self._ends.get(recipe.stages[0].dose_tokens, gains_MK[-1])


def test_no_example_is_judged_by_a_predictor_that_knew_its_trial() -> None:
    known = examples(past(*(trial(n, "ab", [(0.0, 0.0), (n, 0.0)]) for n in range(1, 24))))
    assert residuals(known, known, Memory)[:, 0].tolist() != [0.0] * 23
    assert sorted(residuals(known, known, Memory)[:, 0].tolist()) == list(range(1, 24))


def test_trial_whose_bound_is_dominated_is_stopped_with_the_reason() -> None:
    # The second stage changed nothing in two past trials, so the bound is where the trial is now.
    known = past(
        trial(1, "ab", [(0.4, 0.1), (0.4, 0.1)]),
        trial(2, "ab", [(0.2, 0.1), (0.2, 0.1)]),
    )
    decision = rule().decide(trial(3, "ab", [(0.3, 0.2)]), known)
    assert decision is not None
    assert (decision.outcome, decision.n_stages, decision.n_past) == ("stop", 1, 2)
    assert decision.bounds == pytest.approx({"form": 0.3, "kl": 0.2})
    assert decision.reason == (
        "stopped after 1 of 2 stages: cannot reach the front "
        "(form <= 0.3, kl >= 0.2 by a bound with error rate 50 %; trial 1 has 0.4, 0.1)"
    )


@pytest.mark.parametrize(
    ("form", "kl"),
    [
        (0.5, 0.2),  # better in form
        (0.3, 0.05),  # better in kl
        (0.4, 0.1),  # equal: nothing dominates its like
    ],
)
def test_trial_that_nothing_dominates_at_its_bound_goes_on(form: float, kl: float) -> None:
    known = past(*(trial(n, "ab", [(0.4, 0.1), (0.4, 0.1)]) for n in (1, 2)))
    decision = rule().decide(trial(3, "ab", [(form, kl)]), known)
    assert decision is not None
    assert (decision.outcome, decision.reason) == ("go on", None)


def test_margin_keeps_a_trial_going_that_its_prediction_alone_would_give_up() -> None:
    # Changes of form: 0, .1 and .2. Too few for a mean, so scores stay, and these are the residuals: the rank is
    # ceil(4 * .75) = 3 of 3, or 2 of 3.
    known = past(*(trial(n, "ab", [(0.2, 0.1), (0.2 + n / 10, 0.1)]) for n in range(3)))
    here = trial(3, "ab", [(0.25, 0.1)])
    decision = rule(alpha=0.25).decide(here, known)
    assert decision is not None
    assert decision.bounds["form"] == pytest.approx(0.25 + 0.2)
    assert decision.outcome == "go on"
    looser = rule(alpha=0.5).decide(here, known)
    assert looser is not None
    assert looser.bounds["form"] == pytest.approx(0.25 + 0.1)
    assert looser.outcome == "stop"


def test_trial_that_cannot_keep_a_constraint_is_stopped() -> None:
    known = past(*(trial(n, "ab", [(0.1, 0.1), (0.1, 0.3)]) for n in range(5)))
    decision = rule().decide(trial(9, "ab", [(0.9, 0.4)]), known)
    assert decision is not None
    # kl rose by .2 five times, and .6 is above .5
    assert decision.reason == (
        "stopped after 1 of 2 stages: cannot keep kl <= 0.5 (kl >= 0.6 by a bound with error rate 50 %)"
    )


def test_infeasible_model_dominates_nobody() -> None:
    known = past(*(trial(n, "ab", [(0.1, 0.3), (0.1, 0.3)]) for n in (1, 2)))
    better = past(trial(5, "a", [(0.9, 0.6)]))[0]
    here = trial(3, "ab", [(0.8, 0.45)])
    decision = rule().decide(here, [*known, better])
    assert decision is not None
    assert decision.outcome == "go on"


def test_model_at_a_boundary_dominates_too_and_is_named() -> None:
    known = past(trial(1, "ab", [(0.4, 0.1), (0.1, 0.1)]), trial(2, "ba", [(0.2, 0.1), (0.2, 0.1)]))
    decision = rule().decide(trial(3, "ac", [(0.3, 0.2)]), known)
    assert decision is not None
    assert decision.outcome == "stop"
    assert "trial 1 after 1 of 2 stages has 0.4, 0.1" in (decision.reason or "")


def test_nothing_is_decided_without_enough_past_or_where_nothing_remains() -> None:
    known = past(*(trial(n, "ab", [(0.4, 0.1), (0.4, 0.1)]) for n in range(18)))
    here = trial(20, "ab", [(0.1, 0.4)])
    assert rule(alpha=0.05).decide(here, known) is None
    more = [*known, *past(trial(18, "ab", [(0.4, 0.1), (0.4, 0.1)]))]
    enough = rule(alpha=0.05).decide(here, more)
    assert enough is not None
    assert enough.outcome == "stop"
    assert rule().decide(trial(20, "ab", [(0.1, 0.4), (0.1, 0.4)]), known) is None
    assert rule().decide(trial(20, "ab", [(0.1, 0.4)], baseline="mine"), known) is None
    assert rule().decide(trial(20, "ab", []), known) is None


@pytest.mark.parametrize(
    ("last_gain", "expected"),
    [
        (0.0, "stop"),  # kl .2 against the .1 of its own prefix, and nothing for it
        (0.2, "go on"),  # form .8 against .6
    ],
)
def test_recipe_that_continues_a_scored_one_is_judged_where_its_new_stages_begin(
    last_gain: float, expected: str
) -> None:
    usual = [(0.2, 0.1), (0.3 - last_gain, 0.2), (0.3, 0.3)]
    known = past(*(trial(n, "abc", usual) for n in range(25)))
    shorter = trial(30, "ab", [(0.2, 0.1), (0.6, 0.1)])
    everything = [*known, *past(shorter)]
    doses = (130, 130, 131)
    first, second = (trial(31, "abc", [(0.2, 0.1), (0.6, 0.1)][:n], doses) for n in (1, 2))
    # One with other doses is stopped at the first boundary: its bound (.3, .3) is dominated by trial 30.
    other = rule(alpha=0.05).decide(trial(32, "abc", [(0.2, 0.1)]), everything)
    assert other is not None
    assert (other.outcome, other.bounds) == ("stop", pytest.approx({"form": 0.3, "kl": 0.3}))
    assert rule(alpha=0.05).decide(first, everything) is None
    decision = rule(alpha=0.05).decide(second, everything)
    assert decision is not None
    assert decision.bounds == pytest.approx({"form": 0.6 + last_gain, "kl": 0.2})
    assert decision.outcome == expected
    if expected == "stop":
        assert "trial 30 has 0.6, 0.1" in (decision.reason or "")


def test_trial_with_a_missing_score_is_left_to_itself() -> None:
    known = past(*(trial(n, "ab", [(0.4, 0.1), (0.4, 0.1)]) for n in range(5)))
    here = trial(9, "ab", [(0.1, 0.4)])
    boundary = here.boundaries[0]
    form = boundary.scores[0].model_copy(
        update={"value": None, "status": "missing", "reason": "no reply"}
    )
    blind = boundary.model_copy(update={"scores": (form, boundary.scores[1])})
    assert rule().decide(here.model_copy(update={"boundaries": (blind,)}), known) is None


def test_audited_trials_run_on_and_are_the_share_asked_for() -> None:
    known = past(*(trial(n, "ab", [(0.4, 0.1), (0.4, 0.1)]) for n in (1, 2)))
    here = trial(3, "ab", [(0.3, 0.2)])
    decision = rule(audit_share=1.0).decide(here, known)
    assert decision is not None
    assert decision.outcome == "audit"
    assert (decision.reason or "").startswith("stopped after 1 of 2 stages")
    numbers = [trial(n, "ab", []) for n in range(2000)]
    drawn = [rule(audit_share=0.1).is_audited(each) for each in numbers]
    # 200 expected; four standard deviations are 54
    assert 146 < sum(drawn) < 254
    assert drawn == [rule(audit_share=0.1).is_audited(each) for each in numbers]
    assert drawn != [rule(audit_share=0.1, seed=1).is_audited(each) for each in numbers]


def test_decisions_of_a_whole_trial_are_those_taken_on_the_way() -> None:
    known = past(*(trial(n, "abc", [(0.4, 0.1)] * 3) for n in (1, 2)))
    scores = [(0.5, 0.05), (0.3, 0.2), (0.3, 0.2)]
    ways = [rule().decide(trial(3, "abc", scores[:n]), known) for n in (1, 2)]
    assert list(rule().decisions(trial(3, "abc", scores), known)) == ways
    assert [decision.outcome for decision in ways if decision] == ["go on", "stop"]
