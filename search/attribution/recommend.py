"""One trial for a person's wishes: which, why, what was given up for it, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evaluators.scores import Direction, Record
from search.attribution.known import Known, recipe_key
from search.attribution.noise import Effect
from search.attribution.targets import Target
from search.front import front_mask, knee_heights
from search.records import TrialRecord

Array = NDArray[np.float64]
Rule = Literal["weights", "lexicographic", "knee"]

N_REDRAWS = 400
"""How often scores are drawn anew from their noise, to see how often the choice stays the same."""
_Z = 1.96


class Candidate(Record):
    """A trial that might be recommended."""

    trial: int
    """Number of the trial."""
    recipe: str
    """In one line."""
    values: dict[str, float]
    """Score to value."""
    stderrs: dict[str, float | None]
    """Score to standard error."""
    dose_tokens: int
    """Tokens of all its stages: what training it anew with another seed consumes."""


class TargetCheck(Record):
    """How the recommended trial, or the nearest one, keeps one bound."""

    target: Target
    """The bound."""
    value: float
    """The trial's value."""
    shortfall: float
    """How far outside it is; at most 0 when it is kept."""
    is_beyond_noise: bool
    """Whether 1.96 standard errors do not change the answer; False where there is no standard error."""


class GivenUp(Record):
    """An objective in which another trial that keeps all bounds is better."""

    score: str
    """The objective."""
    best: int
    """The trial that is best in it."""
    effect: Effect
    """The recommended trial's score less the best one's."""


class Certainty(Record):
    """How sure the choice is, and what more certainty would take."""

    share: float
    """Of redraws within the scores' noise in which the same trial is chosen."""
    rival: int | None
    """The trial chosen most often otherwise; None if there is none."""
    score: str | None = None
    """The objective in which the two are most nearly told apart."""
    effect: Effect | None = None
    """In that objective, the recommended trial less the rival."""
    item_factor: float | None = None
    """Times the items of that score's evaluator at which this difference would be beyond noise; at most 1: it is."""
    retrain_tokens: int | None = None
    """Tokens of training both once more with another seed."""


class Way(Record):
    """What would have to be given up for all other bounds to be kept."""

    target: Target
    """The bound that stands in the way."""
    trial: int
    """A trial that keeps all others, the least far outside this one."""
    shortfall: float
    """How far that trial is outside it."""


class Recommendation(Record):
    """The answer."""

    rule: Rule
    """How trials that keep all bounds were compared."""
    trial: Candidate | None
    """The recommended one; None where no trial keeps all bounds."""
    is_knee: bool
    """By the rule `knee`: whether there is one; else it is the trial with the least mean distance from the best."""
    nearest: Candidate | None
    """Where none keeps all bounds: the trial least far outside, each bound in units of the range seen."""
    checks: tuple[TargetCheck, ...]
    """The bounds at the recommended or the nearest trial."""
    best_of: dict[str, int]
    """Where none keeps all bounds: target to the trial that comes closest to it alone, constraints kept if possible."""
    ways: tuple[Way, ...]
    """Where none keeps all bounds: bounds of which giving up one alone would do."""
    given_up: tuple[GivenUp, ...]
    """Objectives in which another one is better."""
    certainty: Certainty | None
    """None where nothing is recommended."""
    n_candidates: int
    """Completed trials with all scores that are asked for."""
    n_within: int
    """Of them, those that keep all bounds."""
    weights: dict[str, float]
    """By the rule `weights`."""
    priorities: tuple[str, ...]
    """By the rule `lexicographic`, the most important first."""


def recommend(
    known: Known,
    trials: Sequence[TrialRecord],
    objectives: dict[str, Direction],
    targets: Sequence[Target],
    weights: dict[str, float] | None = None,
    priorities: Sequence[str] = (),
    seed: int = 0,
) -> Recommendation:
    """Return the trial that fits best.

    Args:
        known: Scores with their noise.
        trials: Completed ones.
        objectives: Score to direction.
        targets: Bounds, the study's constraints among them.
        weights: Objective to weight; the sum of weighted losses, scaled by the front, decides.
        priorities: Scores, the most important first: a later one decides only among those that noise does not tell from
            the best in all earlier ones. Without weights and priorities, the knee.
        seed: Of the redraws.
    """
    names = list(dict.fromkeys([*objectives, *(t.score for t in targets), *priorities]))
    found = [_candidate(known, trial, names) for trial in trials]
    candidates = [candidate for candidate in found if candidate is not None]
    rule: Rule = "weights" if weights else "lexicographic" if priorities else "knee"
    chooser = _Chooser(
        candidates, names, objectives, known.directions, targets, weights, priorities
    )
    values_NS = chooser.values()
    chosen = chooser.choose(values_NS)
    is_knee = chooser.has_knee
    inside = [at for at in range(len(candidates)) if chooser.is_inside(values_NS)[at]]
    trial = candidates[chosen] if chosen is not None else None
    nearest = None if trial or not candidates else candidates[chooser.nearest(values_NS)]
    shown = trial or nearest
    by_number = {each.number: recipe_key(each.recipe) for each in trials}

    def difference(one: Candidate, other: Candidate, name: str) -> Effect | None:
        return known.difference(by_number[one.trial], by_number[other.trial], name)

    return Recommendation(
        rule=rule,
        trial=trial,
        is_knee=is_knee,
        nearest=nearest,
        checks=tuple(_check(shown, target) for target in targets) if shown else (),
        best_of={} if trial else _best_of(candidates, targets),
        ways=() if trial else tuple(_ways(candidates, targets)),
        given_up=tuple(_given_up(trial, [candidates[at] for at in inside], objectives, difference))
        if trial
        else (),
        certainty=_certainty(chooser, trial, difference, list(objectives), seed) if trial else None,
        n_candidates=len(candidates),
        n_within=len(inside),
        weights=weights or {},
        priorities=tuple(priorities),
    )


