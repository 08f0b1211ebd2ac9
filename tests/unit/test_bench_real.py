"""The comparison with a plain script: what is found by when, and how much sooner. Expectations by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from benchmarks.real import timeline
from benchmarks.real.timeline import Goal, Observation

from search.yaml_file import load_study

SMALL = Path(timeline.__file__).parent / "small.yaml"
REPLAY = SMALL.parents[1] / "replay" / "study.yaml"
GOAL = Goal(scores=("kind", "cost"), signs=(-1.0, 1.0), reference=(0.0, 4.0))
"""More kindness than 0, less cost than 4."""


def seen(seconds: float, kind: float, cost: float) -> Observation:
    losses = GOAL.losses({"kind": kind, "cost": cost, "unasked": None})
    assert losses is not None
    return Observation(seconds, losses, {"kind": kind})


# Areas up to (0, 4): (2, 3) gives 2 * 1, (1, 1) gives 1 * 3, both give 2 + 3 - 1 * 1.
SEARCH = [seen(30.0, 1.0, 1.0), seen(10.0, 2.0, 3.0), seen(20.0, 1.0, 3.5), seen(40.0, 3.0, 5.0)]


def test_the_curve_rises_when_something_new_is_found_and_in_order_of_time() -> None:
    # At 20 s a dominated model, at 40 s one beyond the reference.
    assert timeline.hypervolume_curve(SEARCH, GOAL) == [(10.0, 2.0), (30.0, 4.0)]


def test_a_search_that_found_nothing_has_no_curve_and_no_hypervolume() -> None:
    curve = timeline.hypervolume_curve([seen(1.0, 0.0, 1.0)], GOAL)
    assert curve == []
    assert timeline.hypervolume_at(curve, 100.0) == 0.0
    assert timeline.seconds_to_reach(curve, 0.1) is None


def test_hypervolume_at_a_time_counts_what_was_scored_at_that_very_second() -> None:
    curve = timeline.hypervolume_curve(SEARCH, GOAL)
    at = [timeline.hypervolume_at(curve, seconds) for seconds in (9.9, 10.0, 29.9, 30.0, 99.0)]
    assert at == [0.0, 2.0, 2.0, 4.0, 4.0]


def test_a_target_is_reached_at_the_first_rise_that_is_not_below_it() -> None:
    curve = timeline.hypervolume_curve(SEARCH, GOAL)
    assert timeline.seconds_to_reach(curve, 2.0) == 10.0
    assert timeline.seconds_to_reach(curve, 2.1) == 30.0
    assert timeline.seconds_to_reach(curve, 4.0 * (1 + 1e-12)) == 30.0  # equal up to rounding
    assert timeline.seconds_to_reach(curve, 4.1) is None


def test_a_search_takes_its_own_final_hypervolume_until_its_last_rise() -> None:
    curve = timeline.hypervolume_curve(SEARCH, GOAL)
    final = timeline.hypervolume_at(curve, math.inf)
    assert timeline.seconds_to_reach(curve, final) == 30.0


def test_what_is_maximised_becomes_a_negative_loss_and_what_was_not_measured_none() -> None:
    assert GOAL.losses({"kind": 2.0, "cost": 3.0}) == (-2.0, 3.0)
    assert GOAL.losses({"kind": None, "cost": 3.0}) is None
    assert GOAL.losses({"cost": 3.0}) is None
    assert GOAL.losses({"kind": math.nan, "cost": 3.0}) is None


def test_the_front_has_what_counts_for_the_hypervolume_and_equal_models_once() -> None:
    twin = seen(50.0, 2.0, 3.0)
    front = GOAL.front([*SEARCH, twin])
    assert [each.losses for each in front] == [(-1.0, 1.0), (-2.0, 3.0)]
    assert front[1].seconds == 10.0  # the first of the twins
    assert GOAL.front([seen(1.0, -1.0, 1.0)]) == []


def test_a_ratio_without_a_numerator_or_a_whole_is_missing() -> None:
    assert timeline.ratio(3.0, 12.0) == 0.25
    assert timeline.ratio(0.0, 12.0) == 0.0
    assert timeline.ratio(None, 12.0) is None
    assert timeline.ratio(3.0, 0.0) is None
    assert timeline.ratio(3.0, None) is None


def test_never_counts_as_longer_than_any_time() -> None:
    assert timeline.median_and_range([0.3, None, 0.1]) == (0.3, 0.1, math.inf)
    assert timeline.median_and_range([None, None, 0.1]) == (math.inf, 0.1, math.inf)
    assert timeline.median_and_range([0.2, 0.4]) == (pytest.approx(0.3), 0.2, 0.4)
    with pytest.raises(ValueError, match="no values"):
        timeline.median_and_range([])


def test_the_small_study_has_the_replay_tables_objectives_and_its_suite() -> None:
    small, replay = load_study(SMALL), load_study(REPLAY)
    goal = Goal.of(small)
    assert goal.scores == ("structure", "taste.margin", "retention.bits_per_byte_change")
    assert goal.signs == (-1.0, -1.0, 1.0)
    assert goal.reference == (0.0, 0.0, 1.0)
    assert (small.suite, small.objectives) == (replay.suite, replay.objectives)
    assert list(small.influences) == list(replay.influences)


def test_a_study_with_constraints_is_refused() -> None:
    spec = load_study(SMALL)
    bound = {"score": "tone", "at_least": 0.5}
    spec = type(spec).model_validate({**spec.model_dump(), "constraints": (bound,)})
    with pytest.raises(SystemExit, match="real_small: constraints"):
        Goal.of(spec)
