"""What each unit of a recipe is worth: leave-one-out, Shapley values and interactions over the subsets of its units.

Each is a weighted sum of scores of subsets, so its noise follows from theirs. Where subsets are missing, Shapley values
are estimated from permutations drawn at random.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from itertools import permutations

import numpy as np

from search.attribution.lattice import Subset
from search.attribution.noise import Effect, Estimate, effect, t_quantile

Weights = Mapping[Subset, float]
Scored = Callable[[Subset], Estimate | None]
"""A subset's score; None where it is not measured."""


def difference_weights(more: Subset, less: Subset) -> dict[Subset, float]:
    """Return the weights of v(more) - v(less)."""
    return {more: 1.0, less: -1.0}


def shapley_weights(n: int, unit: int) -> dict[Subset, float]:
    """Return the weights whose sum over subsets is a unit's Shapley value.

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)).
    Source: Shapley 1953, "A value for n-person games".
    """
    weights: dict[Subset, float] = {}
    for subset in _subsets_without(n, {unit}):
        size = len(subset)
        weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
        weights[subset | {unit}] = weight
        weights[subset] = -weight
    return weights


def interaction_weights(n: int, one: int, other: int) -> dict[Subset, float]:
    """Return the weights of the Shapley interaction index of two units.

    I_ij = sum over S without i and j of |S|! (n - |S| - 2)! / (n - 1)! (v(S + ij) - v(S + i) - v(S + j) + v(S)).
    Below 0 they gain less together than apart, above 0 more.
    Source: Grabisch and Roubens 1999, Int. J. Game Theory 28.
    """
    weights: dict[Subset, float] = {}
    for subset in _subsets_without(n, {one, other}):
        size = len(subset)
        weight = math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1)
        weights[subset | {one, other}] = weight
        weights[subset | {one}] = weights[subset | {other}] = -weight
        weights[subset] = weight
    return weights


def weighted(weights: Weights, scored: Scored) -> Effect | None:
    """Return a weighted sum of scores; None where one of them is missing."""
    terms = []
    for subset, weight in weights.items():
        estimate = scored(subset)
        if estimate is None:
            return None
        terms.append((weight, estimate))
    return effect(terms)


def drawn_permutations(n: int, seed: int, n_at_most: int = 720) -> list[tuple[int, ...]]:
    """Return different permutations of n units in random order, repeatable from the seed."""
    draw = random.Random(seed)
    if math.factorial(n) <= n_at_most:
        every = list(permutations(range(n)))
        draw.shuffle(every)
        return every
    found: dict[tuple[int, ...], None] = {}
    while len(found) < n_at_most:
        found[tuple(draw.sample(range(n), n))] = None
    return list(found)


def chain(permutation: Iterable[int]) -> list[Subset]:
    """Return the subsets that a permutation passes, from none to all."""
    found = [frozenset[int]()]
    for unit in permutation:
        found.append(found[-1] | {unit})
    return found


def sampled_shapley(
    n: int, unit: int, drawn: list[tuple[int, ...]], scored: Scored
) -> Effect | None:
    """Return a unit's Shapley value from the first of the drawn permutations whose subsets are all measured.

    None with fewer than two. The error joins that of the scores and that of sampling permutations, without replacement
    from all n!; the interval is Student's, with as many degrees of freedom as permutations less one. Permutations after
    an incomplete one are not used: which of them are complete depends on what was cheap.
    Source: Castro, Gomez, Tejada 2009, Computers & Operations Research 36, with the finite-population correction of
    Cochran 1977.
    """
    marginals = []
    weights: dict[Subset, float] = {}
    for permutation in drawn:
        subsets = chain(permutation)
        if any(scored(subset) is None for subset in subsets):
            break
        at = permutation.index(unit)
        before, after = scored(subsets[at]), scored(subsets[at + 1])
        assert before is not None
        assert after is not None
        marginals.append(after.value - before.value)
        weights[subsets[at + 1]] = weights.get(subsets[at + 1], 0.0) + 1.0
        weights[subsets[at]] = weights.get(subsets[at], 0.0) - 1.0
    n_used = len(marginals)
    if n_used < 2:
        return None
    measured = weighted({subset: w / n_used for subset, w in weights.items()}, scored)
    assert measured is not None
    if measured.stderr is None:
        return measured
    left = 1 - n_used / math.factorial(n)
    sampling = float(np.var(marginals, ddof=1)) / n_used * left
    stderr = math.sqrt(sampling + measured.stderr**2)
    half = t_quantile(0.975, n_used - 1) * stderr
    # No p-value: with a few permutations nothing is claimed.
    return Effect(
        value=measured.value,
        stderr=stderr,
        low=measured.value - half,
        high=measured.value + half,
        has_training_noise=measured.has_training_noise,
    )


def _subsets_without(n: int, left_out: set[int]) -> list[Subset]:
    others = [unit for unit in range(n) if unit not in left_out]
    return [
        frozenset(unit for bit, unit in enumerate(others) if mask >> bit & 1)
        for mask in range(2 ** len(others))
    ]
