"""Which rows a stage trains on, in which order, and where it stops. Pure functions; no torch.

The order of rows depends on the content of the sources, the mix and the seed alone, as digests promise: names decide
nothing. The dose says only where to stop, so the rows of a smaller dose are the first rows of a larger one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

RowId = tuple[str, int]
"""Source name and row number."""


@dataclass(frozen=True)
class RowPlan:
    """The rows of one stage in training order."""

    batches: tuple[tuple[RowId, ...], ...]
    """One tuple of rows per optimizer step, all of the same length."""
    n_tokens: int
    """Training tokens of all rows."""
    tokens_by_source: dict[str, int]
    """Training tokens per source of the mix; 0 for one whose turn never came."""
    passes_by_source: dict[str, float]
    """Training tokens per source divided by the tokens the source holds."""

    @property
    def n_rows(self) -> int:
        """Rows consumed, repeated ones counted each time."""
        return sum(len(batch) for batch in self.batches)


def plan_rows(
    n_tokens_by_source: Mapping[str, Sequence[int]],
    mix: Mapping[str, float],
    seed: int,
    dose_tokens: int,
    rows_per_step: int,
    source_hashes: Mapping[str, str],
) -> RowPlan:
    """Return the rows that a dose buys: whole optimizer steps, at least one, ending nearest to the dose.

    Each draw takes the source whose tokens so far fall shortest of its share; each pass over a source has its own
    order. Of two ends equally near to the dose, the smaller is taken.

    Args:
        n_tokens_by_source: Source name to training tokens of each of its rows, all positive.
        mix: Source name to share of the tokens.
        seed: Of the order of rows.
        dose_tokens: Training tokens asked for.
        rows_per_step: Rows of one optimizer step.
        source_hashes: Source name to content hash, which stands in for the name wherever one decides.

    Raises:
        ValueError: A source of the mix has no rows.
    """
    draws = draw_rows(n_tokens_by_source, mix, seed, source_hashes)
    batches: list[tuple[RowId, ...]] = []
    n_tokens = 0
    while n_tokens < dose_tokens:
        batch = tuple(next(draws) for _ in range(rows_per_step))
        n_batch = sum(n_tokens_by_source[name][row] for name, row in batch)
        if batches and dose_tokens - n_tokens <= n_tokens + n_batch - dose_tokens:
            break
        batches.append(batch)
        n_tokens += n_batch
    taken = dict.fromkeys(mix, 0)
    for batch in batches:
        for name, row in batch:
            taken[name] += n_tokens_by_source[name][row]
    passes = {name: taken[name] / sum(n_tokens_by_source[name]) for name in mix}
    return RowPlan(tuple(batches), n_tokens, taken, passes)


def draw_rows(
    n_tokens_by_source: Mapping[str, Sequence[int]],
    mix: Mapping[str, float],
    seed: int,
    source_hashes: Mapping[str, str],
) -> Iterator[RowId]:
    """Yield rows without end, each from the source that lags most behind its share of the tokens.

    Ties, such as the first draw, go to the larger share and then to the smaller content hash. Between two sources of
    equal content and share it does not matter which is which.

    Raises:
        ValueError: A source of the mix has no rows.
    """
    # The digest of a stage knows shares to six digits, so nothing finer may decide.
    rounded = {name: round(share, 6) for name, share in mix.items()}
    order = sorted(rounded, key=lambda name: (source_hashes[name], rounded[name]))
    shares = {name: rounded[name] for name in order}
    for name in shares:
        if not n_tokens_by_source[name]:
            raise ValueError(f"source {name!r} has no usable rows")
    streams = {}
    for position, name in enumerate(order):
        # The second of two sources with equal content gets an order of its own.
        n_equal = [source_hashes[other] for other in order[:position]].count(source_hashes[name])
        stream = f"{source_hashes[name]}/{n_equal}"
        streams[name] = _passes(len(n_tokens_by_source[name]), stream, seed)
    taken = dict.fromkeys(shares, 0)
    total = 0
    while True:
        name = max(shares, key=lambda name: (shares[name] * total - taken[name], shares[name]))
        row = next(streams[name])
        taken[name] += n_tokens_by_source[name][row]
        total += n_tokens_by_source[name][row]
        yield name, row


def _passes(n_rows: int, stream: str, seed: int) -> Iterator[int]:
    n_passes = 0
    while True:
        order = list(range(n_rows))
        random.Random(f"{seed}/{stream}/{n_passes}").shuffle(order)
        yield from order
        n_passes += 1
