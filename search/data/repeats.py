"""Rows of one source that repeat each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from search.data.words import RowWords


class Repeats(NamedTuple):
    """How often rows of a source come again, without regard to case and punctuation."""

    n_rows: int
    """Rows that say all that an earlier one says."""
    n_questions: int
    """Rows that ask what an earlier one asks, and answer otherwise."""


def count_repeats(rows: Sequence[RowWords]) -> Repeats:
    """Return how many rows repeat an earlier one."""
    whole = Counter((row.asked, row.answers) for row in rows)
    asked = Counter(row.asked for row in rows)
    n_rows = len(rows) - len(whole)
    return Repeats(n_rows, len(rows) - len(asked) - n_rows)
