"""What each stage of one recipe gave and took, from whatever subsets of its stages were scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from evaluators.scores import Direction, Record
from search.attribution.known import Known, pairs, recipe_key
from search.attribution.lattice import MAX_UNITS, Lattice, Subset
from search.attribution.missing import Missing
from search.attribution.noise import Effect, Estimate, corrected_together
from search.attribution.shapley import (
    difference_weights,
    drawn_permutations,
    interaction_weights,
    sampled_shapley,
    shapley_weights,
    weighted,
)
from search.errors import StudyError
from spaces.recipe import Recipe

Kind = Literal[
    "boundary", "alone", "left_out", "shapley", "interaction", "overlap", "both_left_out"
]
CLAIMED: tuple[Kind, ...] = ("left_out", "shapley", "interaction", "overlap")
"""What claims are made of, corrected together over all scores; the rest is shown beside them."""


class Worth(Record):
    """What one unit, or two together, are worth in one score."""

    kind: Kind
    """`boundary`: score after the unit less that before it. `alone`: the unit by itself less the base. `left_out`: the
    whole recipe less the recipe without it; `both_left_out`, without both; `overlap`, the loss of both beyond the sum
    of the losses of each. `shapley`: its mean gain over all orders in which units may join. `interaction`: gain of two
    together beyond the sum of their own."""
    score: str
    """Name of the score."""
    units: tuple[str, ...]
    """One or two."""
    effect: Effect
    """In the score's unit, not turned to the better."""
    is_partial: bool = False
    """Whether it rests on some permutations only."""


class Step(Record):
    """A score of the recipe after some of its units, in order."""

    score: str
    """Name of the score."""
    unit: str
    """The unit last trained; `base` before the first."""
    value: float
    """The score, mean over seeds."""
    stderr: float | None
    """Its standard error."""


class Explanation(Record):
    """What is known of one recipe's stages."""

    trial: int
    """Number of the trial."""
    units: tuple[str, ...]
    """Stages that can be left out, in order."""
    scores: dict[str, Direction]
    """Scores looked at, and which way is better."""
    margins: dict[str, float]
    """Differences below which a score counts as equal, in its unit."""
    n_subsets: int
    """Recipes that the units make in this order."""
    n_measured: int
    """How many of them are scored."""
    n_seeds: int
    """Most seeds that one recipe was trained with; with one, no noise of training is in the intervals."""
    steps: tuple[Step, ...]
    """The matrix stage x score."""
    worths: tuple[Worth, ...]
    """What can be said."""
    missing: tuple[Missing, ...] = ()
    """Recipes that would have to be trained for the rest."""
    illegal: tuple[str, ...] = ()
    """Subsets that are no legal recipes."""
    notes: tuple[str, ...] = ()
    """What a reader must know, such as recipes that failed."""

    def worth(self, kind: Kind, score: str, *units: str) -> Worth | None:
        """Return one of the worths, or None where it is not known."""
        return next(
            (w for w in self.worths if (w.kind, w.score, w.units) == (kind, score, units)), None
        )


def explain(
    known: Known,
    trial: int,
    recipe: Recipe,
    scores: dict[str, Direction],
    margins: dict[str, float],
    missing: Sequence[Missing] = (),
    notes: Sequence[str] = (),
) -> Explanation:
    """Return what the scored subsets of a recipe's stages say.

    Args:
        known: Scored recipes.
        trial: Number of the trial that has the recipe.
        recipe: With at least one stage.
        scores: Score to direction.
        margins: Score to margin.
        missing: What is not trained, for the reader.
        notes: Further remarks.

    Raises:
        StudyError: The recipe has no stages, or more units than can be told apart.
    """
    lattice = checked_lattice(recipe, trial)
    worths: list[Worth] = []
    steps: list[Step] = []
    keys = {subset: _key(lattice, subset) for subset in lattice.subsets()}
    for name in scores:
        scored = _scored(known, keys, name)
        steps += _steps(lattice, scored, name)
        worths += _worths(lattice, scored, name, _seed(recipe))
    return Explanation(
        trial=trial,
        units=tuple(lattice.labels),
        scores=scores,
        margins=margins,
        n_subsets=len(keys),
        n_measured=sum(key in known.recipes for key in keys.values()),
        n_seeds=known.n_seeds,
        steps=tuple(steps),
        worths=tuple(_corrected(worths)),
        missing=tuple(missing),
        illegal=tuple(lattice.label(sorted(s)) for s, key in keys.items() if key is None),
        notes=tuple(notes),
    )


