"""Which rows a stage trains on, in which order, and where it stops. Pure functions; no torch.

The order of rows depends on the content of the sources, the mix and the seed alone, as digests promise: names decide
nothing. A later stage of a recipe that has the same loss on the same source goes on in the first one's order, where
the last one stopped. The dose says only where to stop, so the rows of a smaller dose are the first rows of a larger
one. That does not hold where a mix or a weight moves over the dose: what a step draws then depends on how much of the
dose is done.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from spaces.loss import Term, mix_sources

RowId = tuple[str, int]
"""Source name and row number."""
TokenCounts = Mapping[str, Sequence[int]]
"""Source name to training tokens of each of its rows, all positive."""


@dataclass(frozen=True)
class Place:
    """Where the stages of a recipe stand in one loss's order of a source's rows."""

    seed: int
    """Of the order: that of the first stage that drew from it."""
    n_rows: int
    """Rows drawn so far."""


Places = Mapping[tuple[str, str], Place]
"""Loss and content of a source to the place; what is not in there was not drawn from yet."""
_NOWHERE: Places = MappingProxyType({})


@dataclass(frozen=True)
class RowPlan:
    """The rows of one stage with one loss, in training order."""

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


@dataclass(frozen=True)
class PlannedStep:
    """One optimizer step: what each loss draws, and its weight."""

    rows: dict[str, tuple[RowId, ...]]
    """Rows by loss; losses without weight, and those that draw none, are not here."""
    weights: dict[str, float]
    """Weights above 0 by loss."""


@dataclass(frozen=True)
class StagePlan:
    """The steps of one stage in training order."""

    steps: tuple[PlannedStep, ...]
    """At least one."""
    n_tokens: int
    """Training tokens of all rows of all losses."""
    tokens_by_source: dict[str, int]
    """Training tokens per source; 0 for one whose turn never came."""
    passes_by_source: dict[str, float]
    """Training tokens per source divided by the tokens the source holds."""
    places: dict[tuple[str, str], Place] = field(default_factory=dict)
    """Where the recipe's losses stand in their sources after the stage."""

    @property
    def n_rows(self) -> int:
        """Rows consumed, repeated ones counted each time."""
        return sum(len(rows) for step in self.steps for rows in step.rows.values())


def plan_rows(
    n_tokens_by_source: TokenCounts,
    mix: Mapping[str, float],
    seed: int,
    dose_tokens: int,
    rows_per_step: int,
    source_hashes: Mapping[str, str],
) -> RowPlan:
    """Return the rows that a dose buys for one loss with a constant mix; see `plan_stage`.

    Raises:
        ValueError: A source of the mix has no rows.
    """
    losses = {"loss": Term(weight=1.0, mix=dict(mix))}
    plan = plan_stage(
        losses, {"loss": n_tokens_by_source}, seed, dose_tokens, rows_per_step, source_hashes
    )
    return RowPlan(
        tuple(step.rows["loss"] for step in plan.steps),
        plan.n_tokens,
        plan.tokens_by_source,
        plan.passes_by_source,
    )


