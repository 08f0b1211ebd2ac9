"""Rows that are trained on and measured: then a score says what was memorised, and not what was learnt.

A measured row leaks from another source, one that is trained on (or, for rows of the holdout, one of the suite), if any
of these holds, in this order, all without regard to case, punctuation, spacing and system messages:

same       what it asks is what a row of the other source asks, in one turn or in all turns up to it (of format text:
           the same text);
near       what it asks is a near duplicate of what a row there asks, by the rule of `search.data.near`;
contained  a passage of what it asks, or 13 words running of an answer in it, stand in a row there, in question or
           answer, by the rule of `search.data.passages`.

Equal answers alone do not make a leak: "Yes." answers many questions. What none of this finds: paraphrases with other
words, translations, facts told otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from search.data.near import near_pairs
from search.data.passages import RUN_WORDS, Passages, Vocabulary, contained_rows
from search.data.spec import Use
from search.data.words import RowWords, Words

LeakKind = Literal["same", "near", "contained"]


class Seen(NamedTuple):
    """The rows of one source that one use may see."""

    use: Use
    """Who sees them."""
    source: str
    """Name of the source."""


Pair = tuple[Seen, Seen]
"""The other rows, and the measured ones."""
Compared = Mapping[Seen, Sequence[RowWords]]


class Leak(NamedTuple):
    """One measured row and the row of another source that gives it away."""

    kind: LeakKind
    """Which of the rules above."""
    other_row: int
    """Position in the other source."""
    measured_row: int
    """Position in the measured source."""


def find_leaks(others: Compared, measured: Compared) -> dict[Pair, list[Leak]]:
    """Return the leaks of each pair of sources that has any; of each measured row, the first rule that holds.

    Args:
        others: Rows that are trained on (or searched on).
        measured: Rows that scores come from; none of them is in `others`.
    """
    leaks: dict[Pair, dict[int, Leak]] = defaultdict(dict)
    for pair, leak in (*_same(others, measured), *_near(others, measured)):
        leaks[pair].setdefault(leak.measured_row, leak)
    for pair, leak in _contained(others, measured):
        leaks[pair].setdefault(leak.measured_row, leak)
    return {
        pair: sorted(found.values(), key=lambda leak: leak.measured_row)
        for pair, found in leaks.items()
    }


_Places = dict[Words, dict[Seen, list[int]]]


def _same(others: Compared, measured: Compared) -> list[tuple[Pair, Leak]]:
    known = _questions(others)
    return [
        ((other, name), Leak("same", rows[0], at))
        for name, measured_rows in measured.items()
        for at, row in enumerate(measured_rows)
        for other, rows in known.get(row.asked, {}).items()
    ]


def _near(others: Compared, measured: Compared) -> list[tuple[Pair, Leak]]:
    left, right = _questions(others), _asked(measured)
    left_texts, right_texts = list(left), list(right)
    return [
        ((other, name), Leak("near", left[left_texts[one]][other][0], at))
        for one, two in sorted(near_pairs(left_texts, right_texts))
        if left_texts[one] != right_texts[two]
        for other in left[left_texts[one]]
        for name, rows in right[right_texts[two]].items()
        for at in rows
    ]


def _contained(others: Compared, measured: Compared) -> list[tuple[Pair, Leak]]:
    vocabulary = Vocabulary()
    held = {
        name: Passages(
            [(at, text) for at, row in enumerate(rows) for text in (*row.questions, *row.answers)],
            vocabulary,
        )
        for name, rows in others.items()
    }
    wanted = {
        name: Passages(
            [(at, text) for at, row in enumerate(rows) for text in _told(row)], vocabulary
        )
        for name, rows in measured.items()
    }
    return [
        ((other, name), Leak("contained", other_row, row))
        for other, passages in held.items()
        for name, own in wanted.items()
        for row, other_row in contained_rows(passages, own).items()
    ]


def _told(row: RowWords) -> list[Words]:
    """Return the texts of a measured row whose passages count: what it asks, and answers long enough to be told by."""
    return [row.asked, *(answer for answer in row.answers if len(answer) >= RUN_WORDS)]


def _questions(sources: Compared) -> _Places:
    found: _Places = {}
    for name, rows in sources.items():
        for at, row in enumerate(rows):
            for question in row.questions:
                found.setdefault(question, {}).setdefault(name, []).append(at)
    found.pop((), None)
    return found


def _asked(sources: Compared) -> _Places:
    found: _Places = {}
    for name, rows in sources.items():
        for at, row in enumerate(rows):
            found.setdefault(row.asked, {}).setdefault(name, []).append(at)
    found.pop((), None)
    return found
