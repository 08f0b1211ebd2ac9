"""Lists, effects and places in words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from search.attribution.noise import Effect
from search.attribution.verdicts import effect_text
from search.report.view import StudyView


def listed(names: Sequence[str], word: str = "and") -> str:
    """Return names as people list them: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def effects_text(effects: Mapping[str, Effect]) -> str:
    """Return effects by score, with their intervals."""
    return listed([f"{name} {effect_text(effect)}" for name, effect in effects.items()])


def results_path(view: StudyView) -> str:
    """Return the study's folder as a command of this page would name it."""
    return shlex.quote(f"results/{view.files.path.name}")
