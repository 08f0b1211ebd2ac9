"""Non-dominated trials, hypervolume and knee: numpy in, numpy out.

All functions take losses, where lower is better; a caller negates what is maximised. `moocore` does
the geometry.
"""

from __future__ import annotations

from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]


def front_mask(losses_NK: Losses) -> NDArray[np.bool_]:
    """Return which rows no other row dominates, shape (N,).

    A row dominates another if it is as low in every objective and lower in one. Equal rows do not
    dominate each other, so duplicates of a front row are all on the front.

    Raises:
        ValueError: The input is not (N, K) with K >= 1, or holds NaN.
    """
    losses_NK = _checked(losses_NK)
    if not len(losses_NK):
        return np.zeros(0, dtype=np.bool_)
    if losses_NK.shape[1] == 1:
        return np.asarray(losses_NK[:, 0] == losses_NK[:, 0].min())
    return np.asarray(moocore.is_nondominated(losses_NK, keep_weakly=True), dtype=np.bool_)


def hypervolume(losses_NK: Losses, reference_K: Losses) -> float:
    """Return the volume that the rows dominate up to a reference point.

    Its unit is the product of the objectives' units. Rows that are not below the reference in every
    objective add nothing; no rows give 0.
    Source: Fonseca, Paquete, Lopez-Ibanez 2006, as implemented by moocore.

    Raises:
        ValueError: The input is not (N, K), holds NaN or -inf, or the reference is not K finite
            numbers.
    """
    losses_NK = _checked(losses_NK)
    reference_K = np.asarray(reference_K, dtype=np.float64)
    if reference_K.shape != losses_NK.shape[1:] or not np.isfinite(reference_K).all():
        raise ValueError(
            f"reference must be {losses_NK.shape[1]} finite numbers, got {reference_K.tolist()}"
        )
    if np.isneginf(losses_NK).any():
        raise ValueError("losses hold -inf, whose hypervolume is not finite")
    inside_NK = losses_NK[(losses_NK < reference_K).all(axis=1)]
    if not len(inside_NK):
        return 0.0
    if losses_NK.shape[1] == 1:
        return float(reference_K[0] - inside_NK.min())
    return float(moocore.hypervolume(inside_NK, ref=reference_K))


def scale_to_front(losses_NK: Losses) -> Losses:
    """Return losses scaled so that the front spans 0 (best, ideal) to 1 (worst, nadir).

    An objective in which all of the front is equal becomes 0 there: it does not tell front rows
    apart.

    Raises:
        ValueError: There is no row, or a number is not finite.
    """
    losses_NK = _checked(losses_NK)
    if not len(losses_NK) or not np.isfinite(losses_NK).all():
        raise ValueError("scaling needs at least one row of finite losses")
    front_NK = losses_NK[front_mask(losses_NK)]
    ideal_K = front_NK.min(axis=0)
    span_K = front_NK.max(axis=0) - ideal_K
    return np.asarray((losses_NK - ideal_K) / np.where(span_K > 0, span_K, 1.0))


def knee_heights(losses_NK: Losses) -> Losses:
    """Return each row's distance from the plane through the extremes, towards the ideal, (N,).

    Losses are scaled (`scale_to_front`). The extreme of an objective is the front row that is best
    in it, of equals the one with the smallest sum; extremes have height 0. Rows beyond the plane,
    away from the ideal, have a negative height. Where the extremes span no plane that falls in
    every objective (as when one row is best in two of three), the plane has equal intercepts and
    goes through their mean.
    Source: Das 1999, "On characterizing the knee of the Pareto curve"; Branke et al. 2004.

    Raises:
        ValueError: As `scale_to_front`.
    """
    scaled_NK = scale_to_front(losses_NK)
    front_N = np.flatnonzero(front_mask(losses_NK))
    scaled_NK = scaled_NK[:, scaled_NK[front_N].max(axis=0) > 0]  # the rest are equal on the front
    if not scaled_NK.shape[1]:
        return np.zeros(len(scaled_NK))
    sum_N = scaled_NK.sum(axis=1)
    extremes_K = [
        int(front_N[np.lexsort((sum_N[front_N], column_N[front_N]))[0]]) for column_N in scaled_NK.T
    ]
    normal_K = _plane_normal(scaled_NK[extremes_K])
    heights_N = (1.0 - scaled_NK @ normal_K) / np.linalg.norm(normal_K)
    heights_N[(scaled_NK[:, None] == scaled_NK[extremes_K]).all(axis=2).any(axis=1)] = 0.0
    return np.asarray(heights_N)


def knee_index(losses_NK: Losses) -> int:
    """Return the row of the front with the greatest `knee_heights`; of equals the first.

    Where no front row has a positive height (a straight or hollow front, or fewer than three
    members) that row is an extreme and no knee to speak of; callers check the height.

    Raises:
        ValueError: As `scale_to_front`.
    """
    heights_N = knee_heights(losses_NK)
    return int(np.argmax(np.where(front_mask(losses_NK), heights_N, -np.inf)))


def _checked(values: Any) -> Losses:
    losses_NK: Losses = np.asarray(values, dtype=np.float64)
    if losses_NK.ndim != 2 or losses_NK.shape[1] < 1:
        raise ValueError(f"losses must have the shape (N, K) with K >= 1, got {losses_NK.shape}")
    if np.isnan(losses_NK).any():
        row = int(np.flatnonzero(np.isnan(losses_NK).any(axis=1))[0])
        raise ValueError(f"losses of row {row} hold NaN; leave out rows that were not measured")
    return losses_NK


def _plane_normal(extremes_KK: Losses) -> Losses:
    """Return w of the plane w x = 1 through the rows, or of the one with equal intercepts."""
    if np.linalg.cond(extremes_KK) < 1e8:
        normal_K = np.linalg.solve(extremes_KK, np.ones(len(extremes_KK)))
        if (normal_K > 0).all():
            return np.asarray(normal_K)
    return np.full(len(extremes_KK), 1.0 / extremes_KK.sum(axis=1).mean())
