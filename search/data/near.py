"""Near duplicates among short texts: MinHash finds candidates, rare words decide.

Candidates come from MinHash with locality-sensitive hashing (Broder 1997, "On the resemblance and containment of
documents"; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4) over the uncommon words of each
text, since those of a template would make all its rows candidates of each other. A candidate is a near duplicate if

- `SIMILARITY` of the weight is of words in both texts, where a word in d of N texts weighs log(1 + N / d), and words in
  one text alone weigh against it: those of the lighter side fully, the others by `ADDED_WEIGHT`. So one changed word
  counts little if a common word changed ("what does" to "what did"), and much if both are rare: then it is the content
  that a template is filled with ("the capital of France" and "the capital of Spain");
- `SHARED_WORDS` of all distinct words stand in both, so that a short text is not the duplicate of any that holds it;
- both have the same numbers in the same order: "7 - 12" is another question than "12 - 7".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import product

import numpy as np

from search.data.words import Words

SIMILARITY = 0.75
ADDED_WEIGHT = 0.4
SHARED_WORDS = 0.6
COMMON_TEXTS, COMMON_SHARE = 10, 0.02
"""A word in more texts than this number, and more than this share of them, is common."""
N_BANDS, BAND_ROWS = 24, 2
"""Two texts that share half of their uncommon words are candidates with probability 1 - (1 - 0.5**2)**24 = 0.999."""
LEAST_ALIKE = 0.25
"""Candidates whose hashes agree less are looked at no further; of texts that share half, 1 in 10,000 goes that way."""
SEED = 1
"""Of MinHash's permutations."""


def near_pairs(left: Sequence[Words], right: Sequence[Words]) -> Iterator[tuple[int, int]]:
    """Yield the positions of near duplicates, one in `left` and one in `right`; equal texts are near, too.

    Args:
        left: Distinct texts.
        right: Distinct texts.
    """
    texts = {*left, *right}
    if not left or not right:
        return
    n_texts = Counter(word for text in texts for word in set(text))
    weights = {word: math.log1p(len(texts) / count) for word, count in n_texts.items()}
    most = max(COMMON_TEXTS, COMMON_SHARE * len(texts))
    common = {word for word, count in n_texts.items() if count > most}
    left_sets, right_sets = [frozenset(text) for text in left], [frozenset(text) for text in right]
    swap = len(left) > len(right)  # The index is what costs.
    fewer, more = (right_sets, left_sets) if swap else (left_sets, right_sets)
    for at, other in _candidates(fewer, more, common):
        first, second = (other, at) if swap else (at, other)
        one, two = left_sets[first], right_sets[second]
        is_near = _share_words(one, two) and _weigh_alike(one, two, weights)
        if is_near and _numbers(left[first]) == _numbers(right[second]):
            yield first, second


def _share_words(one: AbstractSet[str], two: AbstractSet[str]) -> bool:
    fewer, more = sorted((len(one), len(two)))
    # The sizes alone rule out most candidates, at a fraction of the cost.
    return fewer >= SHARED_WORDS * more and len(one & two) >= SHARED_WORDS * len(one | two)


def _weigh_alike(
    one: AbstractSet[str], two: AbstractSet[str], weights: Mapping[str, float]
) -> bool:
    # fsum: the same sum in whatever order a set comes.
    both, left, right = (
        math.fsum(weights[word] for word in words) for words in (one & two, one - two, two - one)
    )
    lighter, heavier = sorted((left, right))
    return both >= SIMILARITY * (both + lighter + ADDED_WEIGHT * (heavier - lighter))


def _numbers(words: Words) -> list[str]:
    return [word for word in words if any(character.isdigit() for character in word)]


def _candidates(
    fewer: Sequence[frozenset[str]], more: Sequence[frozenset[str]], common: set[str]
) -> Iterator[tuple[int, int]]:
    """Yield positions in `fewer` and `more` of texts with similar sets of uncommon words."""
    from datasketch import MinHash, MinHashLSH  # late: it brings scipy along, half a second

    def hashed(texts: Sequence[frozenset[str]]) -> dict[frozenset[str], MinHash]:
        encoded = [[word.encode() for word in words] for words in texts]
        hashes = MinHash.bulk(encoded, num_perm=N_BANDS * BAND_ROWS, seed=SEED)
        return dict(zip(texts, hashes, strict=True))

    # Equal sets are hashed once: of a template with one word for content there are many.
    fewer_at, more_at = _positions(fewer, common), _positions(more, common)
    known = hashed(list(fewer_at))
    positions = list(fewer_at.values())
    hashes_NP = np.array([hashes.hashvalues for hashes in known.values()])
    index = MinHashLSH(num_perm=N_BANDS * BAND_ROWS, params=(N_BANDS, BAND_ROWS))
    for key, hashes in enumerate(known.values()):
        index.insert(key, hashes, check_duplication=False)
    for words, hashes in hashed(list(more_at)).items():
        keys = np.array(index.query(hashes), dtype=np.int64)
        if len(keys):
            alike_N = (hashes_NP[keys] == hashes.hashvalues).mean(axis=1)
            for key in keys[alike_N >= LEAST_ALIKE].tolist():
                yield from product(positions[key], more_at[words])


def _positions(
    texts: Sequence[frozenset[str]], common: set[str]
) -> dict[frozenset[str], list[int]]:
    """Return the sets of uncommon words (of all words, where all are common) with the texts that have them."""
    found: dict[frozenset[str], list[int]] = {}
    for at, words in enumerate(texts):
        found.setdefault(words - common or words, []).append(at)
    return found
