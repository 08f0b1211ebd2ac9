"""Numbers as text, for people: three figures, intervals, spans of time, counts of tokens."""

from __future__ import annotations

import math

from evaluators.scores import Score
from search.report.view import INTERVAL_STDERRS

MISSING = "missing"
"""Shown for a score without a value."""


def number_text(value: float) -> str:
    """Return three significant figures without an exponent where one can be avoided."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or not value else f"{value:.1e}"


def interval_text(value: float, stderr: float | None) -> str:
    """Return the value and the half-width of its interval, such as `0.623 ± 0.059`.

    The half-width has two significant figures and the value as many decimals. Without a standard
    error the value stands alone.
    """
    if stderr is None:
        return number_text(value)
    half = INTERVAL_STDERRS * stderr
    if half <= 0:
        return f"{number_text(value)} ± 0"
    n_decimals = min(9, max(0, 1 - math.floor(math.log10(half))))
    return f"{value:.{n_decimals}f} ± {half:.{n_decimals}f}"


def score_text(score: Score | None) -> str:
    """Return a score with its interval, or that it is missing."""
    if score is None or score.value is None:
        return MISSING
    return interval_text(score.value, score.stderr)


def duration_text(seconds: float) -> str:
    """Return a span of time, such as `45 s`, `12 min` or `3 h 05 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def tokens_text(n_tokens: int) -> str:
    """Return a count of tokens, such as `950`, `2.1k`, `36k` or `1.2M`."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if n_tokens >= size:
            amount = n_tokens / size
            return f"{amount:.1f}{letter}" if amount < 10 else f"{amount:,.0f}{letter}"
    return str(n_tokens)


def count_text(n: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun, such as `1 trial` or `3 trials`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
