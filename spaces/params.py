"""Parameters of a space and how a sampler is asked for them. Names and distributions are Optuna's; no Optuna here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from spaces.spec import (
    BoolChoice,
    FloatChoice,
    FloatRange,
    IntChoice,
    IntRange,
    TextChoice,
    Value,
)

ParamValue = float | int | str | bool
Params = dict[str, ParamValue]


class Suggester(Protocol):
    """What a parameter needs of an Optuna trial."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a real value."""
        ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Return a whole number."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        ...


@dataclass(frozen=True)
class Float:
    """A real interval."""

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Suggester) -> ParamValue:
        """Ask for a value."""
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def match(self, value: ParamValue) -> ParamValue | None:
        """Return a legal value as a sampler would give it, None for one that is not legal; grid steps count."""
        if isinstance(value, bool | str) or not self.low <= value <= self.high:
            return None
        is_legal = self.step is None or _on_grid(value, self.low, self.step)
        return float(value) if is_legal else None

    def describe(self) -> str:
        """Return the range in words."""
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Int:
    """An interval of whole numbers."""

    name: str
    low: int
    high: int
    log: bool = False
    step: int = 1

    def suggest(self, trial: Suggester) -> ParamValue:
        """Ask for a value."""
        return trial.suggest_int(self.name, self.low, self.high, step=self.step, log=self.log)

    def match(self, value: ParamValue) -> ParamValue | None:
        """Return a legal value as a sampler would give it, None for one that is not legal; grid steps count."""
        if isinstance(value, bool | str) or not self.low <= value <= self.high:
            return None
        return int(value) if (value - self.low) % self.step == 0 else None

    def describe(self) -> str:
        """Return the range in words."""
        return f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Choice:
    """A list of values."""

    name: str
    choices: tuple[ParamValue, ...]

    def suggest(self, trial: Suggester) -> ParamValue:
        """Ask for a value."""
        value: ParamValue = trial.suggest_categorical(self.name, self.choices)
        return value

    def match(self, value: ParamValue) -> ParamValue | None:
        """Return the choice that a value equals, as it is listed, or None; 16 is 16.0 here, but True is not 1."""
        for choice in self.choices:
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        return None

    def describe(self) -> str:
        """Return the choices in words."""
        return ", ".join(str(choice) for choice in self.choices)


Parameter = Float | Int | Choice


def as_parameter(name: str, value: Value) -> Parameter | ParamValue:
    """Return the parameter that a value of study.yaml declares, or the value itself if it is fixed."""
    match value:
        case FloatRange():
            return Float(name, value.low, value.high, value.log, value.step)
        case IntRange():
            return Int(name, value.low, value.high, value.log, value.step or 1)
        case FloatChoice() | IntChoice() | BoolChoice() | TextChoice():
            return Choice(name, value.choice)
        case _:
            return value


class RandomSuggester:
    """Answers every question uniformly (in the logarithm for log ranges), repeatable from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a real value."""
        if log:
            return float(min(high, max(low, low * (high / low) ** self._random.random())))
        if step is not None:
            return low + step * self._random.randint(0, int((high - low) / step + 1e-9))
        return self._random.uniform(low, high)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Return a whole number."""
        if log:
            return min(high, max(low, round(float(low * (high / low) ** self._random.random()))))
        return low + step * self._random.randint(0, (high - low) // step)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        return self._random.choice(choices)


def _on_grid(value: float, low: float, step: float) -> bool:
    position = (value - low) / step
    return abs(position - round(position)) < 1e-6
