"""How two models differ in each score: paired over items, with seeds where fresh ones were trained. No torch.

Where both trials were confirmed, means over their fresh seeds are compared, and intervals know of seeds and items.
Else the searched values are: intervals then come from items, and from how far trainings of one recipe lie apart where
other confirmed trials tell that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from evaluators.scores import Direction, Item, Record, Score
from evaluators.stats.items import paired_difference
from evaluators.stats.terms import ItemTerms, item_terms, linearised
from search.attribution.noise import Effect, corrected_together, with_interval
from search.confirmation.analysis import FreshDifference

Key = tuple[str, bool]
"""Name of a score, and whether it is the holdout's."""


class ScoreDifference(Record):
    """One score of two models."""

    name: str
    """As in `ScoreInfo`."""
    unit: str
    """As in `ScoreInfo`."""
    direction: Direction
    """Which way is better."""
    is_holdout: bool
    """Whether the sampler never saw it."""
    is_objective: bool
    """Whether the study searched for it."""
    a: float | None
    """Value of the first model; None where it is missing."""
    b: float | None
    """Value of the second one."""
    a_stderr: float | None
    """Standard error of `a`."""
    b_stderr: float | None
    """Standard error of `b`."""
    n_seeds: int
    """Fresh seeds of the one that has fewer, the base left out; 0 where the searched values are compared."""
    n_items: int
    """Items, or clusters of them, that the difference is paired over; 0 where it is not paired."""
    difference: Effect | None
    """`b` less `a`, with an interval; None where it could not be taken."""
    reason: str | None = None
    """Why there is no difference, or no interval."""

    @property
    def verdict(self) -> Literal["better", "worse", "no difference seen", "unknown"]:
        """What the second model is shown to be beside the first, after correction."""
        if self.difference is None or self.difference.p is None:
            return "unknown"
        if not self.difference.is_shown:
            return "no difference seen"
        return (
            "better" if (self.difference.value > 0) == (self.direction == "maximise") else "worse"
        )


@dataclass(frozen=True)
class Side:
    """What is known of one model."""

    scores: Mapping[Key, Score]
    """As the search saw them; of the holdout too."""
    items: Mapping[bool, list[Item]]
    """Items of the suite (False) and of the holdout (True)."""
    is_trained: bool
    """False for the base, whose scores do not depend on a seed."""


@dataclass(frozen=True)
class Spreads:
    """How far trainings of one recipe lie apart: score to variance and degrees of freedom."""

    by_score: Mapping[Key, tuple[float, int]] = field(default_factory=dict)


def score_differences(
    first: Side,
    second: Side,
    directions: Mapping[str, Direction],
    fresh: Mapping[Key, FreshDifference],
    spreads: Spreads,
) -> tuple[ScoreDifference, ...]:
    """Return the difference in every score that one of the models has; objectives first, the holdout last.

    Claims are corrected (Holm) among the objectives, among the other scores of the suite, and among the holdout's.

    Args:
        first: The first model.
        second: The second one.
        directions: Objectives, with the direction that the study gives them.
        fresh: Differences over fresh seeds, where both have such.
        spreads: For the others.
    """
    keys = list(dict.fromkeys([*first.scores, *second.scores]))
    order = {name: at for at, name in enumerate(directions)}
    keys.sort(key=lambda key: (key[1], order.get(key[0], len(order))))
    found = [
        _fresh(key, first, second, directions, fresh[key])
        if key in fresh
        else _searched(key, first, second, directions, spreads)
        for key in keys
    ]
    # Objectives were fixed beforehand: what else a suite measures must not hide what was searched for.
    families: dict[tuple[bool, bool], list[tuple[int, Effect]]] = {}
    for at, each in enumerate(found):
        if each.difference is not None:
            family = families.setdefault((each.is_objective, each.is_holdout), [])
            family.append((at, each.difference))
    for members in families.values():
        corrected = corrected_together([effect for _, effect in members])
        for (at, _), effect in zip(members, corrected, strict=True):
            found[at] = found[at].model_copy(update={"difference": effect})
    return tuple(found)


