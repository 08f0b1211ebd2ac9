"""What two models wrote to the same prompts, where it differs most. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from evaluators.scores import Item, Record

MOST_WORDS = 300
"""Words of a text that are compared."""
MOST_ITEMS = 400
"""Prompts that are looked at, of each suite."""

Key = tuple[bool, str, int]
"""Whether it is the holdout's, name of the evaluator, position in its data."""


class OutputDifference(Record):
    """One prompt and what the models wrote."""

    evaluator: str
    """Name of the evaluator."""
    index: int
    """Position in its data."""
    is_holdout: bool
    """Whether the sampler never saw it."""
    prompt: str
    """What was asked."""
    base: str | None
    """What the base wrote; None where it was not asked the same."""
    a: str
    """What the first model wrote."""
    b: str
    """What the second one wrote."""
    alike: float
    """Share of words that both texts have in the same order, in [0, 1]."""
    a_values: dict[str, float]
    """The numbers that the first one's item counted with."""
    b_values: dict[str, float]
    """Those of the second one's."""


def output_differences(
    first: Iterable[tuple[bool, Item]],
    second: Iterable[tuple[bool, Item]],
    base: Iterable[tuple[bool, Item]],
    n: int,
) -> tuple[OutputDifference, ...]:
    """Return the prompts whose replies differ most: first those that count differently, then by their words.

    Each prompt comes once, though several evaluators may have asked it.

    Args:
        first: Items of the first model, with whether they are the holdout's.
        second: Those of the second one.
        base: Those of the base.
        n: Most to return.
    """
    ones, others, bases = (_written(items) for items in (first, second, base))
    found: dict[tuple[str, str, str], OutputDifference] = {}
    for key, one in ones.items():
        other = others.get(key)
        if other is None or other.prompt != one.prompt or other.output == one.output:
            continue
        own = bases.get(key)
        difference = OutputDifference(
            evaluator=one.evaluator,
            index=one.index,
            is_holdout=key[0],
            prompt=one.prompt or "",
            base=own.output if own is not None and own.prompt == one.prompt else None,
            a=one.output or "",
            b=other.output or "",
            alike=alike(one.output or "", other.output or ""),
            a_values=one.values,
            b_values=other.values,
        )
        texts = (difference.prompt, difference.a, difference.b)
        if texts not in found or _rank(difference) < _rank(found[texts]):
            found[texts] = difference
    return tuple(sorted(found.values(), key=_rank)[:n])


def alike(first: str, second: str) -> float:
    """Return twice the number of words that two texts share in order, over the number of all their words."""
    one, other = (text.split()[:MOST_WORDS] for text in (first, second))
    if not one and not other:
        return 1.0
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _rank(difference: OutputDifference) -> tuple[float, float, str, int]:
    a, b = difference.a_values, difference.b_values
    passed = abs(a.get("passed", 0.0) - b.get("passed", 0.0))
    return -passed, difference.alike, difference.evaluator, difference.index


def _written(items: Iterable[tuple[bool, Item]]) -> dict[Key, Item]:
    """Return the items that hold a generation, at most `MOST_ITEMS` of each suite."""
    found: dict[Key, Item] = {}
    n = {False: 0, True: 0}
    for is_holdout, item in items:
        if item.output is not None and n[is_holdout] < MOST_ITEMS:
            n[is_holdout] += 1
            found[is_holdout, item.evaluator, item.index] = item
    return found
