"""Recipes that an explanation lacks, with what training them costs beyond what the stage store holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evaluators.scores import Record
from search.attribution.known import Known, recipe_key
from search.errors import SpecError
from search.plan import Speeds
from spaces.recipe import Recipe


class Missing(Record):
    """A recipe to be trained and scored with one seed."""

    label: str
    """Its units, such as `tone > taste`."""
    recipe: Recipe
    """The recipe."""
    seed: int
    """Study's seed, or a replicate's."""
    tokens: int
    """Training tokens that are new, given what comes before it in the list."""
    seconds: float
    """Estimated, with one run of the suite after each new stage."""


class Budget(Record):
    """What training may cost."""

    tokens: int | None = None
    """Most training tokens; None: no limit."""
    trials: int | None = None
    """Most recipes; None: no limit."""

    @classmethod
    def read(cls, text: str | None) -> Budget:
        """Read `--budget`: `20000` or `20k` tokens, or `4trials`.

        Raises:
            SpecError: It is neither.
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(k|M|trials?|recipes?)?", text.strip())
        unit = match.group(2) if match else None
        if match is None or (unit is not None and unit[0] in "tr" and "." in match.group(1)):
            raise SpecError(
                f"--budget: {text!r} is not understood; give tokens, such as 20000 or 20k, or such as 4trials"
            )
        number = float(match.group(1))
        if unit is not None and unit[0] in "tr":
            return cls(trials=int(number))
        return cls(tokens=int(number * {"k": 1e3, "M": 1e6}.get(unit or "", 1)))

    def pays(self, tokens: int, n_recipes: int) -> bool:
        """Return whether so much is within the budget."""
        return (self.tokens is None or tokens <= self.tokens) and (
            self.trials is None or n_recipes <= self.trials
        )


@dataclass
class Pricing:
    """Prices recipes one after the other: what one trains, the next has for nothing."""

    known: Known
    speeds: Speeds
    is_stored: Callable[[str], bool]
    """Whether the stage store holds a model, by its digest."""
    has_store: bool = True
    """Whether models are shared at all."""

    had: frozenset[tuple[str, int]] = frozenset()
    """Keys and seeds of what earlier recipes train."""

    def price(self, label: str, recipe: Recipe, seed: int) -> Missing:
        """Return a recipe with its price, and count its models as had from now on."""
        keys = recipe.prefix_digests()
        first = 1
        for n_stages in range(len(recipe.stages), 0, -1):
            if self.has_store and self._has(keys[n_stages], seed):
                first = n_stages + 1
                break
        new = recipe.stages[first - 1 :]
        self.had |= {(key, seed) for key in keys}
        seconds = sum(self.speeds.stage_seconds(stage) for stage in new)
        # Boundaries that were scored have their scores in the store too.
        n_scored = sum(
            seed not in self.known.recipes[key].by_seed if key in self.known.recipes else True
            for key in keys[1:]
        )
        return Missing(
            label=label,
            recipe=recipe,
            seed=seed,
            tokens=sum(stage.dose_tokens for stage in new),
            seconds=seconds + n_scored * self.speeds.evaluate_seconds,
        )

    def _has(self, key: str, seed: int) -> bool:
        if (key, seed) in self.had:
            return True
        measured = self.known.recipes.get(key)
        digest = measured.digests.get(seed) if measured is not None else None
        return digest is not None and self.is_stored(digest)


def lacking(
    known: Known, recipes: Iterable[tuple[str, Recipe | None]], seeds: Sequence[int]
) -> list[tuple[str, Recipe, int]]:
    """Return label, recipe and seed of what is not measured, each once; illegal recipes are left out."""
    found: dict[tuple[str, int], tuple[str, Recipe, int]] = {}
    for label, recipe in recipes:
        if recipe is None:
            continue
        key = recipe_key(recipe)
        measured = known.recipes.get(key)
        # The base needs no training, and no seed changes it.
        wanted = seeds if recipe.stages else seeds[:1]
        for seed in wanted:
            if measured is None or (seed not in measured.by_seed and recipe.stages):
                found.setdefault((key, seed), (label, recipe, seed))
    return list(found.values())


class Wanted(Record):
    """What an explanation lacks, and what of it a budget pays."""

    missing: tuple[Missing, ...]
    """All that is missing, priced in this order."""
    chosen: tuple[Missing, ...]
    """What to train, priced in this order."""


def choose(
    known: Known,
    groups: Sequence[Sequence[tuple[str, Recipe | None]]],
    chains: Sequence[Sequence[tuple[str, Recipe | None]]],
    seeds: Sequence[int],
    budget: Budget,
    new_pricing: Callable[[], Pricing],
) -> Wanted:
    """Return what is missing and what a budget pays.

    Args:
        known: What is measured.
        groups: Recipes that are wanted, the first group before the second.
        chains: The first group again, cut into permutations in the order drawn. If the budget does not pay all of the
            first group, it pays whole chains up to the first that it does not: to pass over dear ones would bias the
            estimate.
        seeds: Each recipe is wanted with each.
        budget: What may be spent.
        new_pricing: Gives a pricing that has counted nothing yet.
    """
    pricing = new_pricing()
    missing = [
        pricing.price(*each)
        for each in lacking(known, [recipe for group in groups for recipe in group], seeds)
    ]
    if budget.pays(sum(each.tokens for each in missing), len(missing)):
        return Wanted(missing=tuple(missing), chosen=tuple(missing))
    pricing = new_pricing()
    chosen: list[Missing] = []
    done: set[tuple[str, int]] = set()

    def take(recipes: Sequence[tuple[str, Recipe | None]]) -> bool:
        """Choose all of some recipes if the budget pays them."""
        had = pricing.had
        new = [
            pricing.price(*each)
            for each in lacking(known, recipes, seeds)
            if (recipe_key(each[1]), each[2]) not in done
        ]
        both = [*chosen, *new]
        if not budget.pays(sum(each.tokens for each in both), len(both)):
            pricing.had = had
            return False
        chosen[:] = both
        done.update((recipe_key(each.recipe), each.seed) for each in new)
        return True

    if take(groups[0]) or all(take(chain) for chain in chains):
        for group in groups[1:]:
            all(take([each]) for each in group)
    return Wanted(missing=tuple(missing), chosen=tuple(chosen))
