"""The recipes that can be made of one recipe's stages: subsets in order, other orders, repeats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

from pydantic import ValidationError

from spaces.recipe import Merge, Parallel, Recipe, Stage

MAX_UNITS = 10
"""A thousand subsets; more is beyond what anyone trains."""

Subset = frozenset[int]
Unit = tuple[Stage | Parallel | Merge, ...]


class Lattice:
    """A recipe's stages as units that can be left out or moved.

    A stage whose handoff is `continue` and the one that trains its adapter on are one unit: neither runs alone. So are
    the branches of a parallel stage.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.units: list[Unit] = []
        is_open = False
        for stage in recipe.stages:
            if is_open:
                self.units[-1] = (*self.units[-1], stage)
            else:
                self.units.append((stage,))
            is_open = stage.handoff == "continue"
        self.labels = _labels(self.units)

    @property
    def n(self) -> int:
        """Units."""
        return len(self.units)

    @property
    def whole(self) -> Subset:
        """All units."""
        return frozenset(range(self.n))

    def subsets(self) -> list[Subset]:
        """Return all subsets, smaller ones first."""
        return [
            frozenset(c) for size in range(self.n + 1) for c in combinations(range(self.n), size)
        ]

    def made(self, sequence: Sequence[int]) -> Recipe | None:
        """Return the recipe of units in an order, each as often as it is listed; None if it is not legal."""
        try:
            return Recipe(stages=tuple(stage for at in sequence for stage in self.units[at]))
        except ValidationError:
            return None

    def subset(self, subset: Subset) -> Recipe | None:
        """Return the recipe of some units in the recipe's order; None if it is not legal."""
        return self.made(sorted(subset))

    def label(self, sequence: Sequence[int]) -> str:
        """Return the names of units in an order, such as `tone > taste`."""
        return " > ".join(self.labels[at] for at in sequence) or "base"

    def other_orders(self) -> list[tuple[int, ...]]:
        """Return the orders to compare: all of up to three units; of more, each neighbours' swap and each unit moved to
        the front or to the end.
        """
        own = tuple(range(self.n))
        if self.n <= 3:
            return [order for order in permutations(own) if order != own]
        found = []
        for at in own[:-1]:
            found.append((*own[:at], at + 1, at, *own[at + 2 :]))
        for at in own:
            rest = tuple(other for other in own if other != at)
            found += [(at, *rest), (*rest, at)]
        return [order for order in dict.fromkeys(found) if order != own]

    def repeats(self) -> list[tuple[int, ...]]:
        """Return the recipe with one unit more at its end, for each unit."""
        return [(*range(self.n), at) for at in range(self.n)]


def _labels(units: Sequence[Unit]) -> list[str]:
    names = ["+".join(stage.influence for stage in unit) for unit in units]
    return [f"{name}@{at}" if names.count(name) > 1 else name for at, name in enumerate(names, 1)]
