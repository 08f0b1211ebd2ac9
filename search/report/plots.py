"""Axes of figures that are drawn as SVG without a script: places of values, and round numbers for ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from search.report.numbers import number_text, tokens_text


@dataclass(frozen=True)
class Axis:
    """A range of values on a range of pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    is_log: bool
    ticks: tuple[tuple[float, str], ...]
    """Pixel and label."""

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high = (
            (math.log(self.low), math.log(self.high)) if self.is_log else (self.low, self.high)
        )
        shown = math.log(value) if self.is_log else value
        share = (shown - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def linear_axis(low: float, high: float, start: float, end: float, n_ticks: int = 4) -> Axis:
    """Return an axis a little wider than the values, with ticks at round numbers."""
    span = (high - low) or abs(low) or 1.0
    low, high = low - 0.04 * span, high + 0.04 * span
    step = _round_step((high - low) / n_ticks)
    first = math.ceil(low / step)
    values = [at * step for at in range(first, math.floor(high / step) + 1)]
    bare = Axis(low, high, start, end, False, ())
    return Axis(
        low,
        high,
        start,
        end,
        False,
        tuple((bare.at(v), number_text(v) if v else "0") for v in values),
    )


def log_axis(low: float, high: float, start: float, end: float) -> Axis:
    """Return an axis of doses, a little wider than they are, with ticks at 1, 2 and 5 times powers of ten."""
    edge = (high / low) ** 0.04 if high > low else 1.5
    low, high = low / edge, high * edge
    bare = Axis(low, high, start, end, True, ())
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in values if low <= value <= high]
    if len(inside) > 6:
        inside = [value for value in inside if math.log10(value) % 1 < 1e-9]
    return Axis(
        low, high, start, end, True, tuple((bare.at(v), tokens_text(round(v))) for v in inside)
    )


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
