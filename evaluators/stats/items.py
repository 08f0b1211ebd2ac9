"""Standard errors over items; fewer than two items, or clusters of them, have none. No scipy: evaluators load it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.ArrayLike


class Estimate(NamedTuple):
    """A value and its standard error, in the same unit; None where two items are lacking."""

    value: float
    stderr: float | None


def mean_estimate(values_N: Values, clusters_N: Sequence[Hashable] | None = None) -> Estimate:
    """Return the mean of N values and its standard error, s / sqrt(N) with s over N - 1.

    Args:
        values_N: One per item.
        clusters_N: What each item belongs to, such as its prompt. Items of one cluster may depend on each other; the
            standard error is then that of `ratio_estimate` over the clusters' sums and sizes.

    Raises:
        ValueError: There are no values, or the lengths differ.
    """
    values_N = _checked(values_N)
    if clusters_N is not None:
        return ratio_estimate(values_N, np.ones(len(values_N)), clusters_N)
    if len(values_N) < 2:
        return Estimate(float(values_N.mean()), None)
    return Estimate(float(values_N.mean()), float(values_N.std(ddof=1) / math.sqrt(len(values_N))))


def share_estimate(values_N: Values) -> Estimate:
    """Return the mean of N values in [0, 1] and a standard error that is not 0 when all values agree.

    With n' = N + 4 and p' = (sum + 2) / n' the standard error is sqrt(p' (1 - p') / n'). The plain one claims certainty
    for 8 passes out of 8. Ties that count half vary less than whole ones, so for them it is an upper bound.
    Source: Agresti and Coull 1998, The American Statistician 52(2), "add two successes and two failures".

    Raises:
        ValueError: There are no values, or one lies outside [0, 1].
    """
    values_N = _checked(values_N)
    if values_N.min() < 0 or values_N.max() > 1:
        raise ValueError(
            f"shares need values in [0, 1], got {values_N.min():g} to {values_N.max():g}"
        )
    share = float(values_N.mean())
    if len(values_N) < 2:
        return Estimate(share, None)
    n_adjusted = len(values_N) + 4
    adjusted = (float(values_N.sum()) + 2) / n_adjusted
    return Estimate(share, math.sqrt(adjusted * (1 - adjusted) / n_adjusted))


def ratio_estimate(
    numerators_N: Values, denominators_N: Values, clusters_N: Sequence[Hashable] | None = None
) -> Estimate:
    """Return R = sum(y) / sum(x) over N clusters, such as rows of text, and its standard error by the delta method.

    stderr = sqrt( sum((y_i - R x_i)^2) / (N - 1) / N ) / mean(x). Items within a cluster may depend on each other.
    Source: Cochran 1977, Sampling Techniques, 3rd edition, section 2.11, without the finite population correction.

    Args:
        numerators_N: One per row.
        denominators_N: One per row.
        clusters_N: What each row belongs to; default: each is a cluster of its own.

    Raises:
        ValueError: There are no clusters, the lengths differ, or the denominators do not sum to more than 0.
    """
    y_N, x_N = _checked(numerators_N), _checked(denominators_N)
    if len(y_N) != len(x_N):
        raise ValueError(
            f"{len(y_N)} numerators and {len(x_N)} denominators; give one of each per row"
        )
    if clusters_N is not None:
        y_N, x_N = cluster_sums(y_N, clusters_N), cluster_sums(x_N, clusters_N)
    if not x_N.sum() > 0:
        raise ValueError(f"the denominators sum to {x_N.sum():g}; a ratio needs more than 0")
    ratio = float(y_N.sum() / x_N.sum())
    n_clusters = len(y_N)
    if n_clusters < 2:
        return Estimate(ratio, None)
    variance = float(((y_N - ratio * x_N) ** 2).sum()) / (n_clusters - 1) / n_clusters
    return Estimate(ratio, math.sqrt(variance) / float(x_N.mean()))


def jackknife_ratio(
    total_numerator: float, total_denominator: float, numerators_N: Values, denominators_N: Values
) -> Estimate:
    """Return U / T over N rows and its standard error by the jackknife.

    Without row i the ratio is (U - u_i) / (T - t_i): the numerators need not sum to U, as distinct words that several
    rows share do not. stderr = sqrt((N - 1) / N * sum((R_i - mean(R))^2)). None where it is not defined: fewer than two
    rows, or one row that holds all of T.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, eq. 11.5.

    Raises:
        ValueError: There are no rows, or T is not above 0.
    """
    u_N, t_N = _checked(numerators_N), _checked(denominators_N)
    if not total_denominator > 0:
        raise ValueError(f"the denominator is {total_denominator:g}; a ratio needs more than 0")
    ratio = total_numerator / total_denominator
    left_N = total_denominator - t_N
    if len(t_N) < 2 or left_N.min() <= 0:
        return Estimate(ratio, None)
    ratios_N = (total_numerator - u_N) / left_N
    if np.ptp(ratios_N) == 0:
        return Estimate(
            ratio, 0.0
        )  # the mean of equal numbers may differ from them in the last bit
    spread = float(((ratios_N - ratios_N.mean()) ** 2).sum())
    return Estimate(ratio, math.sqrt((len(t_N) - 1) / len(t_N) * spread))


def paired_difference(
    first_N: Values, second_N: Values, clusters_N: Sequence[Hashable] | None = None
) -> Estimate:
    """Return the mean of first - second over N items that two models were both asked, and its standard error.

    What an item is worth to either model drops out, so the error is that of the differences: smaller than that of two
    unrelated measurements wherever the models find the same items hard. Source: Miller 2024 (arXiv 2411.00640). For a
    score that is a ratio, give values as `terms.linearised` returns them.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    first_N, second_N = _checked(first_N), _checked(second_N)
    if len(first_N) != len(second_N):
        raise ValueError(f"{len(first_N)} items and {len(second_N)}; pairs need the same items")
    return mean_estimate(first_N - second_N, clusters_N)


def cluster_sums(values_N: Values, clusters_N: Sequence[Hashable]) -> npt.NDArray[np.float64]:
    """Return the sum over each cluster, shape (G,), clusters in the order in which they first come.

    Raises:
        ValueError: The lengths differ.
    """
    values_N = np.asarray(values_N, dtype=np.float64)
    if len(values_N) != len(clusters_N):
        raise ValueError(f"{len(values_N)} values and {len(clusters_N)} clusters; give one each")
    place = {cluster: at for at, cluster in enumerate(dict.fromkeys(clusters_N))}
    sums_G = np.zeros(len(place))
    np.add.at(sums_G, [place[cluster] for cluster in clusters_N], values_N)
    return sums_G


def _checked(values_N: Values) -> npt.NDArray[np.float64]:
    array = np.asarray(values_N, dtype=np.float64).reshape(-1)
    if not len(array):
        raise ValueError("there are no items to estimate from")
    return array
