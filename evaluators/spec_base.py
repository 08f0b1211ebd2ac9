"""Spec: the base of all that study.yaml may say about evaluators. No torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from evaluators.scores import Direction, ScoreInfo

Sources = tuple[tuple[str, tuple[str, ...]], ...]
"""Names of sources, each with the formats an evaluator can read."""


class Spec(BaseModel):
    """Base of all specs: frozen, strict, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        populate_by_name=True,
        serialize_by_alias=True,
    )


def infos_of(name: str, *parts: tuple[str, str, Direction, float | None]) -> tuple[ScoreInfo, ...]:
    """Return what is known of the scores of an evaluator: part, unit, direction and worst value of each."""
    return tuple(
        ScoreInfo(name=f"{name}.{part}", unit=unit, direction=direction, worst=worst)
        for part, unit, direction, worst in parts
    )
