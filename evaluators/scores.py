"""Score, Item and Measurement: what an evaluator returns. Plain data, no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Direction = Literal["maximise", "minimise"]


class Record(BaseModel):
    """Base of stored records: frozen; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class ScoreInfo(Record):
    """What is known about a score before it is measured."""

    name: str
    """Such as `taste.accuracy`: the evaluator's name in the suite, a dot, the part; the name alone if it has one."""
    unit: str
    """Such as `share`, `nats/token`, `bits/byte`."""
    direction: Direction
    """Which way is better."""
    worst: float | None = None
    """The worst possible value where there is one; the default reference point of the hypervolume."""


class Score(Record):
    """One measured number, or the reason why there is none."""

    name: str
    """As in `ScoreInfo`."""
    value: float | None
    """The number; None exactly when `status` is `missing`."""
    stderr: float | None = None
    """Standard error over items, in the score's unit; None where it is not defined (n < 2, or missing)."""
    n: int = Field(ge=0)
    """Items that entered the value."""
    unit: str
    """As in `ScoreInfo`."""
    direction: Direction
    """Which way is better."""
    status: Literal["measured", "missing"] = "measured"
    """`missing` has no value and a reason."""
    reason: str | None = None
    """Why the score is missing."""
    fidelity: float = Field(default=1.0, gt=0, le=1)
    """Share of the evaluator's items that were asked; below 1 the value is an estimate of that over all."""

    @classmethod
    def missing(cls, info: ScoreInfo, reason: str) -> Score:
        """Return a score that could not be measured, with its reason."""
        return cls(
            name=info.name,
            value=None,
            n=0,
            unit=info.unit,
            direction=info.direction,
            status="missing",
            reason=reason,
        )


class Item(Record):
    """One item of one evaluator: what went in, what came out, what it counted."""

    evaluator: str
    """Name of the evaluator in the suite."""
    index: int
    """Position in the evaluator's data, from 0."""
    kind: str | None = None
    """Kind of prompt, where the source says so; groups in the report."""
    prompt: str | None = None
    """What the model was asked, for generated items; for text, its first characters."""
    output: str | None = None
    """What the model wrote, for generated items."""
    values: dict[str, float]
    """The numbers from which the scores are computed; each evaluator documents its own keys and the formula."""
    details: dict[str, Any] = {}
    """Further evidence, such as which rules failed."""


class Measurement(Record):
    """All that one evaluator found on one model."""

    scores: tuple[Score, ...]
    """At least one."""
    items: tuple[Item, ...]
    """In the order of the evaluator's data; empty when nothing could be measured."""
