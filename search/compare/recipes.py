"""How two recipes differ: stages aligned by influence, and the values that differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from evaluators.scores import Record
from spaces.recipe import AnyStage, Recipe

Value = str | float | int | bool | None


class StageDifference(Record):
    """A stage of one recipe beside that of the other; one is missing where they do not match."""

    influence: str
    """Name of the influence."""
    a: int | None
    """Number of the stage in the first recipe, from 1."""
    b: int | None
    """The same in the second one."""
    a_label: str | None
    """The stage of the first recipe in a few words."""
    b_label: str | None
    """The same of the second one."""
    values: dict[str, tuple[Value, Value]]
    """Setting, such as `adapter.rank`, to its two values, of those that differ; None where a stage has no such setting.
    Empty for equal stages, and where one is missing."""


def stage_differences(first: Recipe, second: Recipe) -> tuple[StageDifference, ...]:
    """Return the stages of both recipes in order, matched where their influences come in the same sequence.

    A stage that runs earlier in one recipe and later in the other stands twice, once for each.
    """
    one, other = ([stage.influence for stage in recipe.stages] for recipe in (first, second))
    found = []
    aligned = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    for tag, a_start, a_stop, b_start, b_stop in aligned:
        if tag == "equal":
            for a, b in zip(range(a_start, a_stop), range(b_start, b_stop), strict=True):
                found.append(_matched(a, b, first.stages[a], second.stages[b]))
            continue
        found += [_alone(a, None, first.stages[a]) for a in range(a_start, a_stop)]
        found += [_alone(None, b, second.stages[b]) for b in range(b_start, b_stop)]
    return tuple(found)


def _matched(a: int, b: int, one: AnyStage, other: AnyStage) -> StageDifference:
    left, right = (dict(_flat(stage.model_dump(mode="json"))) for stage in (one, other))
    names = dict.fromkeys([*left, *right])
    return StageDifference(
        influence=one.influence,
        a=a + 1,
        b=b + 1,
        a_label=one.label,
        b_label=other.label,
        values={
            name: (left.get(name), right.get(name))
            for name in names
            if left.get(name) != right.get(name)
        },
    )


def _alone(a: int | None, b: int | None, stage: AnyStage) -> StageDifference:
    return StageDifference(
        influence=stage.influence,
        a=None if a is None else a + 1,
        b=None if b is None else b + 1,
        a_label=None if a is None else stage.label,
        b_label=None if b is None else stage.label,
        values={},
    )


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Value]]:
    """Yield the settings of a stage under dotted names."""
    if isinstance(value, list):
        value = {str(at): part for at, part in enumerate(value, 1)}
    if not isinstance(value, Mapping):
        yield path, value
        return
    for name, part in value.items():
        yield from _flat(part, f"{path}.{name}" if path else str(name))
