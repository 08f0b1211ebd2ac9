"""Leaks of large sources are looked for once: comparing 100,000 rows takes a quarter of a minute, on every command.

What was found lies in the user's cache, under `leaks`, named by a hash of all rows that were compared, of who uses
them, and of the code that compares them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from evaluators.user_cache import keep, user_cache
from search.data.leaks import Leak, Pair, Seen, find_leaks
from search.data.words import row_words
from search.rows import Row

FEWEST_ROWS = 5_000
"""Fewer rows are compared in about the time that keeping the result takes."""
MAX_BYTES = 2**26
_CODE = ("leaks.py", "near.py", "passages.py", "words.py")
_LIBRARIES = ("datasketch", "numpy")


class Rows(NamedTuple):
    """Rows of one source that one use may see."""

    format: str
    rows: Sequence[Row]


Found = list[dict[Pair, list[Leak]]]
Comparison = tuple[Sequence[Seen], Sequence[Seen]]
"""Who trains (or searches) on rows, and who measures with rows."""
_KEPT = TypeAdapter(list[list[tuple[Seen, Seen, list[Leak]]]])


def known_leaks(rows: Mapping[Seen, Rows], comparisons: Sequence[Comparison]) -> Found:
    """Return what `find_leaks` finds in each comparison, from the cache where it was found before."""
    n_rows = sum(len(each.rows) for each in rows.values())
    if n_rows < FEWEST_ROWS:
        return _found(rows, comparisons)
    place = user_cache() / "leaks" / f"{_digest(rows, comparisons)}.json"
    found = _read(place, rows, len(comparisons))
    if found is None:
        found = _found(rows, comparisons)
        told = [[(*pair, leaks) for pair, leaks in part.items()] for part in found]
        keep(place, json.dumps(told))
    return found


def _found(rows: Mapping[Seen, Rows], comparisons: Sequence[Comparison]) -> Found:
    words = {
        seen: [row_words(row, each.format) for row in each.rows] for seen, each in rows.items()
    }
    return [
        find_leaks(*({seen: words[seen] for seen in side} for side in sides))
        for sides in comparisons
    ]


def _digest(rows: Mapping[Seen, Rows], comparisons: Sequence[Comparison]) -> str:
    folder = Path(__file__).parent
    code = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _CODE]
    versions = [importlib.metadata.version(name) for name in _LIBRARIES]
    head = [code, versions, unicodedata.unidata_version, comparisons]
    digest = hashlib.sha256(json.dumps(head).encode())
    for seen, each in rows.items():
        digest.update(json.dumps([seen, each.format, len(each.rows)]).encode())
        for row in each.rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _read(place: Path, rows: Mapping[Seen, Rows], n_comparisons: int) -> Found | None:
    """Return what was kept; None where nothing was, or it cannot be of these rows."""
    with suppress(OSError, ValidationError), place.open("rb") as stream:
        kept = _KEPT.validate_json(stream.read(MAX_BYTES))
        fits = len(kept) == n_comparisons and all(
            seen in rows and 0 <= row < len(rows[seen].rows)
            for part in kept
            for other, measured, leaks in part
            for leak in leaks
            for seen, row in ((other, leak.other_row), (measured, leak.measured_row))
        )
        if fits:
            return [{(other, own): leaks for other, own, leaks in part} for part in kept]
    return None
