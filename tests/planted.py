"""Synthetic worlds with known answers: a function from recipes to scores, and noise. For tests of explanations.

`explained_claims`, `explained_orders` and `explained_doses` are what a person would be told of a world.

Each recipe has its own draw of item noise, and of training noise per seed; a prefix shared by two trials has one draw.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evaluators.scores import Direction, Score
from search.attribution.dose import DoseResponse, dose_responses
from search.attribution.explanation import explain
from search.attribution.known import Known
from search.attribution.lattice import Lattice
from search.attribution.order import OrderEffects, designed, order_effects
from search.attribution.verdicts import Verdict, verdicts
from search.records import Boundary, TrialRecord
from spaces.recipe import Full, Recipe, Stage

MARGIN = 0.1
STDERR = 0.015
"""Of each score over items: that of a rate of one half over 1,100 items, of a tenth over 400."""

Law = Callable[[tuple[Stage, ...]], dict[str, float]]


def stage(influence: str, dose: int = 1000, handoff: str = "merge") -> Stage:
    # Sources tell stages of different influences apart: names of influences are not part of what is trained.
    return Stage(
        influence=influence,
        method="sft",
        adapter=Full(),
        mix={influence: 1.0},
        dose_tokens=dose,
        learning_rate=1e-4,
    )


def recipe(*parts: str | tuple[str, int]) -> Recipe:
    """Return a recipe of influences, each with its dose or without."""
    pairs = [(part, 1000) if isinstance(part, str) else part for part in parts]
    return Recipe(stages=tuple(stage(name, dose) for name, dose in pairs))


@dataclass
class World:
    """Scores recipes by a law, with noise."""

    law: Law
    seed: int
    stderr: float = STDERR
    seed_spread: float = 0.0
    """Standard deviation between trainings with different seeds."""

    def scores(self, recipe: Recipe, seed: int) -> tuple[Score, ...]:
        # Items are the same for all seeds of a recipe, trainings are not.
        key = recipe.prefix_digests()[-1]
        items, training = (
            random.Random(f"{self.seed} {key}"),
            random.Random(f"{self.seed} {key} {seed}"),
        )
        return tuple(
            Score(
                name=name,
                value=value
                + items.gauss(0, self.stderr)
                + (training.gauss(0, self.seed_spread) if recipe.stages else 0.0),
                stderr=self.stderr,
                n=400,
                unit="share",
                direction="minimise" if name == "drift" else "maximise",
            )
            for name, value in self.law(recipe.stages).items()
        )

    def record(self, recipe: Recipe, number: int = 0, seed: int = 0) -> TrialRecord:
        """Return a trial that was scored after every stage."""
        boundaries = tuple(
            Boundary(
                n_stages=n,
                digest=recipe.prefix_digests()[n],
                scores=self.scores(recipe.prefix(n), seed),
                evaluate_seconds=1.0,
            )
            for n in range(len(recipe.stages) + 1)
        )
        return TrialRecord(
            number=number,
            state="COMPLETE",
            params={},
            recipe=recipe,
            seed=seed,
            boundaries=boundaries,
            started_at="2026-11-24T00:00:00+00:00",
            finished_at="2026-11-24T00:01:00+00:00",
        )

    def known(self, recipes: Iterable[Recipe], seeds: Sequence[int] = (0,)) -> Known:
        """Return what trials of all these recipes, with all these seeds, would be known by."""
        listed = list(recipes)
        return Known.of(
            self.record(each, number, seed) for seed in seeds for number, each in enumerate(listed)
        )


def names(stages: tuple[Stage, ...]) -> list[str]:
    return [stage.influence for stage in stages]


def nothing(stages: tuple[Stage, ...]) -> dict[str, float]:
    """No stage does anything."""
    return {"form": 0.4, "drift": 0.3}


def one_useless(stages: tuple[Stage, ...]) -> dict[str, float]:
    """Form comes from a and b; c does nothing."""
    found = names(stages)
    return {
        "form": 0.3 * ("a" in found) + 0.2 * ("b" in found),
        "drift": 0.1 * ("a" in found) + 0.05 * ("b" in found),
    }


def harm_after(stages: tuple[Stage, ...]) -> dict[str, float]:
    """By itself b adds 0.1 to form; after a it takes 0.2. c adds to drift alone."""
    found = names(stages)
    is_after = "a" in found and "b" in found and found.index("a") < found.index("b")
    form = 0.4 * ("a" in found) + (-0.2 if is_after else 0.1 * ("b" in found))
    return {"form": 0.2 + form, "drift": 0.1 * ("c" in found)}


def two_redundant(stages: tuple[Stage, ...]) -> dict[str, float]:
    """Either of a and b brings all of the form; c adds some more."""
    found = names(stages)
    return {
        "form": 0.4 * ("a" in found or "b" in found) + 0.2 * ("c" in found),
        "drift": 0.05 * len(set(found)),
    }


def order_matters(stages: tuple[Stage, ...]) -> dict[str, float]:
    """a after b is worth 0.15 more than b after a; repeats do nothing."""
    found = list(dict.fromkeys(names(stages)))
    is_better = found == ["b", "a"]
    return {"form": 0.2 * len(found) + 0.15 * is_better, "drift": 0.05 * len(found)}


def dose_law(response: Callable[[int], float]) -> Law:
    """A stage of a moves form by its dose; one of b adds 0.1 whatever its dose. Nothing moves drift."""

    def law(stages: tuple[Stage, ...]) -> dict[str, float]:
        form = sum(response(s.dose_tokens) if s.influence == "a" else 0.1 for s in stages)
        return {"form": form, "drift": 0.3}

    return law


def turning(dose: int) -> float:
    """Best at 4,000 tokens; nothing is left of it at 1,000 and 16,000."""
    return 0.4 - 0.2 * math.log(dose / 4000) ** 2


def saturating(dose: int) -> float:
    """95 % of what can be gained, 0.4, is gained by 2,996 tokens."""
    return 0.4 * (1 - math.exp(-dose / 1000))


def growing(dose: int) -> float:
    """More is better, by 0.1 for each factor of e."""
    return 0.1 * math.log(dose / 1000)


def flat(dose: int) -> float:
    """Any dose does the same."""
    return 0.2


def dosed_recipes(seed: int, n: int = 40) -> list[Recipe]:
    """Return recipes of one or two stages with doses of 500 to 16,000 tokens, as a sampler would try."""
    draw = random.Random(f"recipes {seed}")

    def dose() -> int:
        return round(500 * 32 ** draw.random())

    orders = [("a",), ("b", "a"), ("a", "b")]
    return [recipe(*((name, dose()) for name in draw.choice(orders))) for _ in range(n)]


ABC, AB = recipe("a", "b", "c"), recipe("a", "b")
SCORES: dict[str, Direction] = {"form": "maximise", "drift": "minimise"}
MARGINS = dict.fromkeys(SCORES, MARGIN)


def explained_claims(
    law: Law, seed: int, seeds: Sequence[int] = (0, 1), spread: float = 0.0
) -> list[Verdict]:
    """Return what is claimed of `a > b > c` when all its subsets are trained with these seeds."""
    lattice = Lattice(ABC)
    subsets = [lattice.subset(subset) for subset in lattice.subsets()]
    world = World(law, seed, seed_spread=spread)
    known = world.known([each for each in subsets if each is not None], seeds)
    return verdicts(explain(known, 0, ABC, SCORES, MARGINS))


def explained_orders(law: Law, seed: int) -> OrderEffects:
    """Return what order and repeats do to `a > b`."""
    recipes = [AB, *(other for _, other in designed(AB) if other is not None)]
    return order_effects(World(law, seed).known(recipes, (0, 1)), AB, SCORES)


def shown_orders(effects: OrderEffects) -> set[tuple[str, str]]:
    """Return which changes are claimed to matter, and for which score."""
    return {
        (comparison.what, name)
        for comparison in effects.comparisons
        for name, effect in comparison.effects.items()
        if effect.is_shown
    }


def explained_doses(
    response: Callable[[int], float], seed: int, n: int = 40
) -> dict[tuple[str, str], DoseResponse]:
    """Return the curves by influence and score from `n` trials."""
    world = World(dose_law(response), seed, stderr=0.03)
    found = dose_responses(world.known(dosed_recipes(seed, n)), SCORES)
    return {(each.influence, each.score): each for each in found}
