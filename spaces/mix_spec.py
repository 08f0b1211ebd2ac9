"""Mixes as study.yaml has them: shares fixed, to be searched, moving over the dose, or by the sources' sizes.

mix: {a: 0.7, b: 0.3}
mix: {simplex: {a: {low: 0.2}, b: {}}}
mix: {start: {a: 0.8, b: 0.2}, end: {simplex: {a: {}, b: {}}}}
mix: {temperature: 2, sources: [a, b]}
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from spaces.spec import FloatValue, Spec


class ShareRange(Spec):
    """Bounds of one source's share."""

    low: float = Field(default=0.0, ge=0, le=1)
    """Smallest share."""
    high: float = Field(default=1.0, ge=0, le=1)
    """Largest share."""

    @model_validator(mode="after")
    def _check(self) -> ShareRange:
        if self.low > self.high:
            raise ValueError(
                f"range is upside down: low {self.low} is above high {self.high}; swap them"
            )
        return self


class SimplexSpec(Spec):
    """Shares to be searched: `{simplex: {a: {low: 0.2}, b: {high: 0.5}, c: {}}}`."""

    simplex: dict[str, ShareRange] = Field(min_length=2)
    """Source (or term) to bounds of its share; all shares together sum to 1."""

    @model_validator(mode="after")
    def _check(self) -> SimplexSpec:
        low = sum(bounds.low for bounds in self.simplex.values())
        high = sum(bounds.high for bounds in self.simplex.values())
        if low > 1 or high < 1:
            raise ValueError(
                f"no shares sum to 1: the lows sum to {low:g}, the highs to {high:g}; widen them"
            )
        return self


def _share_kind(value: Any) -> str:
    is_searched = isinstance(value, SimplexSpec) or (isinstance(value, dict) and "simplex" in value)
    return "searched" if is_searched else "fixed"


SharesValue = Annotated[
    Annotated[dict[str, float], Tag("fixed")] | Annotated[SimplexSpec, Tag("searched")],
    Discriminator(_share_kind),
]


class CurriculumSpec(Spec):
    """Shares that move linearly with the tokens consumed: `{start: {a: 0.8, b: 0.2}, end: {b: 1.0}}`."""

    start: SharesValue
    """Shares at the start of the stage, fixed or a simplex."""
    end: SharesValue
    """Shares at the end of the dose, fixed or a simplex."""


class TemperatureSpec(Spec):
    """Shares by size: a source's share is proportional to its tokens to the power of 1 / temperature."""

    temperature: FloatValue
    """1 gives each source its size, a large value all the same."""
    sources: tuple[str, ...] = Field(min_length=1)
    """The sources; no duplicates."""

    @model_validator(mode="after")
    def _check(self) -> TemperatureSpec:
        if len(set(self.sources)) != len(self.sources):
            raise ValueError(f"sources repeats a name: {list(self.sources)}; list each once")
        return self


def _mix_kind(value: Any) -> str:
    if isinstance(value, dict):
        if isinstance(value.get("sources"), list | tuple):
            return "temperature"
        if isinstance(value.get("start", value.get("end")), dict | SimplexSpec):
            return "curriculum"
    if isinstance(value, TemperatureSpec):
        return "temperature"
    return "curriculum" if isinstance(value, CurriculumSpec) else _share_kind(value)


MixValue = Annotated[
    Annotated[dict[str, float], Tag("fixed")]
    | Annotated[SimplexSpec, Tag("searched")]
    | Annotated[CurriculumSpec, Tag("curriculum")]
    | Annotated[TemperatureSpec, Tag("temperature")],
    Discriminator(_mix_kind),
]
AnyMix = dict[str, float] | SimplexSpec | CurriculumSpec | TemperatureSpec


def sources_of(mix: AnyMix) -> tuple[str, ...]:
    """Return the sources of a mix, each once."""
    if isinstance(mix, CurriculumSpec):
        return tuple(dict.fromkeys((*sources_of(mix.start), *sources_of(mix.end))))
    if isinstance(mix, TemperatureSpec):
        return mix.sources
    return tuple(mix.simplex if isinstance(mix, SimplexSpec) else mix)


def source_places(mix: AnyMix) -> list[tuple[tuple[str | int, ...], str]]:
    """Return the sources of a mix, each with its place below `mix` in study.yaml."""
    if isinstance(mix, CurriculumSpec):
        parts = (("start", mix.start), ("end", mix.end))
        return [
            ((side, *place), name) for side, part in parts for place, name in source_places(part)
        ]
    if isinstance(mix, TemperatureSpec):
        return [(("sources", index), name) for index, name in enumerate(mix.sources)]
    if isinstance(mix, SimplexSpec):
        return [(("simplex", name), name) for name in mix.simplex]
    return [((name,), name) for name in mix]


def refuse_bad_shares(mix: AnyMix) -> None:
    """Refuse fixed shares that make no mix.

    Raises:
        ValueError: A share is not positive, or they do not sum to 1.
    """
    if isinstance(mix, CurriculumSpec):
        refuse_bad_shares(mix.start)
        refuse_bad_shares(mix.end)
    elif isinstance(mix, dict):
        if not mix or any(share <= 0 for share in mix.values()):
            raise ValueError("mix shares must be positive; leave a source out to give it nothing")
        total = sum(mix.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"mix shares sum to {total:.6g}; make them sum to 1")
