"""What is measured of a text itself: words, n-grams, repetition. Pure functions; texts are untrusted."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Scripts without spaces between words count by character; everything else by run of letters or by mark.
_UNIT = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u9fff\uf900-\ufaff]+|[^\w\s]"
)


def words_of(text: str) -> list[str]:
    """Return the words and punctuation marks of a text, casefolded; Chinese and Japanese by character."""
    return _UNIT.findall(text.casefold())


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all runs of n words, in order; none if there are fewer words."""
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def repetition(words: Sequence[str], n: int) -> float | None:
    """Return the share of n-grams that are repeats of one before, in [0, 1); None if there is no n-gram.

    seq-rep-n = 1 - (distinct n-grams) / (n-grams). Source: Welleck et al. 2020 (arXiv 1908.04319), section 6.1,
    where it is taken of tokens.
    """
    runs = ngrams(words, n)
    return 1 - len(set(runs)) / len(runs) if runs else None
