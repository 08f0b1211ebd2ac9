"""What a stage's record says of its training beside scores, as small tables: pulls between losses, ranks by module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from search.records import StageRecord
from search.report.numbers import number_text

NO_COSINE = "zero gradient"
"""Shown for a pair of losses of which one had no gradient at that step."""


@dataclass(frozen=True)
class Grid:
    """A table of texts, not escaped."""

    title: str
    """What it shows, in a few words."""
    head: list[str]
    """Names of the columns; the first one names the rows."""
    rows: list[list[str]]
    """As many cells each as `head` has."""


def grids(stage: StageRecord) -> list[Grid]:
    """Return the tables of a stage and of its branches; most stages have none."""
    own = [*_conflicts(stage), *_ranks(stage)]
    return own + [
        replace(grid, title=f"branch {name}, {part.stage.influence}: {grid.title}")
        for name, parts in stage.branches.items()
        for part in parts
        for grid in grids(part)
    ]


def _conflicts(stage: StageRecord) -> Iterator[Grid]:
    """Yield the cosines between the gradients of each two losses of a joint stage: below 0 they pull apart."""
    steps = sorted(stage.conflict_by_step)
    pairs = dict.fromkeys(pair for step in steps for pair in stage.conflict_by_step[step])
    if not pairs:
        return
    rows = [
        [pair, *(_cosine(stage.conflict_by_step[step].get(pair)) for step in steps)]
        for pair in pairs
    ]
    head = ["losses", *(f"step {step:,} of {stage.n_steps:,}" for step in steps)]
    yield Grid("Cosine between gradients (below 0 the losses pull apart)", head, rows)


def _cosine(value: float | None) -> str:
    return NO_COSINE if value is None else number_text(value)


def _ranks(stage: StageRecord) -> Iterator[Grid]:
    """Yield the ranks that AdaLoRA has left, one row a kind of module, runs of equal ranks over layers as one."""
    ranks_by_kind: dict[str, list[tuple[int | None, int]]] = {}
    for path, rank in stage.adapter_ranks.items():
        kind, layer = _place(path)
        ranks_by_kind.setdefault(kind, []).append((layer, rank))
    if not ranks_by_kind:
        return
    rows = [
        [kind, number_text(sum(rank for _, rank in found) / len(found)), _runs(found)]
        for kind, found in ranks_by_kind.items()
    ]
    yield Grid("Ranks that AdaLoRA left", ["module", "mean rank", "rank (layers from 0)"], rows)


def _place(path: str) -> tuple[str, int | None]:
    """Return the last part of a module's name and its layer, None if it lies in none."""
    parts = path.split(".")
    layer = next((int(part) for part in parts if part.isdecimal()), None)
    return parts[-1], layer


def _runs(ranks: list[tuple[int | None, int]]) -> str:
    """Return ranks over layers, such as `4 (0-9), 2 (10), 0 (11-29)`."""
    ordered = sorted(ranks, key=lambda pair: -1 if pair[0] is None else pair[0])
    texts = []
    for rank, run in groupby(ordered, key=lambda pair: pair[1]):
        layers = [layer for layer, _ in run if layer is not None]
        span = f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else "".join(map(str, layers))
        texts.append(f"{rank} ({span})" if span else str(rank))
    return ", ".join(texts)