class _Chooser:
    """Applies the rule to given values, measured or drawn."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        names: Sequence[str],
        objectives: dict[str, Direction],
        directions: dict[str, Direction],
        targets: Sequence[Target],
        weights: dict[str, float] | None,
        priorities: Sequence[str],
    ) -> None:
        self.candidates, self.names = candidates, list(names)
        self._signs = {
            name: 1.0 if {**directions, **objectives}[name] == "minimise" else -1.0
            for name in names
        }
        self._objectives, self._targets = list(objectives), targets
        self._weights, self._priorities = weights, priorities
        self.has_knee = False
        """Whether the last choice by the rule `knee` is one."""
        # Fixed by the measured scores: drawn anew, a range as narrow as noise would make much of nothing.
        self._ideal_K, self._span_K = np.zeros(len(objectives)), np.ones(len(objectives))
        inside_N = self.is_inside(self.values())
        if inside_N.any():
            losses_NK = self._losses(self.values()[inside_N])
            front_NK = losses_NK[front_mask(losses_NK)]
            self._ideal_K, span_K = front_NK.min(axis=0), np.ptp(front_NK, axis=0)
            self._span_K = np.where(span_K > 0, span_K, 1.0)

    def values(self) -> Array:
        """Return the measured values, candidates x names."""
        return np.array([[c.values[n] for n in self.names] for c in self.candidates]).reshape(
            len(self.candidates), len(self.names)
        )

    def errors(self) -> Array:
        """Return standard errors; 0 where there are none."""
        return np.array([[c.stderrs[n] or 0.0 for n in self.names] for c in self.candidates])

    def is_inside(self, values_NS: Array) -> NDArray[np.bool_]:
        """Return which candidates keep all bounds."""
        inside_N = np.ones(len(values_NS), dtype=np.bool_)
        for target in self._targets:
            column_N = values_NS[:, self.names.index(target.score)]
            inside_N &= (
                (column_N >= target.value) if target.bound == ">=" else (column_N <= target.value)
            )
        return inside_N

    def nearest(self, values_NS: Array) -> int:
        """Return the candidate whose worst shortfall is least, each in units of the range of its score."""
        worst_N = np.zeros(len(values_NS))
        for target in self._targets:
            column_N = values_NS[:, self.names.index(target.score)]
            short_N = target.value - column_N if target.bound == ">=" else column_N - target.value
            worst_N = np.maximum(worst_N, short_N / (np.ptp(column_N) or 1.0))
        return int(np.argmin(worst_N))

    def choose(self, values_NS: Array) -> int | None:
        """Return the candidate that the rule takes of those that keep all bounds; None if none does."""
        inside_N = np.flatnonzero(self.is_inside(values_NS))
        self.has_knee = False
        if not len(inside_N):
            return None
        if self._priorities:
            return self._lexicographic(values_NS, inside_N)
        losses_NK = self._losses(values_NS[inside_N])
        scaled_NK = (losses_NK - self._ideal_K) / self._span_K
        if self._weights:
            weights_K = np.array([self._weights.get(n, 0.0) for n in self._objectives])
            return int(inside_N[np.argmin(scaled_NK @ weights_K)])
        front_N = front_mask(losses_NK)
        heights_N = np.where(front_N, knee_heights(losses_NK), -np.inf)
        # Rounding must not make a knee of an extreme, which lies in the plane itself.
        if losses_NK.shape[1] > 1 and heights_N.max() > 1e-9:
            self.has_knee = True
            return int(inside_N[np.argmax(heights_N)])
        return int(inside_N[np.argmin(np.where(front_N, scaled_NK.mean(axis=1), np.inf))])

    def _losses(self, values_NS: Array) -> Array:
        return np.column_stack(
            [self._signs[n] * values_NS[:, self.names.index(n)] for n in self._objectives]
        )

    def _lexicographic(self, values_NS: Array, inside_N: NDArray[np.intp]) -> int:
        left, errors_NS = inside_N, self.errors()
        for name in self._priorities:
            at = self.names.index(name)
            losses = self._signs[name] * values_NS[left, at]
            best = int(np.argmin(losses))
            noise = _Z * np.hypot(errors_NS[left, at], errors_NS[left[best], at])
            order = np.argsort(losses, kind="stable")
            left = left[order][(losses - losses[best] <= noise)[order]]
        return int(left[0])


def _candidate(known: Known, trial: TrialRecord, names: Sequence[str]) -> Candidate | None:
    key = recipe_key(trial.recipe)
    values, stderrs = {}, {}
    for name in names:
        estimate = known.estimate(key, name)
        if estimate is None:
            return None
        values[name] = estimate.value
        variance = estimate.item_variance
        stderrs[name] = None if variance is None else math.sqrt(variance + estimate.seed_variance)
    return Candidate(
        trial=trial.number,
        recipe=trial.recipe.label(),
        values=values,
        stderrs=stderrs,
        dose_tokens=sum(stage.dose_tokens for stage in trial.recipe.stages),
    )


def _check(candidate: Candidate, target: Target) -> TargetCheck:
    value, stderr = candidate.values[target.score], candidate.stderrs[target.score]
    short = target.shortfall(value)
    return TargetCheck(
        target=target,
        value=value,
        shortfall=short,
        is_beyond_noise=stderr is not None and abs(short) > _Z * stderr,
    )


def _keeps(candidate: Candidate, targets: Sequence[Target]) -> bool:
    return all(target.shortfall(candidate.values[target.score]) <= 0 for target in targets)


def _best_of(candidates: Sequence[Candidate], targets: Sequence[Target]) -> dict[str, int]:
    constraints = [target for target in targets if target.is_constraint]
    allowed = [c for c in candidates if _keeps(c, constraints)] or list(candidates)
    return {
        target.text: min(allowed, key=lambda c: target.shortfall(c.values[target.score])).trial
        for target in targets
        if not target.is_constraint and allowed
    }


def _ways(candidates: Sequence[Candidate], targets: Sequence[Target]) -> list[Way]:
    ways = []
    for target in targets:
        others = [other for other in targets if other is not target]
        kept = [candidate for candidate in candidates if _keeps(candidate, others)]
        if kept:
            best = min(kept, key=lambda c: target.shortfall(c.values[target.score]))
            short = target.shortfall(best.values[target.score])
            ways.append(Way(target=target, trial=best.trial, shortfall=short))
    return ways


Difference = Callable[[Candidate, Candidate, str], Effect | None]


def _given_up(
    trial: Candidate,
    within: Sequence[Candidate],
    objectives: dict[str, Direction],
    difference: Difference,
) -> list[GivenUp]:
    found = []
    for name, direction in objectives.items():
        sign = 1.0 if direction == "minimise" else -1.0
        best = min(within, key=lambda c: (sign * c.values[name], c.trial))
        change = difference(trial, best, name)
        if sign * (trial.values[name] - best.values[name]) > 0 and change is not None:
            found.append(GivenUp(score=name, best=best.trial, effect=change))
    return found


def _certainty(
    chooser: _Chooser, trial: Candidate, difference: Difference, objectives: list[str], seed: int
) -> Certainty:
    generator = np.random.default_rng(seed)
    values_NS, errors_NS = chooser.values(), chooser.errors()
    counts: dict[int, int] = {}
    for _ in range(N_REDRAWS):
        chosen = chooser.choose(values_NS + errors_NS * generator.standard_normal(values_NS.shape))
        if chosen is not None:
            number = chooser.candidates[chosen].trial
            counts[number] = counts.get(number, 0) + 1
    share = counts.pop(trial.trial, 0) / N_REDRAWS
    if not counts:
        return Certainty(share=share, rival=None)
    number = max(counts, key=lambda each: (counts[each], -each))
    rival = next(c for c in chooser.candidates if c.trial == number)
    gaps = []
    for name in objectives:
        change = difference(trial, rival, name)
        if change is not None and change.stderr is not None and change.value:
            gaps.append(((_Z * change.stderr / change.value) ** 2, name, change))
    factor, score, effect = min(gaps, key=lambda gap: gap[0]) if gaps else (None, None, None)
    return Certainty(
        share=share,
        rival=number,
        score=score,
        effect=effect,
        item_factor=factor,
        retrain_tokens=trial.dose_tokens + rival.dose_tokens,
    )
