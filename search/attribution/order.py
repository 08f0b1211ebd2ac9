"""What order and repetition do: one recipe against the same units in other orders, and with one unit once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evaluators.scores import Direction, Record
from search.attribution.known import Known, recipe_key
from search.attribution.lattice import Lattice
from search.attribution.noise import Effect, corrected_together
from search.attribution.verdicts import effect_text, number
from spaces.recipe import Recipe

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


class Comparison(Record):
    """Another sequence of the same units, against the recipe."""

    kind: Literal["order", "repeat"]
    """Whether units changed places, or one runs once more at the end."""
    sequence: tuple[str, ...]
    """Units as the other recipe has them."""
    key: str
    """What the other recipe is known by."""
    what: str
    """The change in words, such as `taste last instead of first`."""
    effects: dict[str, Effect]
    """Score to the other recipe's value less this one's, corrected over all comparisons and scores."""


class OrderEffects(Record):
    """All comparisons of a recipe that were measured."""

    n_designed: int
    """Comparisons that the design has; those that are no legal recipes left out."""
    comparisons: tuple[Comparison, ...]
    """Those that are measured."""


def designed(recipe: Recipe) -> list[tuple[str, Recipe | None]]:
    """Return the recipes to compare with, orders first: label and recipe, None where it is not legal."""
    lattice = Lattice(recipe)
    return [
        (lattice.label(sequence), lattice.made(sequence))
        for sequence in (*lattice.other_orders(), *lattice.repeats())
    ]


def order_effects(known: Known, recipe: Recipe, scores: dict[str, Direction]) -> OrderEffects:
    """Return what is measured of the design, with Holm's correction over all of it."""
    lattice, own = Lattice(recipe), recipe_key(recipe)
    rows: list[tuple[tuple[int, ...], str, dict[str, Effect]]] = []
    n_designed = 0
    for sequence in (*lattice.other_orders(), *lattice.repeats()):
        other = lattice.made(sequence)
        if other is None or recipe_key(other) == own:
            continue
        n_designed += 1
        found = {name: known.difference(recipe_key(other), own, name) for name in scores}
        effects = {name: each for name, each in found.items() if each is not None}
        if effects:
            rows.append((sequence, recipe_key(other), effects))
    flat = iter(corrected_together([each for _, _, effects in rows for each in effects.values()]))
    comparisons = tuple(
        Comparison(
            kind="order" if len(sequence) == lattice.n else "repeat",
            sequence=tuple(lattice.labels[at] for at in sequence),
            key=key,
            what=_what(lattice, sequence),
            effects={name: next(flat) for name in effects},
        )
        for sequence, key, effects in rows
    )
    return OrderEffects(n_designed=n_designed, comparisons=comparisons)


def order_sentence(comparison: Comparison) -> str:
    """Return a comparison in one line: `taste last instead of first: gain +0.06 (+0.02..+0.10), form -0.01 (n.s.)`."""
    parts = [
        f"{name} {effect_text(each) if each.is_shown else f'{number(each.value)} (n.s.)'}"
        for name, each in comparison.effects.items()
    ]
    return f"{comparison.what}: {', '.join(parts)}"


def _what(lattice: Lattice, sequence: Sequence[int]) -> str:
    if len(sequence) > lattice.n:
        return f"{lattice.labels[sequence[-1]]} once more at the end"
    moved = _moved(sequence)
    if moved is None:
        own = lattice.label(range(lattice.n))
        return f"{lattice.label(sequence)} instead of {own}"
    return (
        f"{lattice.labels[moved]} {_place(sequence.index(moved), lattice.n)} "
        f"instead of {_place(moved, lattice.n)}"
    )


def _moved(sequence: Sequence[int]) -> int | None:
    """Return the unit whose move alone makes the order, rather one moved to an end; None if no single one is."""
    movers = [
        unit
        for unit in range(len(sequence))
        if [at for at in sequence if at != unit]
        == [at for at in range(len(sequence)) if at != unit]
    ]
    ends = (0, len(sequence) - 1)
    return max(movers, key=lambda unit: (sequence.index(unit) in ends, unit), default=None)


def _place(at: int, n: int) -> str:
    return "last" if at == n - 1 else _ORDINALS[at] if at < len(_ORDINALS) else f"at {at + 1}"
