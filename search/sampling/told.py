"""What a sampler is told of a trial: its objectives, its constraints, and what the prefixes of its recipe scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from evaluators.scores import Score
from search.records import Boundary, Screening, TrialRecord
from search.sampling.stagewise.past import as_boundary
from search.spec import ConstraintSpec, ObjectiveSpec


class ToldGoals:
    """Scores that a study aims at, as samplers hear of them."""

    def __init__(
        self,
        objectives: Sequence[ObjectiveSpec],
        constraints: Sequence[ConstraintSpec],
        cost: Literal["seconds", "tokens"],
    ) -> None:
        """Take what counts.

        Args:
            objectives: Scores to improve, in the study's order.
            constraints: Scores to keep within bounds.
            cost: With `tokens` no seconds are told.
        """
        self._objectives = [objective.score for objective in objectives]
        self._constraints = constraints
        self._is_timed = cost == "seconds"

    def missing(self, scores: Mapping[str, Score]) -> str | None:
        """Return why an objective or constraint cannot be told, or None if all are finite numbers."""
        constrained = (each.score for each in self._constraints)
        return missing_reason(scores, (*self._objectives, *constrained))

    def values(self, scores: Mapping[str, Score]) -> tuple[list[float], dict[str, float]]:
        """Return objective values, and violations of constraints by name; none may be missing."""
        found = [scores[name].value for name in self._objectives]
        violations = {}
        for constraint in self._constraints:
            value = scores[constraint.score].value
            assert value is not None
            violations[_violation_name(constraint)] = constraint.violation(value)
        return [value for value in found if value is not None], violations

    def boundaries(self, record: TrialRecord) -> list[dict[str, Any]]:
        """Return what the prefixes of a trial's recipe scored and cost, as our own sampler reads it.

        Scores on the first items alone come with their standard errors. Optuna's samplers never hear of those.
        """
        screenings = {each.n_stages: each for each in record.screenings}
        points: dict[int, Boundary | Screening] = {
            **screenings,
            **{each.n_stages: each for each in record.boundaries},
        }
        found = []
        for n_stages in sorted(points):
            point = points[n_stages]
            scores = {score.name: score for score in point.scores}
            if self.missing(scores) is not None:
                continue
            is_in_part = isinstance(point, Screening)
            # Of a model that was screened first the rest alone is measured at the boundary.
            before = (
                0.0
                if is_in_part or n_stages not in screenings
                else (screenings[n_stages].evaluate_seconds)
            )
            is_scored = self._is_timed and not point.is_stored
            found.append(
                as_boundary(
                    n_stages,
                    *self.values(scores),
                    self._train_seconds(record, n_stages),
                    point.evaluate_seconds + before if is_scored else None,
                    self._errors(scores) if is_in_part else None,
                )
            )
        return found

    def _train_seconds(self, record: TrialRecord, n_stages: int) -> float | None:
        stage = record.stages[n_stages - 1] if 0 < n_stages <= len(record.stages) else None
        if stage is None or not stage.is_timed or not self._is_timed:
            return None
        return stage.train_seconds + stage.setup_seconds

    def _errors(self, scores: Mapping[str, Score]) -> list[float]:
        constraints = sorted(self._constraints, key=_violation_name)
        return [
            _error(scores[name])
            for name in (*self._objectives, *(each.score for each in constraints))
        ]


def _violation_name(constraint: ConstraintSpec) -> str:
    return f"{constraint.score} {'<=' if constraint.at_most is not None else '>='}"


def _error(score: Score) -> float:
    """Return the standard error between a score on its first items and on all.

    See `search.stopping.screening.optimistic_gains`.
    """
    return (score.stderr or 0.0) * math.sqrt(1 - score.fidelity)


def missing_reason(scores: Mapping[str, Score], names: Sequence[str]) -> str | None:
    """Return why one of the named scores cannot be told, or None if all are finite numbers."""
    for name in names:
        score = scores.get(name)
        if score is None:
            return f"{name}: not measured"
        if score.value is None:
            return f"{name}: missing: {score.reason}"
        if not math.isfinite(score.value):
            return f"{name}: not finite"
    return None
