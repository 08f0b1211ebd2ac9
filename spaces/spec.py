"""The `influences` and `order` parts of study.yaml as frozen, strict models. No torch, no Optuna.

Every value may be fixed (`rank: 8`), a range (`rank: {low: 4, high: 32, log: true}`)
or a choice (`rank: {choice: [4, 8]}`).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)


class Spec(BaseModel):
    """Base of all specs: frozen, strict, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Grown(Spec):
    """Leaves fields that came later out of what is written while they have their defaults, so old digests stay."""

    came_later: ClassVar[tuple[str, ...]] = ()
    """Names of those fields."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        for name in self.came_later:
            if name in data and getattr(self, name) == type(self).model_fields[name].default:
                del data[name]
        return data


class FloatRange(Spec):
    """A real interval, both ends included."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Draw uniformly in the logarithm."""
    step: float | None = Field(default=None, gt=0)
    """Grid width; not together with `log`."""

    @model_validator(mode="after")
    def _check(self) -> FloatRange:
        _check_range(self.low, self.high, self.log, self.step)
        return self


class IntRange(Spec):
    """An interval of whole numbers, both ends included."""

    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    log: bool = False
    """Draw uniformly in the logarithm."""
    step: int | None = Field(default=None, gt=0)
    """Grid width; not together with `log`."""

    @model_validator(mode="after")
    def _check(self) -> IntRange:
        _check_range(self.low, self.high, self.log, self.step)
        return self


class FloatChoice(Spec):
    """A list of real values to choose from."""

    choice: tuple[float, ...] = Field(min_length=1)
    """The values; no duplicates."""

    @model_validator(mode="after")
    def _check(self) -> FloatChoice:
        _check_unique(self.choice)
        return self


class IntChoice(Spec):
    """A list of whole numbers to choose from."""

    choice: tuple[int, ...] = Field(min_length=1)
    """The values; no duplicates."""

    @model_validator(mode="after")
    def _check(self) -> IntChoice:
        _check_unique(self.choice)
        return self


class BoolChoice(Spec):
    """`{choice: [true, false]}`."""

    choice: tuple[bool, ...] = Field(min_length=1)
    """The values; no duplicates."""

    @model_validator(mode="after")
    def _check(self) -> BoolChoice:
        _check_unique(self.choice)
        return self


class TextChoice(Spec):
    """A list of names to choose from."""

    choice: tuple[str, ...] = Field(min_length=1)
    """The values; no duplicates."""

    @model_validator(mode="after")
    def _check(self) -> TextChoice:
        _check_unique(self.choice)
        return self


def ends(value: FloatValue | IntValue) -> tuple[float, float]:
    """Return the smallest and the largest number that a value can become."""
    if isinstance(value, FloatRange | IntRange):
        return value.low, value.high
    if isinstance(value, FloatChoice | IntChoice):
        return min(value.choice), max(value.choice)
    return value, value


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if low > high:
        raise ValueError(f"range is upside down: low {low} is above high {high}; swap them")
    if log and low <= 0:
        raise ValueError(f"a log range needs low above 0, got {low}; raise it or drop log")
    if log and step is not None:
        raise ValueError("log and step exclude each other; drop one")


def _check_unique(values: tuple[Any, ...]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"choice repeats a value: {list(values)}; list each once")


def _value_kind(value: Any) -> str:
    """Tell which member of a value union is meant, so that errors speak of that one alone."""
    if isinstance(value, BaseModel):
        return "choice" if hasattr(value, "choice") else "range"
    if isinstance(value, dict):
        return "choice" if "choice" in value else "range"
    return "fixed"


def _text_kind(value: Any) -> str:
    return "fixed" if _value_kind(value) == "fixed" else "choice"


PositiveInt = Annotated[int, Field(gt=0)]
FloatValue = Annotated[
    Annotated[float, Tag("fixed")]
    | Annotated[FloatRange, Tag("range")]
    | Annotated[FloatChoice, Tag("choice")],
    Discriminator(_value_kind),
]
IntValue = Annotated[
    Annotated[int, Tag("fixed")]
    | Annotated[IntRange, Tag("range")]
    | Annotated[IntChoice, Tag("choice")],
    Discriminator(_value_kind),
]
BoolValue = Annotated[
    Annotated[bool, Tag("fixed")] | Annotated[BoolChoice, Tag("choice")], Discriminator(_text_kind)
]
TextValue = Annotated[
    Annotated[str, Tag("fixed")] | Annotated[TextChoice, Tag("choice")], Discriminator(_text_kind)
]
Value = (
    float
    | int
    | bool
    | str
    | FloatRange
    | IntRange
    | FloatChoice
    | IntChoice
    | BoolChoice
    | TextChoice
)