def _fresh(
    key: Key,
    first: Side,
    second: Side,
    directions: Mapping[str, Direction],
    fresh: FreshDifference,
) -> ScoreDifference:
    return _row(
        key,
        first,
        second,
        directions,
        a=fresh.first.value,
        b=fresh.second.value,
        a_stderr=fresh.first.stderr,
        b_stderr=fresh.second.stderr,
        n_seeds=fresh.n_seeds,
        n_items=min(fresh.first.n_items, fresh.second.n_items),
        difference=with_interval(fresh.estimate.value, fresh.estimate.stderr, fresh.estimate.df),
    )


def _searched(
    key: Key, first: Side, second: Side, directions: Mapping[str, Direction], spreads: Spreads
) -> ScoreDifference:
    one, other = first.scores.get(key), second.scores.get(key)
    row = partial(
        _row,
        key,
        first,
        second,
        directions,
        a=one.value if one else None,
        b=other.value if other else None,
        a_stderr=one.stderr if one else None,
        b_stderr=other.stderr if other else None,
    )
    if one is None or other is None or one.value is None or other.value is None:
        reasons = [
            f"{name} has no value: {score.reason if score else 'it was not measured'}"
            for name, score in (("the first", one), ("the second", other))
            if score is None or score.value is None
        ]
        return row(reason="; ".join(reasons))
    terms = [
        item_terms(score, side.items.get(key[1], []))
        for score, side in ((one, first), (other, second))
    ]
    value = other.value - one.value
    items = _paired(terms[0], terms[1])
    n_items = items.n if items else 0
    if items is None:
        stderrs = [score.stderr for score in (one, other)]
        if any(each is None for each in stderrs):
            return row(
                difference=Effect(value=value),
                reason="it has no standard error, so nothing is claimed",
            )
        items = _Items(math.hypot(*(each or 0.0 for each in stderrs)), math.inf, 0)
    if items.stderr <= 0:
        # All items agree, such as 8 of 8 and 8 of 8: with few items that is no proof of equality, nor of a difference.
        items = _Items(math.hypot(one.stderr or 0.0, other.stderr or 0.0), math.inf, n_items)
    variance, df = spreads.by_score.get(key, (0.0, 0))
    seeds = variance * (first.is_trained + second.is_trained) if df else 0.0
    total = items.stderr**2 + seeds
    if total <= 0 and value:
        return row(
            difference=Effect(value=value),
            reason="it has no standard error, so nothing is claimed",
        )
    # Satterthwaite 1946.
    parts = items.stderr**4 / items.df + (seeds**2 / df if df else 0.0)
    freedom = total**2 / parts if parts > 0 else math.inf
    return row(
        n_items=n_items,
        difference=with_interval(value, math.sqrt(total), freedom),
    )


@dataclass(frozen=True)
class _Items:
    stderr: float
    df: float
    n: int


def _paired(first: ItemTerms | None, second: ItemTerms | None) -> _Items | None:
    """Return the standard error of the difference over items that both were asked; None if they cannot be paired."""
    if first is None or second is None or first.clusters != second.clusters:
        return None
    clusters = list(first.clusters.values())
    n = len(set(clusters))
    stderr = paired_difference(
        linearised(second.by_item), linearised(first.by_item), clusters
    ).stderr
    return None if stderr is None or n < 2 else _Items(stderr, n - 1, n)


def _row(
    key: Key,
    first: Side,
    second: Side,
    directions: Mapping[str, Direction],
    *,
    a: float | None,
    b: float | None,
    a_stderr: float | None,
    b_stderr: float | None,
    n_seeds: int = 0,
    n_items: int = 0,
    difference: Effect | None = None,
    reason: str | None = None,
) -> ScoreDifference:
    name, is_holdout = key
    info = first.scores.get(key) or second.scores[key]
    is_objective = not is_holdout and name in directions
    return ScoreDifference(
        name=name,
        unit=info.unit,
        direction=directions[name] if is_objective else info.direction,
        is_holdout=is_holdout,
        is_objective=is_objective,
        a=a,
        b=b,
        a_stderr=a_stderr,
        b_stderr=b_stderr,
        n_seeds=n_seeds,
        n_items=n_items,
        difference=difference,
        reason=reason,
    )
