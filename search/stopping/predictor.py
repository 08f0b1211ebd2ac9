"""What the scores of a recipe's last model will be, seen from a boundary. Anything that can `predict` may stand in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from search.stopping.past import Example, Gains, alike
from spaces.recipe import AnyStage, Recipe

N_LEAST = 5
"""Examples that a mean gain rests on at least; with fewer, the next wider sense of `alike` is taken."""
N_LINEAR = 8
"""Examples of one sequence that a regression rests on at least."""
RIDGE = 1.0
"""Penalty on standardised slopes: as strong as one further example that says there are none."""


class Predictor(Protocol):
    """Says how a recipe will end."""

    def predict(self, recipe: Recipe, n_done: int, gains_MK: Gains, share: float = 0.0) -> Gains:
        """Return the expected gains of the recipe's last model, shape (K,).

        Args:
            recipe: The whole recipe.
            n_done: Stages done, at least 1; at a rung those before its stage, at least 0.
            gains_MK: Gains at the boundaries after 1 to `n_done` stages, and at the rung if the model is at one; the
                last row is where the model is now. A boundary with a missing score is NaN, the last row never is.
            share: At a rung, how much of the dose of the next stage is done.
        """
        ...


Fit = Callable[[Sequence[Example]], Predictor]
"""Learns a predictor from examples. It is called with parts of the past too, to see how it does on the rest."""


class MeanGain:
    """Scores stay, plus what the same remaining influences changed in the mean; nothing where too few are known."""

    def __init__(self, found: Sequence[Example]) -> None:
        """Learn from examples."""
        self._found = found

    def predict(self, recipe: Recipe, n_done: int, gains_MK: Gains, share: float = 0.0) -> Gains:
        """Return the expected gains of the recipe's last model, shape (K,)."""
        remaining = tuple(stage.influence for stage in recipe.stages[n_done:])
        kind = alike(self._found, remaining, N_LEAST, share)
        if not kind:
            return np.asarray(gains_MK[-1])
        change_K = np.mean([example.after - example.before for example in kind], axis=0)
        return np.asarray(gains_MK[-1] + change_K)


class LinearGain:
    """The same, plus what doses, rates, ranks and scores so far add to it: a ridge regression per sequence."""

    def __init__(self, found: Sequence[Example]) -> None:
        """Learn from examples; a sequence is looked at when it is first asked for."""
        self._found = found
        self._lines: dict[tuple[tuple[str, ...], float], _Line | None] = {}

    def predict(self, recipe: Recipe, n_done: int, gains_MK: Gains, share: float = 0.0) -> Gains:
        """Return the expected gains of the recipe's last model, shape (K,)."""
        stages = recipe.stages[n_done:]
        remaining = tuple(stage.influence for stage in stages)
        if (remaining, share) not in self._lines:
            kind = [
                example
                for example in self._found
                if example.remaining == remaining and example.share == share
            ]
            self._lines[remaining, share] = _Line(kind) if len(kind) >= N_LINEAR else None
        line = self._lines[remaining, share]
        if line is None:
            return MeanGain(self._found).predict(recipe, n_done, gains_MK, share)
        return np.asarray(gains_MK[-1] + line.change(stages, gains_MK[-1]))


class _Line:
    """Ridge regression of changes on standardised features."""

    def __init__(self, kind: Sequence[Example]) -> None:
        features_NF = np.array(
            [_features(e.trial.recipe.stages[e.start : e.end], e.before) for e in kind]
        )
        changes_NK = np.array([example.after - example.before for example in kind])
        self._middle_F = features_NF.mean(axis=0)
        spread_F = features_NF.std(axis=0)
        self._spread_F = np.where(spread_F > 1e-9, spread_F, 1.0)
        self._mean_K = changes_NK.mean(axis=0)
        scaled_NF = (features_NF - self._middle_F) / self._spread_F
        gram_FF = scaled_NF.T @ scaled_NF + RIDGE * np.eye(scaled_NF.shape[1])
        self._slopes_FK = np.linalg.solve(gram_FF, scaled_NF.T @ (changes_NK - self._mean_K))

    def change(self, stages: Sequence[AnyStage], before_K: Gains) -> Gains:
        """Return the expected change, shape (K,)."""
        scaled_F = (_features(stages, before_K) - self._middle_F) / self._spread_F
        return np.asarray(self._mean_K + scaled_F @ self._slopes_FK)


def _features(stages: Sequence[AnyStage], before_K: Gains) -> Gains:
    """Return what a change depends on, shape (F,): per stage logs of dose, rate, their product and rank; then gains.

    Of a stage that combines models, those of what its branches train, in the mean.
    """
    found: list[float] = []
    for stage in stages:
        logs = [
            (
                math.log(each.dose_tokens),
                math.log(each.learning_rate),
                math.log(getattr(each.adapter, "rank", 1)),
            )
            for each in stage.trainings
        ]
        dose, rate, rank = np.mean(logs, axis=0) if logs else (0.0, 0.0, 0.0)
        found += [float(dose), float(rate), float(dose * rate), float(rank)]
    return np.array([*found, *before_K.tolist()])
