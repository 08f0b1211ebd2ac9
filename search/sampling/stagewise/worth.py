"""What paths are worth: expected gain in hypervolume per cost, with the model rolled along each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.sampling.stagewise.gain import OpenVolume
from search.sampling.stagewise.model import StageModel, counts_of
from search.sampling.stagewise.past import Past
from search.sampling.stagewise.tree import Node, Tree

Array = NDArray[np.float64]
Path = tuple[Node, Node]
"""Where it starts, and the steps to come."""

N_SAMPLES = 16
"""Draws of the model per path."""
N_POINTS = 512
"""Points of the volume that is still to be had; a power of 2."""


class Judge:
    """Judges the paths of one proposal."""

    def __init__(
        self,
        tree: Tree,
        model: StageModel,
        past: Past,
        reference_K: Array,
        prefixes_are_stored: bool,
        cost_exponent: float,
        rng: np.random.Generator,
    ) -> None:
        """Take what is known.

        Args:
            tree: The space.
            model: Fitted to the past.
            past: Models seen so far, one at least.
            reference_K: Reference point of the hypervolume, as losses; NaN means the worst seen.
            prefixes_are_stored: Whether the stages before a path's steps cost nothing.
            cost_exponent: Of cost in gain per cost.
            rng: For the draws.
        """
        self._tree = tree
        self._model = model
        self._past = past
        self._prefixes_are_stored = prefixes_are_stored
        self._cost_exponent = cost_exponent
        self._rng = rng
        self._losses_NC = np.array(list(past.losses.values()))
        self._n_objectives = len(reference_K)
        worst_K = self._losses_NC[:, : self._n_objectives].max(axis=0)
        self._reference_K = np.where(np.isnan(reference_K), worst_K, reference_K)

    def worth(self, paths: Sequence[Path]) -> Array:
        """Return expected hypervolume gain per cost of each path, shape (P,); all its models count, not only the last.

        Where no path promises any gain: how close it comes to what constraints allow, or chance.
        """
        K = self._n_objectives
        levels = self._rolled(paths)
        volume = self._open_volume([after[is_on][:, :, :K] for is_on, after in levels])
        dominated_PSM = np.zeros((len(paths), N_SAMPLES, len(volume.points_MK)), dtype=bool)
        excess_P = np.full(len(paths), np.inf)
        for is_on_P, after_PSC in levels:
            dominated = volume.dominated(after_PSC[is_on_P][:, :, :K])
            excess_PS = np.maximum(after_PSC[is_on_P][:, :, K:], 0.0).sum(axis=2)
            dominated_PSM[is_on_P] |= dominated & (excess_PS <= 0)[:, :, None]
            excess_P[is_on_P] = np.minimum(excess_P[is_on_P], excess_PS.mean(axis=1))
        gain_P = volume.volume(dominated_PSM)
        if gain_P.max() > 0:
            cost_P = np.array([self._seconds(path) for path in paths])
            return np.asarray(gain_P / cost_P**self._cost_exponent)
        return -excess_P if excess_P.max() > 0 else self._rng.random(len(paths))

    def _open_volume(self, sampled: Sequence[Array]) -> OpenVolume:
        """Return what is still to be had beside feasible models and what those in training are expected to give."""
        K = self._n_objectives
        is_feasible_N = np.all(self._losses_NC[:, K:] <= 0, axis=1)
        pending = [self._expected(node)[None, :K] for node in self._past.running]
        had_NK = np.vstack([self._losses_NC[is_feasible_N, :K], *pending])
        sampled_MK = np.concatenate([each.reshape(-1, K) for each in sampled])
        ideal_K = np.minimum(
            np.percentile(sampled_MK, 1, axis=0), self._losses_NC[:, :K].min(axis=0)
        )
        seed = int(self._rng.integers(2**31))
        return OpenVolume(had_NK, ideal_K, self._reference_K, N_POINTS, seed)

    def _rolled(self, paths: Sequence[Path]) -> list[tuple[NDArray[np.bool_], Array]]:
        """Return, step by step, which paths have that step, and sampled losses after it, shape (P, S, C)."""
        starts = [self._past.scored(start) for start, _ in paths]
        losses_PC = np.array([start[0] for start in starts if start is not None])
        state_PSC = np.repeat(losses_PC[:, None, :], N_SAMPLES, axis=1)
        errors_PC = np.array([start[1] for start in starts if start is not None])
        if errors_PC.any():
            normal_SC = self._rng.standard_normal((N_SAMPLES, state_PSC.shape[2]))
            state_PSC = state_PSC + errors_PC[:, None, :] * normal_SC
        influences = self._tree.influences
        counts_PI = np.array([counts_of(start, influences) for start, _ in paths])
        levels = []
        for level in range(max(len(steps) for _, steps in paths)):
            is_on_P = np.array([len(steps) > level for _, steps in paths])
            here = [steps[level] for _, steps in paths if len(steps) > level]
            normal_SC = self._rng.standard_normal((N_SAMPLES, state_PSC.shape[2]))
            state_PSC[is_on_P] = self._model.sample_after(
                state_PSC[is_on_P], counts_PI[is_on_P], here, normal_SC
            )
            counts_PI[is_on_P] += np.array([counts_of((step,), influences) for step in here])
            levels.append((is_on_P, state_PSC.copy()))
        return levels

    def _expected(self, node: Node) -> Array:
        """Return the losses that a recipe in training is expected to end with; +inf where nothing leads to it."""
        known = ((n, self._past.scored(node[:n])) for n in range(len(node), -1, -1))
        n_known, found = next(((n, each) for n, each in known if each is not None), (0, None))
        if found is None:
            return np.full(self._losses_NC.shape[1], np.inf)
        losses_C = found[0]
        for n_stages in range(n_known, len(node)):
            counts_I = counts_of(node[:n_stages], self._tree.influences)
            losses_C = self._model.mean_after(losses_C, counts_I, node[n_stages])
        return losses_C

    def _seconds(self, path: Path) -> float:
        start, steps = path
        cost = self._past.cost
        paid = steps if self._prefixes_are_stored else (*start, *steps)
        training = sum(cost.stage(step.influence, self._tree.dose_tokens(step)) for step in paid)
        return max(1e-9, training + len(steps) * cost.evaluation())