def plan_stage(
    losses: Mapping[str, Term],
    n_tokens: Mapping[str, TokenCounts],
    seed: int,
    dose_tokens: int,
    rows_per_step: int,
    source_hashes: Mapping[str, str],
    places: Places = _NOWHERE,
) -> StagePlan:
    """Return the steps that a dose buys: whole optimizer steps, at least one, ending nearest to the dose.

    In each step, each loss that has a weight then draws `rows_per_step` rows. Each draw takes the source whose tokens
    so far fall shortest of its share; each pass over a source has its own order. Weights and shares that move are
    those at the beginning of a step. Of two ends equally near to the dose, the smaller is taken.

    Args:
        losses: Loss to weight and mix; those that are never active may be left out of `n_tokens`.
        n_tokens: Loss to the token counts of its sources; a loss without any draws nothing.
        seed: Of the order of rows.
        dose_tokens: Training tokens asked for, of all losses together.
        rows_per_step: Rows of each loss in one optimizer step.
        source_hashes: Source name to content hash, which stands in for the name wherever one decides.
        places: Where earlier stages of the recipe stopped.

    Raises:
        ValueError: A source of a mix has no rows, or no loss that draws rows has a weight at some step.
    """
    taken = {name: 0 for counts in n_tokens.values() for name in counts}
    total = 0

    def progress() -> float:
        return total / dose_tokens

    starts = {
        loss: _starts(loss, counts, losses[loss], seed, source_hashes, places)
        for loss, counts in n_tokens.items()
    }
    draws = {
        loss: _draws(counts, losses[loss], starts[loss], source_hashes, progress)
        for loss, counts in n_tokens.items()
    }
    steps: list[PlannedStep] = []
    while total < dose_tokens:
        weights = {loss: term.weight_at(progress()) for loss, term in losses.items()}
        weights = {loss: weight for loss, weight in weights.items() if weight > 0}
        rows = {
            loss: tuple(next(draws[loss]) for _ in range(rows_per_step))
            for loss in weights
            if loss in draws
        }
        if not rows:
            raise ValueError(
                f"no loss on data has a weight when {progress():.0%} of the dose is consumed; "
                "give one a weight above 0"
            )
        n_step = sum(n_tokens[loss][name][at] for loss in rows for name, at in rows[loss])
        if steps and dose_tokens - total <= total + n_step - dose_tokens:
            break
        steps.append(PlannedStep(rows, weights))
        total += n_step
        for loss, batch in rows.items():
            for name, at in batch:
                taken[name] += n_tokens[loss][name][at]
    held = {name: sum(counts[name]) for counts in n_tokens.values() for name in counts}
    passes = {name: taken[name] / held[name] for name in taken}
    after = dict(places)
    for loss, streams in starts.items():
        drawn = [name for step in steps for name, _ in step.rows.get(loss, ())]
        for name, (stream, start) in streams.items():
            after[loss, stream] = Place(start.seed, start.n_rows + drawn.count(name))
    return StagePlan(tuple(steps), total, taken, passes, after)


def steps_within(n_tokens_S: Sequence[int], dose_tokens: float) -> tuple[int, int]:
    """Return how many of a plan's steps a smaller dose buys, by the rule of `plan_stage`, and their training tokens.

    Args:
        n_tokens_S: Training tokens of each step of the plan.
        dose_tokens: The smaller dose.
    """
    total = 0
    for n_steps, n_step in enumerate(n_tokens_S):
        is_nearest = n_steps and dose_tokens - total <= total + n_step - dose_tokens
        if total >= dose_tokens or is_nearest:
            return n_steps, total
        total += n_step
    return len(n_tokens_S), total


def passes_conflict(plan: StagePlan, dose_tokens: int, max_passes: float | None) -> str | None:
    """Return why a plan consumes a source too often; None if it does not."""
    for name, passes in plan.passes_by_source.items():
        if max_passes is not None and passes > max_passes:
            return (
                f"a dose of {dose_tokens} tokens takes {passes:.3g} passes over source {name!r}, more than max_passes "
                f"{max_passes:g}; lower the dose or the source's share, or add rows"
            )
    return None


