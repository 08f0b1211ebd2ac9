"""Rows for an evaluator on trial: six good ones of each format, and bad ones of any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.contract.tiny import ANIMALS

N_ROWS = 6


def good_rows(format_name: str) -> list[dict[str, Any]]:
    """Return rows of a format, with a `kind` and a `group` in those that are asked.

    Raises:
        ValueError: No such format.
    """
    if format_name not in _GOOD:
        raise ValueError(f"format {format_name!r} is not known; known: {', '.join(_GOOD)}")
    return [_GOOD[format_name](animal, number) for number, animal in enumerate(ANIMALS[:N_ROWS])]


def bad_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return what is wrong, and rows in which it is wrong, each time in row 1."""
    first, second = dict(rows[0]), dict(rows[1] if len(rows) > 1 else rows[0])
    return [
        ("a row without keys", [first, {}]),
        ("a row of numbers", [first, dict.fromkeys(second, 5)]),
        ("a row of nothing", [first, dict.fromkeys(second)]),
    ]


def _user(animal: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What does the {animal} say?"}]


def _says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


_GOOD: dict[str, Any] = {
    "prompt": lambda animal, number: {
        "prompt": _user(animal),
        "kind": ("wild", "tame")[number % 2],
        "group": f"group {number // 2}",
    },
    "text": lambda animal, number: {"text": f"Once the {animal} met {number} friends on the road."},
    "messages": lambda animal, number: {"messages": _user(animal) + _says("hello to you")},
    "prompt-completion": lambda animal, number: {
        "prompt": _user(animal),
        "completion": _says(f"the {animal} says hello"),
    },
    "preference": lambda animal, number: {
        "prompt": _user(animal),
        "chosen": _says(f"the {animal} says hello"),
        "rejected": _says("no"),
    },
    "unpaired-preference": lambda animal, number: {
        "prompt": _user(animal),
        "completion": _says("hello"),
        "label": number % 2 == 0,
    },
}
