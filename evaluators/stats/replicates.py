"""Means and differences over seeds and items at once: recipes trained with several seeds, scored on the same items.

A replicate's score varies with its seed; the mean over seeds varies with the items, which all replicates share, so that
neither alone gives the standard error. Both do, by the variance components of a crossed design.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from evaluators.stats.intervals import LEVEL, Interval, t_interval, t_quantile, wilson_interval

Array = npt.NDArray[np.float64]
ZERO_SHARE = 1e-5
"""A variance of 0 counts as this share of the median, as in limma: its logarithm must exist."""


class Spread(NamedTuple):
    """A variance between seeds and the degrees of freedom behind it."""

    variance: float
    df: float


@dataclass(frozen=True)
class CrossedEstimate:
    """A value with its standard error over seeds and items."""

    value: float
    stderr: float
    df: float
    """Degrees of freedom whose Student's quantile makes the 95 % interval."""

    def interval(self, level: float = LEVEL) -> Interval:
        """Return Student's interval."""
        return t_interval(self.value, self.stderr, self.df, level)


@dataclass(frozen=True)
class Replicated:
    """One score of one recipe in S replicates, on N items that they share."""

    values: Array
    """The score of each replicate, shape (S,)."""
    items: Array | None = None
    """What each item (or cluster of items) adds, shape (S, N): each row's mean is the replicate's score. None where it
    is not known."""
    item_stderr: float | None = None
    """Standard error over items of one replicate, used where `items` is None or tells none; None counts as 0."""
    is_trained: bool = True
    """False for the untouched base, which has one value and no spread between seeds."""

    @cached_property
    def value(self) -> float:
        """The mean over replicates."""
        return float(self.values.mean())

    @property
    def spread(self) -> Spread | None:
        """The variance between replicates, s^2 over S - 1; None for a single replicate."""
        if not self.is_trained:
            return Spread(0.0, math.inf)
        if len(self.values) < 2:
            return None
        # Equal values have no spread, and not what rounding leaves of one.
        variance = float(self.values.var(ddof=1)) if np.ptp(self.values) else 0.0
        return Spread(variance, len(self.values) - 1)

    @cached_property
    def interaction(self) -> float:
        """Mean square of what neither the replicate nor the item explains, over (S - 1)(N - 1); 0 for one replicate."""
        assert self.items is not None
        n_seeds, n_items = self.items.shape
        if n_seeds < 2 or n_items < 2:
            return 0.0
        left_SN = self.items - self.items.mean(axis=1, keepdims=True)
        left_SN = left_SN - left_SN.mean(axis=0)
        return float((left_SN**2).sum() / (n_seeds - 1) / (n_items - 1))


def mean_over_replicates(one: Replicated, spread: Spread) -> CrossedEstimate:
    """Return the mean of a score with its standard error over seeds and items.

    variance = spread / S + (variance between the items' means - interaction / S) / N, the second part at least 0. The
    spread between replicates holds the noise of items that is anew in each; what all share is the second part.
    Source: Searle, Casella, McCulloch 1992, Variance Components, chapter 4, two-way crossed and balanced. The
    quantile is the mean of Student's quantiles of the two parts, weighted by the parts: Cochran and Cox 1957,
    Experimental Designs, 2nd edition. Satterthwaite's degrees of freedom, the usual choice, are estimated
    from the same two or three seeds and gave intervals that were too short (results/benchmarks/confirm.md).

    Args:
        one: The score.
        spread: Between seeds; its own (`Replicated.spread`) or a moderated one.
    """
    return _estimate(one.value, [_seed_part(one, spread), *_item_parts(one, None)])


def difference_over_replicates(
    first: Replicated, second: Replicated, first_spread: Spread, second_spread: Spread
) -> CrossedEstimate:
    """Return first - second with its standard error, paired over items.

    The seeds of the two count as unrelated. Recipes that begin alike share that part of the training, seed by seed, so
    that their difference varies less: what is called a difference here is one all the more.
    Without values of items, or with other items, the items count as unrelated too.
    """
    parts = [_seed_part(first, first_spread), _seed_part(second, second_spread)]
    if _are_paired(first, second):
        parts += _item_parts(first, second)
    else:
        parts += [*_item_parts(first, None), *_item_parts(second, None)]
    return _estimate(first.value - second.value, parts)


def share_interval(estimate: CrossedEstimate, n_items: int, level: float = LEVEL) -> Interval:
    """Return the interval of a share over seeds and items: Wilson's with the effective number of items.

    Where all items agree in all replicates there is no variance to tell that number; it is then the number of items.

    Raises:
        ValueError: There are no items.
    """
    share = min(1.0, max(0.0, estimate.value))
    inner = share * (1 - share)
    if inner <= 0 or estimate.stderr <= 0:
        return wilson_interval(share, n_items, level=level)
    return wilson_interval(share, max(1.0, inner / estimate.stderr**2), estimate.df, level)


