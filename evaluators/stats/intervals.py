"""Intervals: Student's t, Wilson's for shares, the bootstrap; and corrections for asking many questions at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from evaluators.stats.items import Values, cluster_sums

LEVEL = 0.95
"""Coverage of every interval unless a caller says otherwise."""
N_RESAMPLES = 2000


class Interval(NamedTuple):
    """Lower and upper end, in the unit of the value."""

    low: float
    high: float


def t_quantile(df: float, level: float = LEVEL) -> float:
    """Return how many standard errors reach to each side: 1.96 for 95 % with infinite degrees of freedom."""
    tail = (1 + level) / 2
    return float(special.ndtri(tail) if math.isinf(df) else special.stdtrit(df, tail))


def t_interval(value: float, stderr: float, df: float, level: float = LEVEL) -> Interval:
    """Return the value plus and minus Student's quantile times the standard error.

    Raises:
        ValueError: The degrees of freedom are not positive.
    """
    if not df > 0:
        raise ValueError(f"an interval needs degrees of freedom above 0, got {df:g}")
    half = t_quantile(df, level) * stderr
    return Interval(value - half, value + half)


def t_p_value(value: float, stderr: float, df: float) -> float:
    """Return the two-sided probability of a value at least so far from 0 if the truth is 0.

    Without any spread the answer is certain: 0, or 1 for a value of 0.
    """
    if stderr <= 0:
        return 1.0 if value == 0 else 0.0
    t = abs(value) / stderr
    return float(2 * (special.ndtr(-t) if math.isinf(df) else special.stdtr(df, -t)))


def wilson_interval(
    share: float, n_effective: float, df: float = math.inf, level: float = LEVEL
) -> Interval:
    """Return Wilson's interval of a share, which stays in [0, 1] and has a width also at 0 and 1.

    Source: Wilson 1927, JASA 22(158). For shares whose items are clustered or measured in several replicates, give the
    effective number of items, share (1 - share) / stderr^2, and the degrees of freedom of the standard error: Korn and
    Graubard 1998, Survey Methodology 24(2), there with Clopper and Pearson's interval; Franco et al. 2019, Journal of
    Survey Statistics and Methodology 7(3), found Wilson's to do well.

    Args:
        share: In [0, 1].
        n_effective: Independent items; need not be whole.
        df: Of the standard error; infinite for items counted once.
        level: Wanted coverage.

    Raises:
        ValueError: The share lies outside [0, 1], or there are no items.
    """
    if not 0 <= share <= 1 or not n_effective > 0:
        raise ValueError(f"a share in [0, 1] of items is needed, got {share:g} of {n_effective:g}")
    squared = t_quantile(df, level) ** 2 / n_effective
    center = (share + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (share * (1 - share) + squared / 4)) / (1 + squared)
    # Rounding must not leave a share of 0 or 1 outside its own interval.
    return Interval(max(0.0, min(center - half, share)), min(1.0, max(center + half, share)))


def bootstrap_interval(
    numerators_N: Values,
    denominators_N: Values | None = None,
    clusters_N: Sequence[Hashable] | None = None,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the BCa bootstrap interval of a mean, or of a ratio of sums, over items or clusters of them.

    Clusters are drawn whole, with replacement, so that items of one cluster may depend on each other. Where the
    acceleration is not defined (all clusters alike), the interval is the value itself.
    Source: Efron 1987, JASA 82(397); `scipy.stats.bootstrap`.

    Args:
        numerators_N: One per item.
        denominators_N: One per item; default: 1 each, which makes the ratio a mean.
        clusters_N: What each item belongs to; default: each is a cluster of its own.
        seed: Of the draws.
        level: Wanted coverage.

    Raises:
        ValueError: There are fewer than two clusters, or the lengths differ.
    """
    y_G = np.asarray(numerators_N, dtype=np.float64)
    x_G = np.ones(len(y_G)) if denominators_N is None else np.asarray(denominators_N, np.float64)
    if len(y_G) != len(x_G):
        raise ValueError(f"{len(y_G)} numerators and {len(x_G)} denominators; give one of each")
    if clusters_N is not None:
        y_G, x_G = cluster_sums(y_G, clusters_N), cluster_sums(x_G, clusters_N)
    if len(y_G) < 2:
        raise ValueError(f"{len(y_G)} cluster of items; the bootstrap needs two or more")
    ratio = float(y_G.sum() / x_G.sum())
    if np.all(y_G == ratio * x_G):
        return Interval(ratio, ratio)
    from scipy.stats import bootstrap  # late: a second of import that few need

    def statistic(
        y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], axis: int = -1
    ) -> npt.NDArray[np.float64]:
        return np.asarray(y.sum(axis=axis) / x.sum(axis=axis))

    found = bootstrap(
        (y_G, x_G),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=N_RESAMPLES,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def holm(p_values_M: Values) -> npt.NDArray[np.float64]:
    """Return M p-values adjusted so that below 0.05 at most 5 % of whole families hold a false one.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2): the k-th smallest is multiplied by M - k + 1, and none
    may be smaller than the one before.
    """
    p_M = np.asarray(p_values_M, dtype=np.float64)
    order_M = np.argsort(p_M, kind="stable")
    stepped_M = np.maximum.accumulate(p_M[order_M] * np.arange(len(p_M), 0, -1))
    adjusted_M = np.empty_like(p_M)
    adjusted_M[order_M] = np.minimum(1.0, stepped_M)
    return adjusted_M


def benjamini_hochberg(p_values_M: Values) -> npt.NDArray[np.float64]:
    """Return M p-values adjusted so that of those below 0.05 at most 5 % are false on average.

    Source: Benjamini and Hochberg 1995, JRSS B 57(1); `scipy.stats.false_discovery_control`.
    """
    p_M = np.asarray(p_values_M, dtype=np.float64)
    if not len(p_M):
        return p_M
    from scipy.stats import false_discovery_control  # late: a second of import that few need

    return np.asarray(false_discovery_control(p_M, method="bh"), dtype=np.float64)
