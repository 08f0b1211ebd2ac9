"""Targets of `apportion export` by name, and the one place that looks them up.

A target is a module with `export(job, out, means) -> list[str]`: it makes the folder `out`, whole or not at all, and
returns lines for the user. What it cannot express it refuses with a SpecError; nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from search.errors import SpecError
from search.export.job import Job, Means
from search.messages import suggest

TARGETS = {
    "peft": "search.export.peft",
    "merged": "search.export.merged",
    "recipe": "search.export.recipe",
    "trl": "search.export.trl",
    "llamafactory": "search.export.llamafactory",
    "axolotl": "search.export.axolotl",
    "mergekit": "search.export.mergekit",
}
"""Name to module."""
Export = Callable[[Job, Path, Means], list[str]]


def target(name: str) -> Export:
    """Return what exports to a target.

    Raises:
        SpecError: There is no such target.
    """
    if name not in TARGETS:
        hint = suggest(name, TARGETS) or f"choose {', '.join(TARGETS)}"
        raise SpecError(f"--to: {name!r} is not known; {hint}")
    export: Export = import_module(TARGETS[name]).export
    return export
