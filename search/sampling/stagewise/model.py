"""What a stage does to a model: learnt from every boundary, chained to predict recipes that nobody has trained.

One Gaussian process per influence and score, from (scores before, counts of influences so far, the stage's values) to
the change of the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.sampling.stagewise.gp import GaussianProcess
from search.sampling.stagewise.tree import Node, Step, Tree

Array = NDArray[np.float64]

MAX_POINTS = 192
"""Points a process learns from; of more, the latest. Its time grows with the square."""
MAX_TUNING_POINTS = 96
"""Points its hyperparameters are tuned on; their time grows with the cube."""
MIN_TUNING_POINTS = 4
"""With fewer, hyperparameters are the prior's."""
SCORE_SCALE, COUNT_SCALE, VALUE_SCALE = 0.6, 0.7, 1.5
"""Weights of scores (in standard deviations), of counts and of values (0 to 1), before length scales are learnt."""


@dataclass(frozen=True)
class Observation:
    """One boundary: scores before a step, the step, scores after it."""

    before: Array
    """Shape (F,)."""
    counts: Array
    """How often each influence ran before, shape (I,)."""
    step: Step
    after: Array
    """Shape (F,)."""
    error: Array | None = None
    """Standard error of the change, shape (F,), where either model was scored on part of its items."""


