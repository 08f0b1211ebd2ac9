"""What a person asks of a recommendation: targets, weights, an order of importance. Read from the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Literal

from evaluators.scores import Record
from search.errors import SpecError
from search.spec import ConstraintSpec

_TARGET = re.compile(r"\s*([A-Za-z0-9_.,/-]+?)\s*(>=|<=)\s*(\S+)\s*")


class Target(Record):
    """A bound that a score must keep."""

    score: str
    """Name of the score."""
    bound: Literal[">=", "<="]
    """At least, or at most."""
    value: float
    """The bound, in the score's unit."""
    is_constraint: bool = False
    """Whether the study asks for it, and not the person."""

    @property
    def text(self) -> str:
        """Such as `structure >= 0.9`."""
        return f"{self.score} {self.bound} {self.value:g}"

    def shortfall(self, value: float) -> float:
        """Return how far a value is outside the bound, at most 0 when it is inside."""
        return self.value - value if self.bound == ">=" else value - self.value

    @classmethod
    def read(cls, text: str, known: Collection[str]) -> Target:
        """Read such as `structure>=0.9`.

        Raises:
            SpecError: It is no such thing, or no score has that name.
        """
        match = _TARGET.fullmatch(text)
        value = _number(match.group(3)) if match else None
        if match is None or value is None:
            raise SpecError(
                f"--target: {text!r} is not understood; write such as 'structure>=0.9', in quotes"
            )
        check_score("--target", match.group(1), known)
        bound: Literal[">=", "<="] = ">=" if match.group(2) == ">=" else "<="
        return cls(score=match.group(1), bound=bound, value=value)

    @classmethod
    def of(cls, constraint: ConstraintSpec) -> Target:
        """Return a constraint of the study."""
        if constraint.at_most is not None:
            bound, value = "<=", constraint.at_most
        else:
            assert constraint.at_least is not None
            bound, value = ">=", constraint.at_least
        return cls.model_validate(
            {"score": constraint.score, "bound": bound, "value": value, "is_constraint": True}
        )


def read_weights(text: str, objectives: Sequence[str]) -> dict[str, float]:
    """Read such as `structure=2,retention.kl=1`; objectives that are not listed weigh nothing.

    Raises:
        SpecError: A name is no objective, or a weight is not a number above 0.
    """
    weights = {}
    for part in text.split(","):
        name, _, given = (piece.strip() for piece in part.partition("="))
        value = _number(given)
        if value is None or value <= 0:
            raise SpecError(
                f"--weights: {part.strip()!r} is not understood; write such as structure=2,retention.kl=1, "
                "each above 0"
            )
        check_score("--weights", name, objectives, "objectives")
        weights[name] = value
    return weights


def read_names(option: str, text: str, known: Collection[str]) -> list[str]:
    """Read names of scores with commas between.

    Raises:
        SpecError: One is unknown, or stands there twice.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        check_score(option, name, known)
        if names.count(name) > 1:
            raise SpecError(f"{option}: {name} is there twice; name it once")
    return names


def check_score(option: str, name: str, known: Collection[str], what: str = "scores") -> None:
    """Refuse a name that no score has.

    Raises:
        SpecError: It is not among the known ones.
    """
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known {what}: {', '.join(sorted(known))}"
        raise SpecError(f"{option}: no score {name!r} here; {hint}")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
