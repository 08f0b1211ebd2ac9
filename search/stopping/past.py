"""What early stopping learns from: scores as gains, models that were scored, and pairs of boundaries of one trial.

A gain is a score turned so that higher is better; of a constraint it is the distance to its bound, negative outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluators.scores import Score
from search.records import TrialRecord, TrialState
from search.spec import ConstraintSpec, StudySpec
from spaces.recipe import Recipe

Gains = NDArray[np.float64]


@dataclass(frozen=True)
class Goals:
    """The K columns of gains: objectives in the study's order, then constraints."""

    objectives: tuple[str, ...]
    """Names of scores."""
    signs: tuple[float, ...]
    """Per objective, 1 to maximise and -1 to minimise."""
    constraints: tuple[ConstraintSpec, ...]
    """Scores that must stay within a bound."""

    @classmethod
    def of(cls, spec: StudySpec) -> Goals:
        """Return the goals of a study."""
        names = tuple(objective.score for objective in spec.objectives)
        signs = tuple(1.0 if each == "maximise" else -1.0 for each in spec.directions())
        return cls(names, signs, spec.constraints)

    @property
    def n_objectives(self) -> int:
        """How many of the columns are objectives."""
        return len(self.objectives)

    def gains(self, scores: Mapping[str, Score]) -> Gains | None:
        """Return scores as gains, shape (K,); None if one is missing or not finite."""
        found = [
            None if value is None else sign * value
            for sign, value in zip(
                self.signs, (_value(scores, name) for name in self.objectives), strict=True
            )
        ]
        for constraint in self.constraints:
            value = _value(scores, constraint.score)
            found.append(None if value is None else -constraint.violation(value))
        measured = [gain for gain in found if gain is not None and math.isfinite(gain)]
        return np.array(measured, dtype=np.float64) if len(measured) == len(found) else None

    def values(self, gains_K: Gains) -> dict[str, float]:
        """Return gains as scores by name."""
        found = {name: sign * gain for name, sign, gain in self.objective_columns(gains_K)}
        constrained = gains_K[self.n_objectives :].tolist()
        for constraint, gain in zip(self.constraints, constrained, strict=True):
            if constraint.at_most is not None:
                found[constraint.score] = constraint.at_most - gain
            elif constraint.at_least is not None:
                found[constraint.score] = constraint.at_least + gain
        return found

    def objective_columns(self, gains_K: Gains) -> list[tuple[str, float, float]]:
        """Return name, sign and gain of each objective."""
        columns = gains_K[: self.n_objectives].tolist()
        return list(zip(self.objectives, self.signs, columns, strict=True))


