"""Several routes to one place: recipes that score alike and are made differently."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from evaluators.scores import Record, Score
from search.attribution.known import Known, recipe_key
from search.attribution.noise import Effect
from search.records import TrialRecord
from spaces.recipe import Merge, Parallel, Recipe, Stage

_FAR_DOSE = 10.0
"""Doses that differ by this factor are as far apart as can be."""


class Distance(Record):
    """How differently two recipes are made; each part is 0 (alike) to 1."""

    influences: float
    """Influences that only one of them has, as a share of all, repeats counted (Jaccard)."""
    order: float
    """Pairs of common influences that run the other way round, as a share (Kendall)."""
    doses: float
    """Mean over common influences of the logarithm of the ratio of doses; a factor of ten is 1."""
    places: float
    """Mean over common influences of what differs of adapter kind, modules and layers."""

    @property
    def total(self) -> float:
        """One number in 0 to 1: what is not common counts whole, the rest by the mean of its three parts."""
        common = 1 - self.influences
        return self.influences + common * (self.order + self.doses + self.places) / 3


class Route(Record):
    """One trial among those that score alike."""

    trial: int
    """Number of the trial."""
    recipe: str
    """In one line."""
    scores: tuple[Score, ...]
    """Of the suite."""
    holdout: tuple[Score, ...]
    """Of the holdout; empty where it was not run."""
    dose_tokens: int
    """Tokens of all its stages, whoever trained them."""
    train_seconds: float
    """Seconds of all its stages, whoever trained them."""
    differences: dict[str, Effect]
    """Chosen score to this trial's less the first route's; empty for the first."""
    distance: Distance | None
    """From the nearest of the routes before it; None for the first."""


class Routes(Record):
    """Routes that are equal within margins, the given one first."""

    margins: dict[str, float]
    """Chosen score to what counts as equal, in its unit."""
    n_candidates: int
    """Trials looked at."""
    n_equivalent: int
    """Trials that are shown to score alike with the first, itself included."""
    n_undecided: int
    """Trials whose differences are within the margins, but noise may hide larger ones."""
    routes: tuple[Route, ...]
    """The first one, then each the farthest from those before it."""


def recipe_distance(one: Recipe, other: Recipe) -> Distance:
    """Return how differently two recipes are made; two empty ones are alike."""
    counts = Counter(s.influence for s in one.stages), Counter(s.influence for s in other.stages)
    union = (counts[0] | counts[1]).total()
    shared = sorted(counts[0] & counts[1])
    firsts = [_firsts(one), _firsts(other)]
    turned = [
        (firsts[0][a] < firsts[0][b]) != (firsts[1][a] < firsts[1][b])
        for a, b in combinations(shared, 2)
    ]
    doses = [
        min(1.0, abs(math.log(_dose(one, name) / _dose(other, name))) / math.log(_FAR_DOSE))
        for name in shared
    ]
    places = [
        _place_distance(one.stages[firsts[0][name]], other.stages[firsts[1][name]])
        for name in shared
    ]
    return Distance(
        influences=1 - (counts[0] & counts[1]).total() / union if union else 0.0,
        order=_mean([float(each) for each in turned]),
        doses=_mean(doses),
        places=_mean(places),
    )


def find_routes(
    known: Known,
    candidates: Sequence[TrialRecord],
    first: TrialRecord,
    margins: dict[str, float],
    n_routes: int,
) -> Routes:
    """Return trials that score like `first` and like each other, as differently made as there are.

    Scores are alike if two one-sided tests at 5 % both refuse a difference as large as the margin, for every chosen
    score (an intersection-union test needs no correction: Berger 1982). Each route is the farthest from the nearest of
    those before it (Gonzalez 1985).

    Args:
        known: Scores with their noise.
        candidates: Trials to choose from.
        first: One of them.
        margins: Chosen score to margin.
        n_routes: Most routes.
    """
    keys = {trial.number: recipe_key(trial.recipe) for trial in (*candidates, first)}

    def differences(trial: TrialRecord, other: TrialRecord) -> dict[str, Effect]:
        found = {s: known.difference(keys[trial.number], keys[other.number], s) for s in margins}
        return {name: each for name, each in found.items() if each is not None}

    def is_alike(trial: TrialRecord, other: TrialRecord) -> bool:
        found = differences(trial, other)
        return all(s in found and found[s].is_within(margin) for s, margin in margins.items())

    others = [trial for trial in candidates if keys[trial.number] != keys[first.number]]
    alike = [trial for trial in others if is_alike(trial, first)]
    near = [
        trial
        for trial in others
        if trial not in alike
        and all(
            name in found and abs(found[name].value) < margin
            for found in [differences(trial, first)]
            for name, margin in margins.items()
        )
    ]
    picked: list[tuple[TrialRecord, Distance | None]] = [(first, None)]
    left = alike
    while left and len(picked) < n_routes:
        left = [trial for trial in left if all(is_alike(trial, route) for route, _ in picked[1:])]
        if not left:
            break
        nearest = {
            trial.number: min(
                (recipe_distance(trial.recipe, route.recipe) for route, _ in picked),
                key=lambda distance: distance.total,
            )
            for trial in left
        }
        farthest = max(left, key=lambda trial: (nearest[trial.number].total, -trial.number))
        picked.append((farthest, nearest[farthest.number]))
        left = [trial for trial in left if trial.number != farthest.number]
    return Routes(
        margins=margins,
        n_candidates=len({keys[trial.number] for trial in candidates}),
        n_equivalent=1 + len(alike),
        n_undecided=len(near),
        routes=tuple(
            _route(trial, differences(trial, first) if distance else {}, distance)
            for trial, distance in picked
        ),
    )


def _route(trial: TrialRecord, differences: dict[str, Effect], distance: Distance | None) -> Route:
    last = trial.boundaries[-1]
    return Route(
        trial=trial.number,
        recipe=trial.recipe.label(),
        scores=last.scores,
        holdout=last.holdout,
        dose_tokens=sum(stage.dose_tokens for stage in trial.recipe.stages),
        train_seconds=sum(stage.train_seconds + stage.setup_seconds for stage in trial.stages),
        differences=differences,
        distance=distance,
    )


def _firsts(recipe: Recipe) -> dict[str, int]:
    found: dict[str, int] = {}
    for at, stage in enumerate(recipe.stages):
        found.setdefault(stage.influence, at)
    return found


def _dose(recipe: Recipe, influence: str) -> int:
    # A merge trains nothing.
    return max(1, sum(s.dose_tokens for s in recipe.stages if s.influence == influence))


def _place_distance(one: Stage | Parallel | Merge, other: Stage | Parallel | Merge) -> float:
    fields = ("kind", "targets", "layers")
    differ = [
        [getattr(part.adapter, field) for part in one.trainings]
        != [getattr(part.adapter, field) for part in other.trainings]
        for field in fields
    ]
    return sum(differ) / len(fields)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
