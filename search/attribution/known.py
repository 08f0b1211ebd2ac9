"""Every recipe of a study that was scored: all boundaries of all trials, and recipes trained outside the search.

known = Known.of(records)
known.estimate(recipe_key(recipe), "structure")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

from evaluators.scores import Direction, Score
from search.attribution.noise import Effect, Estimate, effect
from search.records import TrialRecord
from spaces.recipe import Recipe

Scores = Mapping[str, Score]


def recipe_key(recipe: Recipe) -> str:
    """Return what is equal for recipes that train alike: within a study, sources and settings are the same for all."""
    return recipe.prefix_digests()[-1]


@dataclass
class Measured:
    """One recipe that was scored."""

    recipe: Recipe
    """As trained; of recipes that train alike, the first that was met."""
    by_seed: dict[int, Scores] = field(default_factory=dict)
    """Seed of the study or of a replicate to the suite's scores."""
    digests: dict[int, str] = field(default_factory=dict)
    """Seed to the name of the model in the stage store."""
    trainings: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    """Seed to the last stage's influence, its own seed, which follows from all but its dose, and the tokens it was
    trained on. Equal for trainings that are one, since doses are rounded to whole steps."""
    parent_key: str | None = None
    """What is kept of `parent`, which takes long to compute."""

    @property
    def parent(self) -> str | None:
        """What the recipe without its last stage is known by; None of the base."""
        if not self.recipe.stages:
            return None
        return self.parent_key or self.recipe.prefix_digests()[-2]


class Known:
    """Recipes by key, with how far seeds spread."""

    def __init__(self, recipes: dict[str, Measured], n_left_out: int) -> None:
        """Use `of` instead."""
        self.recipes = recipes
        self.n_left_out = n_left_out
        """Boundaries scored by another version of the suite, which do not compare."""

    @classmethod
    def of(cls, records: Iterable[TrialRecord]) -> Known:
        """Gather what records hold, whatever became of their trials: what was scored was scored."""
        records = list(records)
        versions = Counter(
            boundary.suite_version for record in records for boundary in record.boundaries
        )
        version = versions.most_common(1)[0][0] if versions else None
        found: dict[str, Measured] = {}
        n_left_out = 0
        for record in records:
            keys = record.recipe.prefix_digests()
            for boundary in record.boundaries:
                if boundary.suite_version != version:
                    n_left_out += 1
                    continue
                n_stages = boundary.n_stages
                key = keys[n_stages]
                if key not in found:
                    parent = keys[n_stages - 1] if n_stages else None
                    found[key] = Measured(record.recipe.prefix(n_stages), parent_key=parent)
                measured = found[key]
                measured.by_seed[record.seed] = {score.name: score for score in boundary.scores}
                measured.digests[record.seed] = boundary.digest
                if 0 < n_stages <= len(record.stages):
                    last = record.stages[n_stages - 1]
                    training = (last.stage.influence, last.seed, last.trained_tokens)
                    measured.trainings[record.seed] = training
        return cls(found, n_left_out)

    @cached_property
    def n_seeds(self) -> int:
        """Most seeds that one recipe with stages was trained with."""
        return max((len(m.by_seed) for m in self.recipes.values() if m.recipe.stages), default=0)

    @cached_property
    def directions(self) -> dict[str, Direction]:
        """Score to which way is better."""
        return {
            name: score.direction
            for measured in self.recipes.values()
            for scores in measured.by_seed.values()
            for name, score in scores.items()
        }

    def seed_spread(self, name: str) -> tuple[float, int]:
        """Return the variance of a score between seeds, pooled over recipes, and its degrees of freedom."""
        squares, df = 0.0, 0
        for measured in self.recipes.values():
            values = _values(measured, name)
            if len(values) > 1 and measured.recipe.stages:
                squares += float(((np.array(values) - np.mean(values)) ** 2).sum())
                df += len(values) - 1
        return (squares / df, df) if df else (0.0, 0)

    def estimate(self, key: str, name: str) -> Estimate | None:
        """Return a score of a recipe; None where it is not measured."""
        measured = self.recipes.get(key)
        values = _values(measured, name) if measured is not None else []
        if measured is None or not values:
            return None
        errors = [
            scores[name].stderr
            for scores in measured.by_seed.values()
            if name in scores and scores[name].value is not None
        ]
        known = [error for error in errors if error is not None]
        # The same items are asked of every seed: their noise does not average out.
        items = (
            sum(error * error for error in known) / len(known)
            if len(known) == len(errors)
            else None
        )
        spread, df = self._spreads[name] if measured.recipe.stages else (0.0, 0)
        return Estimate(sum(values) / len(values), items, spread / len(values), df)

    def difference(self, key: str, other: str, name: str) -> Effect | None:
        """Return by how much a score of one recipe exceeds that of another; None where either is not measured."""
        one, two = self.estimate(key, name), self.estimate(other, name)
        return None if one is None or two is None else effect(((1.0, one), (-1.0, two)))

    def span(self, name: str) -> float:
        """Return the range of a score over all recipes, for margins of scores that are no shares."""
        values = [value for m in self.recipes.values() for value in _values(m, name)]
        return max(values) - min(values) if values else 0.0

    def margin(self, name: str, share: float) -> float:
        """Return a margin in the score's unit: `share` itself for shares, else that share of the range seen."""
        units = {
            s[name].unit for m in self.recipes.values() for s in m.by_seed.values() if name in s
        }
        return share if units == {"share"} else share * self.span(name)

    @cached_property
    def _spreads(self) -> dict[str, tuple[float, int]]:
        return {name: self.seed_spread(name) for name in self.directions}


def _values(measured: Measured, name: str) -> list[float]:
    found = (scores[name].value for scores in measured.by_seed.values() if name in scores)
    return [value for value in found if value is not None]


def pairs(n: int) -> list[tuple[int, int]]:
    """Return all pairs of n things."""
    return list(combinations(range(n), 2))