def draw_rows(
    n_tokens_by_source: TokenCounts,
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
    term = Term(weight=1.0, mix=dict(mix))
    starts = _starts("", n_tokens_by_source, term, seed, source_hashes, _NOWHERE)
    return _draws(n_tokens_by_source, term, starts, source_hashes, lambda: 0.0)


def size_shares(
    mix: Mapping[str, float], n_tokens_by_source: TokenCounts, temperature: float
) -> dict[str, float]:
    """Return shares in proportion to mix * tokens ** (1 / temperature), which sum to 1.

    Source: temperature-based sampling as in Arivazhagan et al. 2019 (arXiv 1907.05019), section 4.
    """
    sizes = {
        name: share * float(sum(n_tokens_by_source[name])) ** (1.0 / temperature)
        for name, share in mix.items()
    }
    total = sum(sizes.values())
    return {name: size / total for name, size in sizes.items()}


@dataclass(frozen=True)
class _Shares:
    """Shares of one loss's sources, in the order in which ties are decided."""

    start: dict[str, float]
    end: dict[str, float] | None

    def at(self, progress: float) -> dict[str, float]:
        if self.end is None:
            return self.start
        return {
            name: share + (self.end[name] - share) * progress for name, share in self.start.items()
        }


def _shares(
    term: Term, n_tokens_by_source: TokenCounts, source_hashes: Mapping[str, str]
) -> _Shares:
    # The digest of a stage knows shares to six digits, so nothing finer may decide.
    parts = [
        {name: round((mix or {}).get(name, 0.0), 6) for name in mix_sources(term)}
        for mix in (term.mix, term.end_mix)
    ]
    start, end = parts
    order = sorted(start, key=lambda name: (source_hashes[name], start[name], end[name]))
    for name in order:
        if not n_tokens_by_source[name]:
            raise ValueError(f"source {name!r} has no usable rows")
    if term.temperature is not None:
        start = size_shares(start, n_tokens_by_source, term.temperature)
        if term.end_mix is not None:
            end = size_shares(end, n_tokens_by_source, term.temperature)
    return _Shares({name: start[name] for name in order}, None if term.end_mix is None else end)


def _starts(
    loss: str,
    n_tokens_by_source: TokenCounts,
    term: Term,
    seed: int,
    source_hashes: Mapping[str, str],
    places: Places,
) -> dict[str, tuple[str, Place]]:
    """Return, by source, the name of its stream and where that begins."""
    order = list(_shares(term, n_tokens_by_source, source_hashes).start)
    found = {}
    for position, name in enumerate(order):
        # The second of two sources with equal content gets an order of its own.
        n_equal = [source_hashes[other] for other in order[:position]].count(source_hashes[name])
        stream = f"{source_hashes[name]}/{n_equal}"
        found[name] = stream, places.get((loss, stream), Place(seed, 0))
    return found


def _draws(
    n_tokens_by_source: TokenCounts,
    term: Term,
    starts: Mapping[str, tuple[str, Place]],
    source_hashes: Mapping[str, str],
    progress: Callable[[], float],
) -> Iterator[RowId]:
    """Yield rows as `draw_rows`, from shares that may move with the progress of the stage, 0 to 1."""
    moving = _shares(term, n_tokens_by_source, source_hashes)
    order = list(moving.start)
    streams = {
        name: _passes(len(n_tokens_by_source[name]), stream, start)
        for name, (stream, start) in starts.items()
    }
    taken = dict.fromkeys(order, 0)
    owed = dict.fromkeys(order, 0.0)
    total = 0
    while True:
        shares = moving.at(progress())
        if moving.end is None:
            owed = {name: share * total for name, share in shares.items()}
        name = max(
            (name for name, share in shares.items() if share > 0),
            key=lambda name: (owed[name] - taken[name], shares[name]),
        )
        row = next(streams[name])
        n_tokens = n_tokens_by_source[name][row]
        taken[name] += n_tokens
        total += n_tokens
        if moving.end is not None:
            owed = {name: owed[name] + share * n_tokens for name, share in shares.items()}
        yield name, row


def _passes(n_rows: int, stream: str, start: Place) -> Iterator[int]:
    n_passes, n_done = divmod(start.n_rows, n_rows)
    while True:
        order = list(range(n_rows))
        random.Random(f"{start.seed}/{stream}/{n_passes}").shuffle(order)
        yield from order[n_done:]
        n_passes, n_done = n_passes + 1, 0