class StageModel:
    """Predicts the scores after any steps from the scores before them."""

    def __init__(self, tree: Tree) -> None:
        """Start without observations."""
        self._tree = tree
        self._tuned: dict[tuple[str, int, int], Array] = {}
        self._processes: dict[str, list[GaussianProcess]] = {}
        self._centre_F = self._spread_F = self._scale_F = np.empty(0)

    def fit(self, observations: Sequence[Observation]) -> None:
        """Learn from observations, at least one, in the order in which they were made."""
        self._set_units(observations)
        self._processes = {}
        for influence in self._tree.influences:
            if any(each.step.influence == influence for each in observations):
                self._processes[influence] = self._fitted(influence, observations)

    def mean_after(self, before_F: Array, counts_I: Array, step: Step) -> Array:
        """Return the expected scores after one step."""
        mean_1F, _ = self._change(
            step.influence, before_F[None], counts_I[None], self._tree.features(step)[None]
        )
        return np.asarray(before_F + mean_1F[0])

    def sample_after(
        self, before_PSF: Array, counts_PI: Array, steps: Sequence[Step], normal_SF: Array
    ) -> Array:
        """Return sampled scores after one step on each of P paths, shape (P, S, F).

        Args:
            before_PSF: S samples of the scores before.
            counts_PI: How often each influence ran before.
            steps: One per path.
            normal_SF: Standard normal draws. Equal for all paths, so that paths are compared under equal luck.
        """
        after_PSF = before_PSF.copy()
        n_scores = normal_SF.shape[1]
        for influence in self._tree.influences:
            mine = np.array([step.influence == influence for step in steps])
            if not mine.any():
                continue
            features_PV = np.array(
                [self._tree.features(step) for step in steps if step.influence == influence]
            )
            before = before_PSF[mine]
            is_certain = bool((before == before[:, :1]).all())
            if is_certain:
                before = before[:, :1]
            n_each = before.shape[1]
            mean, deviation = self._change(
                influence,
                before.reshape(-1, n_scores),
                np.repeat(counts_PI[mine], n_each, axis=0),
                np.repeat(features_PV, n_each, axis=0),
            )
            shape = (len(before), n_each, n_scores)
            change = mean.reshape(shape) + deviation.reshape(shape) * normal_SF
            after_PSF[mine] = before + change
        return after_PSF

    def _change(
        self, influence: str, before_MF: Array, counts_MI: Array, features_MV: Array
    ) -> tuple[Array, Array]:
        """Return mean and standard deviation of the change of each score, shapes (M, F)."""
        processes = self._processes.get(influence)
        if processes is None:
            return np.zeros_like(before_MF), np.tile(self._scale_F, (len(before_MF), 1))
        inputs_MD = self._inputs(before_MF, counts_MI, features_MV)
        found = [process.predict(inputs_MD) for process in processes]
        mean_MF = np.column_stack([mean for mean, _ in found])
        deviation_MF = np.column_stack([deviation for _, deviation in found])
        return mean_MF * self._scale_F, deviation_MF * self._scale_F

    def _fitted(self, influence: str, observations: Sequence[Observation]) -> list[GaussianProcess]:
        places = [at for at, each in enumerate(observations) if each.step.influence == influence]
        latest = [observations[at] for at in places[-MAX_POINTS:]]
        inputs_ND, changes_NF = self._table(latest)
        noise_NF = self._noise(latest)
        n_tuning = _milestone(len(places))
        processes = []
        for score in range(changes_NF.shape[1]):
            process = GaussianProcess(inputs_ND.shape[1])
            if len(places) >= MIN_TUNING_POINTS:
                # What was seen up to a milestone alone: a resumed study finds the same, whatever came later.
                seen = observations[: places[n_tuning - 1] + 1]
                process.log_parameters = self._tuned_parameters(influence, score, n_tuning, seen)
            process.condition(inputs_ND, changes_NF[:, score], noise_NF[:, score])
            processes.append(process)
        return processes

    def _tuned_parameters(
        self, influence: str, score: int, n_tuning: int, seen: Sequence[Observation]
    ) -> Array:
        """Return log length scales, in the spreads of what was seen by then, and the log noise share."""
        key = (influence, score, n_tuning)
        if key not in self._tuned:
            rows = [each for each in seen if each.step.influence == influence]
            then = StageModel(self._tree)
            then._set_units(seen)
            inputs_ND, changes_NF = then._table(rows[-MAX_TUNING_POINTS:])
            process = GaussianProcess(inputs_ND.shape[1])
            noise_NF = then._noise(rows[-MAX_TUNING_POINTS:])
            process.tune(inputs_ND, changes_NF[:, score], noise_NF[:, score])
            self._tuned[key] = process.log_parameters
        return self._tuned[key]

    def _set_units(self, observations: Sequence[Observation]) -> None:
        before_NF = np.array([each.before for each in observations])
        after_NF = np.array([each.after for each in observations])
        scores_NF = np.vstack([before_NF[:1], after_NF])
        self._centre_F = scores_NF.mean(axis=0)
        self._spread_F = scores_NF.std(axis=0)
        self._spread_F[self._spread_F < 1e-9] = 1.0
        self._scale_F = np.sqrt(((after_NF - before_NF) ** 2).mean(axis=0))
        self._scale_F[self._scale_F < 1e-9] = 1e-3

    def _table(self, rows: Sequence[Observation]) -> tuple[Array, Array]:
        inputs_ND = self._inputs(
            np.array([row.before for row in rows]),
            np.array([row.counts for row in rows]),
            np.array([self._tree.features(row.step) for row in rows]),
        )
        changes_NF = np.array([row.after - row.before for row in rows]) / self._scale_F
        return inputs_ND, changes_NF

    def _noise(self, rows: Sequence[Observation]) -> Array:
        """Return the variance that is known beside the common one, in squared units of the changes, shape (N, F)."""
        none_F = np.zeros_like(self._scale_F)
        errors_NF = np.array([none_F if row.error is None else row.error for row in rows])
        return np.asarray((errors_NF / self._scale_F) ** 2)

    def _inputs(self, before_MF: Array, counts_MI: Array, features_MV: Array) -> Array:
        return np.hstack(
            [
                (before_MF - self._centre_F) / self._spread_F * SCORE_SCALE,
                counts_MI * COUNT_SCALE,
                features_MV * VALUE_SCALE,
            ]
        )


def counts_of(node: Node, influences: Sequence[str]) -> Array:
    """Return how often each influence runs in a node, shape (I,)."""
    names = [step.influence for step in node]
    return np.array([float(names.count(influence)) for influence in influences])


def _milestone(n: int) -> int:
    """Return the largest number up to n at which hyperparameters are tuned: each to 10, then a tenth part more."""
    milestone = min(n, 10)
    while (following := milestone + max(1, milestone // 10)) <= n:
        milestone = following
    return milestone
