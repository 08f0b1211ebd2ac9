"""Which models are scored on all items: the optimistic end decides, and rivals were scored on all."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evaluators.scores import Score
from search.records import Boundary, Screening, TrialRecord
from search.sampling.stagewise.gp import GaussianProcess
from search.sampling.told import ToldGoals
from search.spec import ConstraintSpec, ObjectiveSpec, StudySpec
from search.stopping.past import Goals, PastTrial
from search.stopping.rule import StoppingRule
from search.stopping.screening import optimistic_gains
from spaces.recipe import Full, Recipe, Stage

GOALS = Goals(("form", "kl"), (1.0, -1.0), (ConstraintSpec(score="kl", at_most=0.5),))


def spec(**changes: Any) -> StudySpec:
    given = {
        "name": "rule",
        "base": {"path": "model"},
        "sources": {
            "chat": {"path": "c.jsonl", "format": "messages"},
            "ask": {"path": "a.jsonl", "format": "prompt"},
        },
        "influences": {
            "a": {
                "method": "sft",
                "adapter": {"kind": "full"},
                "mix": {"chat": 1.0},
                "dose_tokens": 100,
                "learning_rate": 1e-3,
            }
        },
        "suite": {
            name: {
                "evaluator": "pattern",
                "source": "ask",
                "rules": [{"rule": "contains", "text": "a"}],
            }
            for name in ("form", "kl")
        },
        "objectives": [{"score": "form"}, {"score": "kl", "direction": "minimise"}],
        "constraints": [{"score": "kl", "at_most": 0.5}],
        "budget": {"trials": 4},
        "fidelity": {"items": 0.25},
        "stopping": {"audit_share": 0.0},
    }
    return StudySpec.model_validate_json(json.dumps(given | changes))


def scores(form: float, kl: float, share: float = 1.0, stderr: float | None = 0.1) -> list[Score]:
    n = round(40 * share)
    made = {"n": n, "stderr": stderr, "fidelity": share}
    return [
        Score(name="form", value=form, unit="points", direction="maximise", **made),
        Score(name="kl", value=kl, unit="nats/token", direction="minimise", **made),
    ]


def trial(
    number: int, full: tuple[float, float] | None, screened: list[Score] | None = None
) -> TrialRecord:
    stage = Stage(
        influence="a",
        method="sft",
        adapter=Full(),
        mix={"chat": 1.0},
        dose_tokens=100 + number,
        learning_rate=1e-3,
    )
    boundaries = ()
    if full is not None:
        boundaries = (
            Boundary(n_stages=1, digest=f"{number}", scores=scores(*full), evaluate_seconds=3.0),
        )
    screenings = ()
    if screened is not None:
        screenings = (
            Screening(
                n_stages=1,
                digest=f"{number}",
                scores=screened,
                suite_version="v",
                evaluate_seconds=1.0,
            ),
        )
    return TrialRecord(
        number=number,
        state="RUNNING" if full is None else "COMPLETE",
        params={},
        recipe=Recipe(stages=(stage,)),
        seed=0,
        boundaries=boundaries,
        screenings=screenings,
        started_at="",
    )


def test_the_bound_is_a_one_sided_interval_of_what_the_other_items_may_change() -> None:
    found = optimistic_gains(scores(0.4, 0.3, share=0.25, stderr=0.1), GOALS, alpha=0.06)
    # Three columns share alpha; 10 of 40 items, so 9 degrees of freedom and three quarters of the variance.
    reach = stats.t.ppf(1 - 0.02, 9) * 0.1 * math.sqrt(0.75)
    assert found == pytest.approx([0.4 + reach, -0.3 + reach, 0.2 + reach])


def test_what_was_scored_on_all_items_is_its_own_bound() -> None:
    found = optimistic_gains(scores(0.4, 0.3), GOALS, alpha=0.05)
    assert found == pytest.approx([0.4, -0.3, 0.2])


def test_a_share_never_promises_more_than_all() -> None:
    form, kl = scores(0.95, 0.3, share=0.25, stderr=0.2)
    found = optimistic_gains([form.model_copy(update={"unit": "share"}), kl], GOALS, alpha=0.05)
    assert found is not None
    assert found[0] == pytest.approx(1.0)


def test_the_bound_holds_as_often_as_it_says() -> None:
    """Items of a fixed set of 120, of which 30 are drawn: how often all of them score above the bound in any column."""
    draw = np.random.default_rng(3)
    n_above = 0
    for _ in range(600):
        items_NK = draw.standard_normal((120, 2))
        own_NK = items_NK[draw.permutation(120)[:30]]
        stderr = own_NK.std(axis=0, ddof=1) / math.sqrt(30)
        made = {"n": 30, "fidelity": 0.25, "unit": "points"}
        seen = [
            Score(
                name="form",
                value=own_NK[:, 0].mean(),
                stderr=stderr[0],
                direction="maximise",
                **made,
            ),
            Score(
                name="kl", value=own_NK[:, 1].mean(), stderr=stderr[1], direction="minimise", **made
            ),
        ]
        goals = Goals(("form", "kl"), (1.0, -1.0), ())
        bound = optimistic_gains(seen, goals, alpha=0.1)
        assert bound is not None
        n_above += bool((items_NK.mean(axis=0) * [1, -1] > bound).any())
    # 60 expected of independent columns, four binomial standard deviations are 29.
    assert 31 <= n_above <= 89


@pytest.mark.parametrize("how", ["no standard error", "missing"])
def test_without_a_bound_all_items_are_asked(how: str) -> None:
    form, kl = scores(0.0, 0.9, share=0.25, stderr=None if how == "no standard error" else 0.01)
    if how == "missing":
        gone = {"value": None, "stderr": None, "status": "missing", "reason": "empty"}
        form = form.model_copy(update=gone)
    rival = [PastTrial.of(trial(0, (0.9, 0.1)), GOALS)]
    assert StoppingRule(spec()).decide(trial(1, None, [form, kl]), rival) is None


def test_only_a_model_that_all_items_may_put_on_the_front_is_scored_on_all() -> None:
    rule = StoppingRule(spec())
    rival = [PastTrial.of(trial(0, (0.5, 0.2)), rule.goals)]
    poor = rule.decide(trial(1, None, scores(0.2, 0.4, 0.25, 0.05)), rival)
    assert poor is not None
    assert poor.outcome == "stop"
    assert poor.fidelity == 0.25
    assert poor.reason is not None
    assert poor.reason.startswith("ended on 25 % of the items: cannot reach the front (form <= 0.3")
    assert poor.reason.endswith("trial 0 has 0.5, 0.2)")
    close = rule.decide(trial(1, None, scores(0.45, 0.22, 0.25, 0.05)), rival)
    assert close is not None
    assert close.outcome == "go on"
    alone = rule.decide(trial(1, None, scores(0.2, 0.4, 0.25, 0.05)), [])
    assert alone is not None
    assert alone.outcome == "go on"
    breaks = rule.decide(trial(1, None, scores(0.9, 0.9, 0.25, 0.05)), rival)
    assert breaks is not None
    assert breaks.reason is not None
    assert "keep kl <= 0.5" in breaks.reason


def test_a_model_scored_on_part_of_the_items_rivals_nobody() -> None:
    rule = StoppingRule(spec())
    rival = PastTrial.of(trial(0, None, scores(0.9, 0.1, 0.25)), rule.goals)
    assert rival.screened
    assert not rival.gains
    found = rule.decide(trial(1, None, scores(0.2, 0.4, 0.25, 0.05)), [rival])
    assert found is not None
    assert found.outcome == "go on"


def test_decisions_are_found_again_in_the_finished_record() -> None:
    rule = StoppingRule(spec(stopping={"audit_share": 1.0}))
    rival = [PastTrial.of(trial(0, (0.5, 0.2)), rule.goals)]
    screened = trial(1, None, scores(0.2, 0.4, 0.25, 0.05))
    full = trial(1, (0.21, 0.41), scores(0.2, 0.4, 0.25, 0.05))
    assert [each.outcome for each in rule.decisions(full, rival)] == ["audit"]
    assert rule.decisions(full, rival) == rule.decisions(screened, rival)


def test_models_are_screened_also_where_nothing_else_stops_early() -> None:
    rule = StoppingRule(spec(stopping={"enabled": False, "audit_share": 0.0}))
    rival = [PastTrial.of(trial(0, (0.5, 0.2)), rule.goals)]
    found = rule.decide(trial(1, None, scores(0.2, 0.4, 0.25, 0.05)), rival)
    assert found is not None
    assert found.outcome == "stop"


def test_samplers_hear_of_first_items_with_their_error_and_of_all_items_without() -> None:
    goals = ToldGoals(
        [ObjectiveSpec(score="form"), ObjectiveSpec(score="kl")],
        [ConstraintSpec(score="kl", at_most=0.5)],
        "seconds",
    )
    part = trial(1, None, scores(0.2, 0.4, 0.25, 0.08))
    (told,) = goals.boundaries(part)
    assert told["values"] == [0.2, 0.4]
    assert told["violations"] == {"kl <=": pytest.approx(-0.1)}
    assert told["errors"] == pytest.approx([0.08 * math.sqrt(0.75)] * 3)
    assert told["evaluate_seconds"] == 1.0
    both = trial(1, (0.3, 0.35), scores(0.2, 0.4, 0.25, 0.08))
    (told,) = goals.boundaries(both)
    assert told["values"] == [0.3, 0.35]
    assert "errors" not in told
    assert told["evaluate_seconds"] == 4.0  # the first items, then the others


def test_an_output_with_known_noise_pulls_less_and_leaves_more_doubt() -> None:
    inputs_ND, outputs_N = np.array([[0.0], [1.0]]), np.array([0.0, 2.0])
    process = GaussianProcess(1)
    process.condition(inputs_ND, outputs_N)
    sure, sure_deviation = process.predict(np.array([[1.0]]))
    process.condition(inputs_ND, outputs_N, np.array([0.0, 3.0]))
    unsure, unsure_deviation = process.predict(np.array([[1.0]]))
    assert 0 < unsure[0] < sure[0] < 2
    assert unsure_deviation[0] > sure_deviation[0]
