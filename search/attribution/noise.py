"""Estimates and effects with their noise: from items, and from seeds where recipes were trained with several.

An effect is a weighted sum of scores of recipes, which count as independent: they are scored on the same items, so the
true noise is mostly smaller. scipy.special only: scipy.stats takes long to load.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import Field
from scipy import special

from evaluators.scores import Record

ALPHA = 0.05
"""Chance of at least one wrong claim among the effects that are corrected together."""


class Estimate(NamedTuple):
    """A score of one recipe."""

    value: float
    """Mean over seeds."""
    item_variance: float | None
    """Squared standard error over items; None where it is not defined."""
    seed_variance: float = 0.0
    """Squared standard error over seeds; 0 where no recipe was trained with several."""
    seed_df: int = 0
    """Degrees of freedom behind `seed_variance`."""


class Effect(Record):
    """A difference with its 95 % interval, in the unit of its score."""

    value: float
    """The difference."""
    stderr: float | None = None
    """Standard error; None where a score has none, and nothing is claimed then."""
    low: float | None = None
    """Lower end of the interval."""
    high: float | None = None
    """Upper end."""
    p: float | None = Field(default=None, ge=0, le=1)
    """Two-sided p-value of no difference."""
    holm: float | None = Field(default=None, ge=0, le=1)
    """The same after Holm's correction for all it was looked at with; None where training noise is not known."""
    has_training_noise: bool = True
    """Whether the interval knows how far trainings with other seeds lie apart. Without, it holds for these very models
    and says nothing of their recipes, so nothing is claimed from it."""

    @property
    def is_shown(self) -> bool:
        """Whether there is a difference beyond noise, after correction."""
        return self.holm is not None and self.holm < ALPHA

    def is_within(self, margin: float) -> bool:
        """Return whether the difference is smaller than a margin: two one-sided tests at 5 % (Schuirmann 1987)."""
        if self.stderr is None or self.low is None or self.high is None:
            return False
        # The interval holds 95 %; the tests ask for the one of 90 %, which is shorter by a known factor.
        half = (self.high - self.low) / 2 * _NINETY
        return -margin < self.value - half and self.value + half < margin

    def is_shown_within(self, margin: float) -> bool:
        """Return whether recipes, and not these very models alone, differ by less than a margin."""
        return self.has_training_noise and self.is_within(margin)


_NINETY = float(special.ndtri(0.95) / special.ndtri(0.975))


def effect(terms: Iterable[tuple[float, Estimate]]) -> Effect:
    """Return the weighted sum of estimates, with an interval from Student's distribution where seeds enter.

    Degrees of freedom: Satterthwaite 1946. All seed variances of a score come from one pool, so the pool's degrees of
    freedom count once; those of items count as unlimited.
    """
    value, items, seeds, df = 0.0, 0.0, 0.0, 0
    is_known = True
    for weight, estimate in terms:
        value += weight * estimate.value
        is_known = is_known and estimate.item_variance is not None
        items += weight**2 * (estimate.item_variance or 0.0)
        seeds += weight**2 * estimate.seed_variance
        df = max(df, estimate.seed_df)
    if not is_known:
        return Effect(value=value, has_training_noise=df > 0)
    variance = items + seeds
    freedom = variance**2 / (seeds**2 / df) if seeds > 0 and df else math.inf
    found = with_interval(value, math.sqrt(variance), freedom)
    return found.model_copy(update={"has_training_noise": df > 0})


def with_interval(value: float, stderr: float, freedom: float = math.inf) -> Effect:
    """Return an effect with a known standard error and its degrees of freedom."""
    half = stderr * t_quantile(0.975, freedom)
    p = 2 * t_tail(abs(value) / stderr, freedom) if stderr > 0 else float(value == 0)
    return Effect(
        value=value, stderr=stderr, low=value - half, high=value + half, p=min(1.0, max(0.0, p))
    )


def t_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's distribution; the normal one's for unlimited degrees of freedom."""
    if math.isinf(freedom):
        return float(special.ndtri(probability))
    return float(special.stdtrit(freedom, probability))


def t_tail(value: float, freedom: float) -> float:
    """Return the chance that Student's distribution exceeds a value."""
    if math.isinf(freedom):
        return float(special.ndtr(-value))
    return float(special.stdtr(freedom, -value))


def holm_corrected(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values after Holm's step-down correction; None stays None and is not counted.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    known = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, at) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[at] = highest
    return corrected


def corrected_together(effects: Sequence[Effect]) -> list[Effect]:
    """Return effects with Holm's correction over all of them that know the noise of training; the rest stay without."""
    corrected = holm_corrected([each.p if each.has_training_noise else None for each in effects])
    return [
        each.model_copy(update={"holm": holm})
        for each, holm in zip(effects, corrected, strict=True)
    ]
