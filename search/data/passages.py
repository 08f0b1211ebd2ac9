"""Passages that stand word for word in a longer text, found through hashes of runs of words (n-grams).

After the decontamination of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C): a run of 13 words that stands in
both texts is an overlap, without regard to case and punctuation, and a run in more than 10 training texts is a phrase
and counts for nothing. Ours beyond that: a text of 5 to 12 words overlaps if all of it does; a run that stands in
several texts of both sides, and in more than a tenth of each, is a template; and a text of 8 words or more overlaps if
every run of it stands in the training texts, phrases or not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from search.data.words import Words

RUN_WORDS = 13
"""Words of a run that two texts may not share."""
SHORTEST_WORDS, SURE_WORDS = 5, 8
"""Shorter texts stand in others by chance; and if they have fewer words than the second, some do."""
PHRASE_TEXTS = 10
"""Texts that may hold a run before it counts as a phrase."""
TEMPLATE_SHARE = 0.1
"""Share of the texts of both sides above which a run counts as a template."""

Hashes = npt.NDArray[np.uint64]


class Vocabulary:
    """Gives every word a random number, the same for all texts that are compared."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def ids(self, words: Sequence[str]) -> list[int]:
        """Return a number for each word, counted from 0 as words come."""
        ids = self._ids
        return [ids.setdefault(word, len(ids)) for word in words]

    def numbers(self) -> Hashes:
        """Return the random number of each word, by id."""
        draws = np.random.default_rng(0)
        return draws.integers(1, 2**64, size=len(self._ids), dtype=np.uint64)


class Passages:
    """Texts of one source with the hashes of their runs."""

    def __init__(self, texts: Sequence[tuple[int, Words]], vocabulary: Vocabulary) -> None:
        """Take texts with the row that each belongs to; the vocabulary may grow until the first hash is asked for."""
        self.rows = [row for row, _ in texts]
        self.lengths = [len(words) for _, words in texts]
        self._ids = np.array(
            [number for _, words in texts for number in vocabulary.ids(words)], dtype=np.int64
        )
        self._vocabulary = vocabulary
        self._runs: dict[int, tuple[Hashes, npt.NDArray[np.int64]]] = {}

    def runs(self, n_words: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Return the hash of each run of n words, and the position of its text."""
        if n_words not in self._runs:
            lengths = np.array(self.lengths, dtype=np.int64)
            text_of_word = np.repeat(np.arange(len(lengths)), lengths)
            n_runs = max(0, len(self._ids) - n_words + 1)
            factors = np.random.default_rng(1).integers(1, 2**64, size=n_words, dtype=np.uint64)
            numbers = self._vocabulary.numbers()[self._ids]
            hashes = np.zeros(n_runs, dtype=np.uint64)
            for at, factor in enumerate(factors | np.uint64(1)):
                hashes += numbers[at : at + n_runs] * factor
            first, last = text_of_word[:n_runs], text_of_word[n_words - 1 :]
            is_within = first == last
            self._runs[n_words] = hashes[is_within], first[is_within]
        return self._runs[n_words]


def contained_rows(trained: Passages, measured: Passages) -> dict[int, int]:
    """Return the measured rows that overlap, each with a trained row that holds a passage of it."""
    found: dict[int, int] = {}
    by_length: dict[int, list[int]] = defaultdict(list)
    for text, length in enumerate(measured.lengths):
        if length >= SHORTEST_WORDS:
            by_length[min(length, RUN_WORDS)].append(text)
    for n_words, texts in by_length.items():
        for text, held_by in _overlaps(trained, measured, n_words, set(texts)).items():
            found.setdefault(measured.rows[text], trained.rows[held_by])
    return found


def _overlaps(
    trained: Passages, measured: Passages, n_words: int, texts: set[int]
) -> dict[int, int]:
    """Return measured texts with the trained text that holds a run, or all runs, of them."""
    trained_runs, trained_texts = trained.runs(n_words)
    measured_runs, measured_texts = measured.runs(n_words)
    is_wanted = np.isin(measured_texts, np.fromiter(texts, dtype=np.int64))
    measured_runs, measured_texts = measured_runs[is_wanted], measured_texts[is_wanted]
    holders = _holders(trained_runs, trained_texts, measured_runs)
    shared = np.fromiter(holders, dtype=np.uint64, count=len(holders))
    asked_by = _holders(measured_runs, measured_texts, shared)
    n_rows = len(set(trained.rows)), len(set(measured.rows))
    n_shared: dict[int, int] = defaultdict(int)
    found: dict[int, int] = {}
    for run, askers in asked_by.items():
        rows = {trained.rows[text] for text in holders[run]}
        asking_rows = {measured.rows[text] for text in askers}
        is_counted = not _is_phrase((len(rows), len(asking_rows)), n_rows)
        for text in askers:
            n_shared[text] += 1
            length = measured.lengths[text]
            is_whole = length >= SURE_WORDS and n_shared[text] == length - n_words + 1
            if is_counted or is_whole:
                found.setdefault(text, holders[run][0])
    return found


def _is_phrase(n_holding: tuple[int, int], n_rows: tuple[int, int]) -> bool:
    """Tell whether a run is a phrase or a template, from trained and measured rows that hold it, and all rows."""
    is_template = all(
        held > 1 and held > TEMPLATE_SHARE * n for held, n in zip(n_holding, n_rows, strict=True)
    )
    return n_holding[0] > PHRASE_TEXTS or is_template


def _holders(runs: Hashes, texts: npt.NDArray[np.int64], wanted: Hashes) -> Mapping[int, list[int]]:
    """Return those of some runs that are wanted, with the texts that hold them, each once."""
    known = np.unique(wanted)
    if not len(known):
        return {}
    at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
    is_wanted = known[at] == runs
    found: dict[int, dict[int, None]] = defaultdict(dict)
    for run, text in zip(runs[is_wanted].tolist(), texts[is_wanted].tolist(), strict=True):
        found[run][text] = None
    return {run: list(held) for run, held in found.items()}
