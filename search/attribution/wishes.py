"""Which recipes an explanation of one recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from search.attribution.explanation import permutations_of
from search.attribution.known import Known
from search.attribution.lattice import Lattice
from search.attribution.missing import Budget, Pricing, Wanted, choose
from search.attribution.order import designed
from search.attribution.shapley import chain
from spaces.recipe import Recipe

Listed = list[tuple[str, Recipe | None]]


def wanted_for(
    known: Known,
    recipe: Recipe,
    seeds: Sequence[int],
    with_order: bool,
    budget: Budget,
    new_pricing: Callable[[], Pricing],
) -> Wanted:
    """Return the subsets of a recipe's stages that are missing, and the orders and repeats if they are asked for.

    Args:
        known: What is measured.
        recipe: The recipe.
        seeds: With which each is wanted.
        with_order: Whether other orders and repeats are asked for.
        budget: What may be spent.
        new_pricing: Gives a pricing that has counted nothing yet.
    """
    lattice = Lattice(recipe)

    def listed(subsets: Sequence[frozenset[int]]) -> Listed:
        return [(lattice.label(sorted(subset)), lattice.subset(subset)) for subset in subsets]

    groups = [listed(lattice.subsets())]
    if with_order:
        groups.append(designed(recipe))
    chains = [listed(chain(permutation)) for permutation in permutations_of(recipe)]
    return choose(known, groups, chains, seeds, budget, new_pricing)
