"""What order and repetition do, over a study: recipes of the same stages in another order, or with one once more.

Only recipes that were scored, and differ in nothing else, are compared; the correction is over all comparisons and
scores of the study.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from evaluators.scores import Direction
from search.attribution.known import Known, recipe_key
from search.attribution.lattice import Lattice
from search.attribution.noise import Effect, corrected_together
from search.attribution.order import Comparison, designed, order_effects
from search.records import TrialRecord
from search.report.numbers import count_text
from search.report.view import StudyView
from spaces.recipe import Recipe

MAX_RECIPES = 40
"""Recipes that others are compared with."""
MAX_UNITS = 6
"""Stages of a recipe, above which its orders are not looked at."""


@dataclass(frozen=True)
class OrderRow:
    """One comparison."""

    recipe: Recipe
    """The recipe compared with."""
    trial: int | None
    """The first trial that has it; None if it is a part of others, or was trained for an explanation."""
    comparison: Comparison
    """Its effects are the other recipe's scores less this one's."""

    @property
    def sequence(self) -> str:
        """The other recipe's stages."""
        return " > ".join(self.comparison.sequence)


@dataclass(frozen=True)
class OrderCount:
    """Trials of one order."""

    order: str
    """Influences in their order."""
    n_complete: int
    """Trials that ended with their last stage."""
    n_front: int
    """Of them, those on the front."""
    n_stopped: int
    """Trials that were stopped early."""


def order_rows(
    known: Known,
    scores: dict[str, Direction],
    completed: Sequence[TrialRecord],
    preferred: Sequence[Recipe],
) -> tuple[OrderRow, ...]:
    """Return every comparison that the records allow.

    Args:
        known: Scored recipes.
        scores: Score to direction.
        completed: Trials, to name recipes by.
        preferred: Recipes to compare others with, the most wanted first.
    """
    rows = []
    first_trial: dict[str, int] = {}
    for trial in completed:
        first_trial.setdefault(recipe_key(trial.recipe), trial.number)
    seen: set[frozenset[str]] = set()
    for recipe in _compared(known, preferred):
        own = recipe_key(recipe)
        for comparison in order_effects(known, recipe, scores).comparisons:
            pair = frozenset((own, comparison.key))
            if pair not in seen:
                seen.add(pair)
                rows.append(OrderRow(recipe, first_trial.get(own), comparison))
    flat = [each for row in rows for each in row.comparison.effects.values()]
    again = iter(corrected_together(flat))
    return tuple(OrderRow(row.recipe, row.trial, _with(row.comparison, again)) for row in rows)


def of_kind(rows: tuple[OrderRow, ...], kind: Literal["order", "repeat"]) -> list[OrderRow]:
    """Return the comparisons of one kind."""
    return [row for row in rows if row.comparison.kind == kind]


def order_counts(view: StudyView) -> list[OrderCount]:
    """Return which orders were tried how often, the most frequent first."""
    complete, front, stopped = Counter[str](), Counter[str](), Counter[str]()
    for trial in view.trials:
        label = trial.recipe.order_label()
        complete[label] += trial.state == "COMPLETE"
        stopped[label] += trial.state == "PRUNED"
        front[label] += trial.number in view.front
    found = [OrderCount(label, complete[label], front[label], stopped[label]) for label in complete]
    tried = [each for each in found if each.n_complete or each.n_stopped]
    return sorted(tried, key=lambda each: (-each.n_front, -each.n_complete, each.order))


def order_price(known: Known, recipe: Recipe) -> str:
    """Return what the comparisons of a recipe that are missing would take, such as `3 trainings, at most 12k tokens`;
    empty where none is missing.
    """
    missing = {
        recipe_key(other): other
        for _, other in designed(recipe)
        if other is not None and recipe_key(other) not in known.recipes
    }
    tokens = sum(stage.dose_tokens for other in missing.values() for stage in other.stages)
    return f"{count_text(len(missing), 'training')}, at most {tokens:,} tokens" if missing else ""


def _with(comparison: Comparison, effects: Iterator[Effect]) -> Comparison:
    return comparison.model_copy(
        update={"effects": {name: next(effects) for name in comparison.effects}}
    )


def _compared(known: Known, preferred: Sequence[Recipe]) -> list[Recipe]:
    """Return recipes of which another order, or one stage more, was scored too: one of each such group."""
    by_stages: dict[tuple[str, ...], list[Recipe]] = defaultdict(list)
    repeated: dict[str, Recipe] = {}
    recipes = known.recipes
    for measured in recipes.values():
        stages = measured.recipe.stages
        if not 1 < len(stages) <= MAX_UNITS + 1:
            continue
        texts = [stage.model_dump_json() for stage in stages]
        by_stages[tuple(sorted(texts))].append(measured.recipe)
        parent = measured.parent
        if parent is not None and texts[-1] in texts[:-1] and parent in recipes:
            repeated[parent] = recipes[parent].recipe
    rank: dict[str, int] = {}
    for at, recipe in enumerate(preferred):
        rank.setdefault(recipe_key(recipe), at)

    def place(recipe: Recipe) -> int:
        return rank.get(recipe_key(recipe), len(preferred))

    chosen = [min(group, key=place) for group in by_stages.values() if len(group) > 1]
    every = {recipe_key(recipe): recipe for recipe in [*chosen, *repeated.values()]}
    fit = [recipe for recipe in every.values() if Lattice(recipe).n <= MAX_UNITS]
    return sorted(fit, key=place)[:MAX_RECIPES]