def moderated_spreads(spreads_M: Sequence[Spread]) -> list[Spread]:
    """Return M recipes' variances between seeds, each drawn towards what they have in common.

    Two or three seeds tell a variance badly: its interval would be twice as wide as it need be. If the variances of M
    recipes come from a scaled inverse chi-squared distribution with prior variance s0^2 and d0 degrees of freedom, then
    given s^2 with d degrees of freedom the best guess is (d0 s0^2 + d s^2) / (d0 + d), with d0 + d. s0 and d0 are
    estimated from the M variances: the more alike they are, the larger is d0. Never more degrees of freedom than all
    recipes have together. One recipe alone keeps its own.
    Source: Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3(1), article 3, as in limma.
    """
    known = [spread for spread in spreads_M if math.isfinite(spread.df)]
    if len(known) < 2 or not any(spread.variance > 0 for spread in known):
        return list(spreads_M)
    variance_M = np.array([spread.variance for spread in known])
    df_M = np.array([spread.df for spread in known])
    prior = _prior(variance_M, df_M)
    n_all = float(df_M.sum())
    return [_moderated(spread, prior, n_all) for spread in spreads_M]


def pooled_spread(spreads_M: Sequence[Spread]) -> Spread | None:
    """Return the variance between seeds that M recipes have on average; None where no two seeds were tried."""
    known = [spread for spread in spreads_M if math.isfinite(spread.df) and spread.df > 0]
    df = sum(spread.df for spread in known)
    if not df:
        return None
    return Spread(sum(spread.variance * spread.df for spread in known) / df, df)


def spread_interval(spread: Spread, level: float = LEVEL) -> Interval:
    """Return the interval of a standard deviation between seeds, from the chi-squared distribution of its square.

    Holds for seeds that scatter normally, and alike in all recipes that were pooled.
    """
    tail = (1 - level) / 2
    sd = math.sqrt(spread.variance)
    low, high = (float(special.chdtri(spread.df, p)) for p in (tail, 1 - tail))
    return Interval(sd * math.sqrt(spread.df / low), sd * math.sqrt(spread.df / high))


def _seed_part(one: Replicated, spread: Spread) -> Spread:
    return Spread(spread.variance / len(one.values), spread.df)


def _item_parts(one: Replicated, other: Replicated | None) -> list[Spread]:
    """Return the variance that comes from which items there are; of a difference if there is another."""
    both = [each for each in (one, other) if each is not None]
    # Where nothing is known of the items, or all of them passed (or failed) always: with few of them that is no proof.
    unseen = [each for each in both if each.items is None or not np.ptp(each.items)]
    parts = [Spread((each.item_stderr or 0.0) ** 2, math.inf) for each in unseen]
    if len(unseen) == len(both) or one.items is None:
        return parts
    items_N = one.items.mean(axis=0)
    again = one.interaction / len(one.values)
    if other is not None and other.items is not None:
        items_N = items_N - other.items.mean(axis=0)
        again += other.interaction / len(other.values)
    n_items = len(items_N)
    if n_items < 2:
        return parts
    shared = max(0.0, float(items_N.var(ddof=1)) - again)
    return [*parts, Spread(shared / n_items, n_items - 1)]


def _are_paired(first: Replicated, second: Replicated) -> bool:
    if first.items is None or second.items is None:
        return False
    return bool(first.items.shape[1] == second.items.shape[1])


def _estimate(value: float, parts: Sequence[Spread]) -> CrossedEstimate:
    variance = sum(part.variance for part in parts)
    if variance <= 0:
        return CrossedEstimate(value, 0.0, math.inf)
    quantile = sum(part.variance / variance * t_quantile(part.df) for part in parts)
    return CrossedEstimate(value, math.sqrt(variance), _df_of_quantile(quantile))


def _df_of_quantile(quantile: float) -> float:
    """Return the degrees of freedom at which Student's 95 % interval reaches so far; the inverse of `t_quantile`."""
    most = 1e6
    if quantile <= t_quantile(most):
        return math.inf
    return float(optimize.brentq(lambda df: t_quantile(df) - quantile, 0.5, most))


def _prior(variance_M: Array, df_M: Array) -> Spread:
    """Return the common variance and how many degrees of freedom it counts for, by the moments of the logarithms."""
    middle = float(np.median(variance_M)) or float(variance_M.mean())
    half_M = df_M / 2
    log_M = np.log(np.maximum(variance_M, ZERO_SHARE * middle))
    log_M = log_M - special.digamma(half_M) + np.log(half_M)
    excess = float(log_M.var(ddof=1) - special.polygamma(1, half_M).mean())
    if excess <= 0:
        # No more unlike than chance makes them: one variance for all.
        return Spread(float((variance_M * df_M).sum() / df_M.sum()), math.inf)
    half = _trigamma_inverse(excess)
    return Spread(float(np.exp(log_M.mean() + special.digamma(half) - math.log(half))), 2 * half)


def _trigamma_inverse(value: float) -> float:
    """Return the x above 0 whose trigamma is `value`."""
    return float(
        math.exp(
            optimize.brentq(lambda log: special.polygamma(1, math.exp(log)) - value, -20.0, 20.0)
        )
    )


def _moderated(spread: Spread, prior: Spread, n_all: float) -> Spread:
    if not math.isfinite(spread.df):
        return spread
    if math.isinf(prior.df):
        return Spread(prior.variance, n_all)
    df = prior.df + spread.df
    variance = (prior.df * prior.variance + spread.df * spread.variance) / df
    return Spread(variance, min(df, n_all))