def checked_lattice(recipe: Recipe, trial: int) -> Lattice:
    """Return the lattice of a recipe that can be explained.

    Raises:
        StudyError: It has no stages, or too many.
    """
    lattice = Lattice(recipe)
    if not lattice.n:
        raise StudyError(f"trial {trial} is the untouched base; name a trial with stages")
    if lattice.n > MAX_UNITS:
        raise StudyError(
            f"trial {trial} has {lattice.n} stages, and {2**lattice.n:,} subsets; explain one of at most {MAX_UNITS}"
        )
    return lattice


def permutations_of(recipe: Recipe) -> list[tuple[int, ...]]:
    """Return the permutations of a recipe's units in the order in which they are trained, the same each time."""
    return drawn_permutations(Lattice(recipe).n, _seed(recipe))


def _seed(recipe: Recipe) -> int:
    return int(recipe_key(recipe)[:8], 16)


def _key(lattice: Lattice, subset: Subset) -> str | None:
    recipe = lattice.subset(subset)
    return None if recipe is None else recipe_key(recipe)


def _scored(
    known: Known, keys: dict[Subset, str | None], name: str
) -> Callable[[Subset], Estimate | None]:
    # Shapley values ask for each subset many times.
    found = {s: known.estimate(key, name) if key is not None else None for s, key in keys.items()}
    return found.__getitem__


def _steps(lattice: Lattice, scored: Callable[[Subset], Estimate | None], name: str) -> list[Step]:
    steps = []
    for at in range(lattice.n + 1):
        estimate = scored(frozenset(range(at)))
        if estimate is not None:
            stderr = weighted({frozenset(range(at)): 1.0}, scored)
            steps.append(
                Step(
                    score=name,
                    unit=lattice.labels[at - 1] if at else "base",
                    value=estimate.value,
                    stderr=stderr.stderr if stderr is not None else None,
                )
            )
    return steps


def _worths(
    lattice: Lattice, scored: Callable[[Subset], Estimate | None], name: str, seed: int
) -> list[Worth]:
    n, whole, found = lattice.n, lattice.whole, list[Worth]()

    def add(kind: Kind, units: tuple[int, ...], weights: dict[Subset, float]) -> bool:
        value = weighted(weights, scored)
        if value is not None:
            labels = tuple(lattice.labels[at] for at in units)
            found.append(Worth(kind=kind, score=name, units=labels, effect=value))
        return value is not None

    drawn: list[tuple[int, ...]] | None = None
    for at in range(n):
        before = frozenset(range(at))
        add("boundary", (at,), difference_weights(before | {at}, before))
        add("alone", (at,), difference_weights(frozenset({at}), frozenset()))
        add("left_out", (at,), difference_weights(whole, whole - {at}))
        if not add("shapley", (at,), shapley_weights(n, at)):
            drawn = drawn or drawn_permutations(n, seed)
            sampled = sampled_shapley(n, at, drawn, scored)
            if sampled is not None:
                unit = (lattice.labels[at],)
                found.append(
                    Worth(kind="shapley", score=name, units=unit, effect=sampled, is_partial=True)
                )
    for one, other in pairs(n):
        add("interaction", (one, other), interaction_weights(n, one, other))
        neither = whole - {one, other}
        add("both_left_out", (one, other), difference_weights(whole, neither))
        overlap = {whole - {one}: 1.0, whole - {other}: 1.0, whole: -1.0, neither: -1.0}
        add("overlap", (one, other), overlap)
    return found


def _corrected(worths: list[Worth]) -> list[Worth]:
    # With one unit, leaving it out and its Shapley value are one and the same effect.
    claimed = [w for w in worths if w.kind in CLAIMED]
    if len({w.units for w in worths}) == 1:
        claimed = [w for w in claimed if w.kind == "shapley"]
    corrected = corrected_together([w.effect for w in claimed])
    by_id = {
        (w.kind, w.score, w.units): effect for w, effect in zip(claimed, corrected, strict=True)
    }
    return [
        w.model_copy(update={"effect": by_id.get((w.kind, w.score, w.units), w.effect)})
        for w in worths
    ]
