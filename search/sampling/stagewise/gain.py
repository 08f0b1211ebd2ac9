"""How much hypervolume some points would add, by quasi-random points of the volume that is still to be had."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

Array = NDArray[np.float64]


class OpenVolume:
    """The part of the box between an ideal and a reference point that a front does not dominate yet."""

    def __init__(
        self, front_NK: Array, ideal_K: Array, reference_K: Array, n_points: int, seed: int
    ) -> None:
        """Scatter points, and keep those that nothing dominates.

        Args:
            front_NK: Losses that are had already, lower is better; may be empty.
            ideal_K: Best losses that are thought possible.
            reference_K: Worst losses of interest.
            n_points: Points before those that the front dominates are dropped.
            seed: Of the points.
        """
        spread_K = np.maximum(reference_K - ideal_K, 0.0)
        sobol = qmc.Sobol(len(reference_K), seed=seed)
        points_MK = ideal_K + spread_K * sobol.random(n_points)
        for row_K in front_NK:
            points_MK = points_MK[~(row_K <= points_MK).all(axis=1)]
        self.points_MK = points_MK
        self._volume_of_a_point = float(spread_K.prod()) / n_points

    def dominated(self, losses_PSK: Array) -> NDArray[np.bool_]:
        """Return which points each loss vector dominates, shape (P, S, M)."""
        found = losses_PSK[:, :, 0, None] <= self.points_MK[:, 0]
        for k in range(1, losses_PSK.shape[2]):
            found &= losses_PSK[:, :, k, None] <= self.points_MK[:, k]
        return np.asarray(found)

    def volume(self, dominated_PSM: NDArray[np.bool_]) -> Array:
        """Return the mean volume over samples, shape (P,)."""
        if not dominated_PSM.shape[2]:
            return np.zeros(len(dominated_PSM))
        return np.asarray(dominated_PSM.sum(axis=2).mean(axis=1) * self._volume_of_a_point)
