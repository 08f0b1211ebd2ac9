"""Shares over sources as searched values: a point of a bounded simplex from independent numbers in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spaces.influence import ShareRange


def shares_from_unit(bounds: Mapping[str, ShareRange], units: Sequence[float]) -> dict[str, float]:
    """Return shares that respect their bounds and sum to 1.

    Shares are broken off a stick one after the other, each within what the others' bounds leave. Without bounds the
    result is uniform on the simplex if the units are uniform: the first of n shares is Beta(1, n - 1) (Devroye 1986,
    "Non-Uniform Random Variate Generation", chapter XI.4).

    Args:
        bounds: Source to bounds of its share, n sources.
        units: n - 1 numbers in [0, 1].

    Raises:
        ValueError: The number of units is not n - 1.
    """
    names = list(bounds)
    if len(units) != len(names) - 1:
        raise ValueError(f"{len(names)} sources need {len(names) - 1} numbers, got {len(units)}")
    shares: dict[str, float] = {}
    left = 1.0
    for position, (name, unit) in enumerate(zip(names, units, strict=False)):
        later = [bounds[other] for other in names[position + 1 :]]
        low = max(bounds[name].low, left - sum(b.high for b in later))
        high = min(bounds[name].high, left - sum(b.low for b in later))
        portion = 1.0 - (1.0 - unit) ** (1.0 / len(later))
        shares[name] = low + portion * max(0.0, high - low)
        left -= shares[name]
    shares[names[-1]] = left
    # A source with no share is left out: shares of a mix are positive.
    kept = {name: round(share, 6) for name, share in shares.items() if share > 5e-7}
    largest = max(kept, key=lambda name: kept[name])
    kept[largest] = round(1.0 - sum(share for name, share in kept.items() if name != largest), 6)
    return kept