@dataclass(frozen=True)
class PastTrial:
    """A trial as its boundaries show it."""

    number: int
    """Number within the study."""
    state: TrialState
    """As in the record."""
    recipe: Recipe
    """The whole recipe, the stages that did not run included."""
    gains: Mapping[int, Gains]
    """Stages done to gains, shape (K,) each; boundaries with a missing score are left out."""
    digests: Mapping[int, str]
    """Stages done to the model's name."""
    rungs: Mapping[tuple[int, float], Gains] = field(default_factory=dict)
    """Stages done and share of the next one to gains, shape (K,), at rungs where all K scores were measured."""
    screened: Mapping[int, Gains] = field(default_factory=dict)
    """Stages done to gains, shape (K,), of models that were scored on their first items alone. They say what stages do,
    and rival nobody."""

    @classmethod
    def of(cls, record: TrialRecord, goals: Goals) -> PastTrial:
        """Return a trial from its record."""
        gains, digests = {}, {}
        for boundary in record.boundaries:
            found = goals.gains({score.name: score for score in boundary.scores})
            if found is not None:
                gains[boundary.n_stages] = found
                digests[boundary.n_stages] = boundary.digest
        screened = {}
        for screening in record.screenings:
            found = goals.gains({score.name: score for score in screening.scores})
            if found is not None and screening.n_stages not in gains:
                screened[screening.n_stages] = found
                digests[screening.n_stages] = screening.digest
        rungs = {}
        for rung in record.rungs:
            found = goals.gains({score.name: score for score in rung.scores})
            if found is not None:
                rungs[rung.n_stages, rung.share] = found
        return cls(record.number, record.state, record.recipe, gains, digests, rungs, screened)

    @cached_property
    def influences(self) -> tuple[str, ...]:
        """Influences of the recipe, first to last."""
        return tuple(stage.influence for stage in self.recipe.stages)

    @cached_property
    def pairs(self) -> tuple[Example, ...]:
        """Every boundary or rung and a later boundary, all with scores, the base left out."""
        scored = sorted(n_stages for n_stages in {*self.gains, *self.screened} if n_stages > 0)
        starts = sorted([*self.rungs, *((n_stages, 0.0) for n_stages in scored)])
        return tuple(
            Example(self, start, end, share)
            for start, share in starts
            for end in scored
            if end > start
        )

    def at(self, n_done: int, share: float = 0.0) -> Gains | None:
        """Return the gains at a boundary, or at a rung inside the next stage, shape (K,); None if there are none."""
        if share:
            return self.rungs.get((n_done, share))
        return self.gains.get(n_done, self.screened.get(n_done))

    def so_far(self, n_done: int, share: float = 0.0) -> Gains:
        """Return the gains after 1 to `n_done` stages, shape (n_done, K), or (n_done + 1, K) with those at a rung.

        NaN where a score is missing.
        """
        here_K = self.at(n_done, share)
        assert here_K is not None
        unknown_K = np.full_like(here_K, np.nan)
        before = [self.at(n) for n in range(1, n_done + (1 if share else 0))]
        return np.array([*(unknown_K if each is None else each for each in before), here_K])


@dataclass(frozen=True)
class Example:
    """Two boundaries of one past trial: what some more stages made of a model. A prefix of a recipe is a recipe.

    The earlier one may be a rung: then it is also what the rest of a stage made of it.
    """

    trial: PastTrial
    """Where it was seen."""
    start: int
    """Stages done at the earlier boundary, at least 1; at a rung those before its stage, at least 0."""
    end: int
    """Stages done at the later one."""
    share: float = 0.0
    """At a rung, how much of the dose of the next stage was done."""

    @cached_property
    def remaining(self) -> tuple[str, ...]:
        """Influences between the two boundaries; the first is half done at a rung."""
        return self.trial.influences[self.start : self.end]

    @property
    def before(self) -> Gains:
        """Gains at the earlier boundary, shape (K,)."""
        here_K = self.trial.at(self.start, self.share)
        assert here_K is not None
        return here_K

    @property
    def after(self) -> Gains:
        """Gains at the later boundary, shape (K,)."""
        there_K = self.trial.at(self.end)
        assert there_K is not None
        return there_K


def examples(past: Iterable[PastTrial]) -> list[Example]:
    """Return all pairs of boundaries, those that several trials share through the stage store once."""
    found: dict[tuple[int, float, str], Example] = {}
    for trial in past:
        for example in trial.pairs:
            # The name of the later model says all that was done before.
            key = example.start, example.share, trial.digests[example.end]
            found.setdefault(key, example)
    return list(found.values())


def alike(
    found: Sequence[Example], remaining: tuple[str, ...], n_least: int, share: float = 0.0
) -> list[Example]:
    """Return examples of the same remaining influences, in the narrowest sense that has `n_least` of them.

    The same in the same order; the same in any order; as many stages. At a rung always with the same share of the first
    one done, and at a boundary with none. Of one trial the latest counts: others of it are not independent. Too few in
    every sense: none.
    """
    senses = (
        lambda names: names == remaining,
        lambda names: sorted(names) == sorted(remaining),
        lambda names: len(names) == len(remaining),
    )
    for is_alike in senses:
        latest = {
            example.trial.number: example
            for example in sorted(found, key=lambda example: example.start)
            if example.share == share and is_alike(example.remaining)
        }
        if len(latest) >= n_least:
            return [latest[number] for number in sorted(latest)]
    return []


def _value(scores: Mapping[str, Score], name: str) -> float | None:
    return scores[name].value if name in scores else None
