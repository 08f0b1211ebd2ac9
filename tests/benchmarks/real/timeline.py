"""What a search had found at which second: hypervolume over wall time. Arithmetic alone; no torch, no Ray.

curve = hypervolume_curve(observations, reference_K)
hypervolume_at(curve, 60.0), seconds_to_reach(curve, 0.3)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.front import front_mask, hypervolume
from search.spec import StudySpec

Curve = list[tuple[float, float]]
"""Rises of the hypervolume as (seconds, hypervolume from then on), by time."""


@dataclass(frozen=True)
class Observation:
    """A model that was scored."""

    seconds: float
    """Wall seconds since the search was launched."""
    losses: tuple[float, ...]
    """Objectives, each so that lower is better."""
    recipe: dict[str, Any]
    """The recipe, as JSON."""


@dataclass(frozen=True)
class Goal:
    """The objectives of a study as losses."""

    scores: tuple[str, ...]
    signs: tuple[float, ...]
    """1 where lower is better, -1 where the score is negated."""
    reference: tuple[float, ...]
    """Reference point of the hypervolume, in losses."""

    @classmethod
    def of(cls, spec: StudySpec) -> Goal:
        """Return the objectives of a study.

        Raises:
            SystemExit: The study has constraints, or an objective has no reference point.
        """
        if spec.constraints:
            raise SystemExit(
                f"{spec.name}: constraints are not compared here; make them objectives"
            )
        signs, reference = [], []
        for objective, direction in zip(spec.objectives, spec.directions(), strict=True):
            worst = spec.score_infos[objective.score].worst
            at = worst if objective.reference is None else objective.reference
            if at is None:
                raise SystemExit(f"{spec.name}: objective {objective.score} needs a reference")
            signs.append(1.0 if direction == "minimise" else -1.0)
            reference.append(signs[-1] * at)
        return cls(tuple(each.score for each in spec.objectives), tuple(signs), tuple(reference))

    def losses(self, scores: Mapping[str, float | None]) -> tuple[float, ...] | None:
        """Return scores as losses, or None where one is missing or not finite."""
        values = [scores.get(name) for name in self.scores]
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        return tuple(
            sign * value
            for sign, value in zip(self.signs, values, strict=True)
            if value is not None
        )

    def hypervolume(self, losses: Sequence[tuple[float, ...]]) -> float:
        """Return the hypervolume of some models."""
        return hypervolume(_matrix(losses, len(self.scores)), np.asarray(self.reference))

    def front(self, observations: Sequence[Observation]) -> list[Observation]:
        """Return the observations that no other one dominates and that have hypervolume, equal ones once."""
        inside = [
            each
            for each in observations
            if all(a < b for a, b in zip(each.losses, self.reference, strict=True))
        ]
        mask = front_mask(_matrix([each.losses for each in inside], len(self.scores)))
        chosen = [each for each, is_front in zip(inside, mask, strict=True) if is_front]
        return list({each.losses: each for each in reversed(chosen)}.values())[::-1]


def hypervolume_curve(observations: Sequence[Observation], goal: Goal) -> Curve:
    """Return when the hypervolume of all that was observed rose, and to what."""
    curve: Curve = []
    front: list[tuple[float, ...]] = []
    before = 0.0
    for observation in sorted(observations, key=lambda each: each.seconds):
        now = goal.hypervolume([*front, observation.losses])
        if now > before:
            front.append(observation.losses)
            curve.append((observation.seconds, now))
            before = now
    return curve


def hypervolume_at(curve: Curve, seconds: float) -> float:
    """Return the hypervolume at a time, its own rise included; 0 before the first rise."""
    return max((value for at, value in curve if at <= seconds), default=0.0)


def seconds_to_reach(curve: Curve, target: float) -> float | None:
    """Return the first second at which the hypervolume is at least the target, up to rounding; None if never."""
    return next((at for at, value in curve if value >= target * (1 - 1e-9)), None)


def ratio(part: float | None, whole: float | None) -> float | None:
    """Return a part of a whole; None where either is missing or the whole is 0."""
    return None if part is None or not whole else part / whole


def median_and_range(values: Sequence[float | None]) -> tuple[float, float, float]:
    """Return median, smallest and largest; None is never, and counts as infinite.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")
    known = [math.inf if value is None else value for value in values]
    return statistics.median(known), min(known), max(known)


def _matrix(losses: Sequence[tuple[float, ...]], n_objectives: int) -> NDArray[np.float64]:
    return np.array(losses, dtype=np.float64).reshape(len(losses), n_objectives)
