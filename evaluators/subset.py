"""A fixed order of an evaluator's rows, so that the first n of them stand for all. No torch.

Equal rows and seeds give the same order, subsets are nested, and rows that are added later change the order of no two
others of their kind.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

from evaluators.base import Row

MIN_ROWS = 8
"""With fewer rows a standard error says little: as many are taken, or all there are."""


def nested_order(rows: Sequence[Row], seed: int = 0) -> list[int]:
    """Return the indices of all rows in their fixed order.

    Rows of one `group`, or with equal prompts, stay together and in their own order. Kinds take turns by their sizes,
    so that any first part holds each kind in about its share; within a kind, a hash of seed and content decides.
    """
    members: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(_unit(row), []).append(index)
    kinds: dict[str, list[tuple[str, str]]] = {}
    for unit, indices in members.items():
        draw = hashlib.sha256(f"{seed} {unit}".encode()).hexdigest()
        kinds.setdefault(str(rows[indices[0]].get("kind")), []).append((draw, unit))
    places = [
        ((at + 0.5) / len(units), draw, unit)
        for units in kinds.values()
        for at, (draw, unit) in enumerate(sorted(units))
    ]
    return [index for *_, unit in sorted(places) for index in members[unit]]


def first_rows_of(rows: Sequence[Row], share: float, seed: int = 0) -> tuple[int, ...]:
    """Return the indices of the first rows of the fixed order, ascending: a share of all, rounded up.

    At least `MIN_ROWS`, and groups whole: so there may be more.

    Raises:
        ValueError: The share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of rows lies in (0, 1], got {share:g}")
    n_wanted = max(n_first(len(rows), share), 1)
    chosen: list[int] = []
    unit = None
    for index in nested_order(rows, seed):
        if len(chosen) >= n_wanted and _unit(rows[index]) != unit:
            break
        unit = _unit(rows[index])
        chosen.append(index)
    return tuple(sorted(chosen))


def n_first(n_rows: int, share: float) -> int:
    """Return how many of so many rows a share takes, groups aside."""
    return min(n_rows, max(MIN_ROWS, math.ceil(share * n_rows - 1e-9)))


def _unit(row: Row) -> str:
    """Return what a row must not be parted from: its group, else all rows with its prompt or text."""
    if row.get("group") is not None:
        return json.dumps(["group", row["group"]], sort_keys=True, default=str)
    content = row.get("prompt", row.get("text"))
    return json.dumps(row if content is None else content, sort_keys=True, default=str)
