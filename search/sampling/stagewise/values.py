"""Values of one parameter as positions and features, and values near others. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spaces.params import Choice, Float, Int, Parameter, ParamValue


def n_features(parameter: Parameter) -> int:
    """Return how many numbers stand for a value of a parameter."""
    if isinstance(parameter, Choice) and _numbers(parameter.choices) is None:
        return len(parameter.choices)
    return 1


def features(parameter: Parameter, value: ParamValue) -> float | list[float]:
    """Return the numbers that stand for a value: its position in a range, or a column for each word."""
    if not isinstance(parameter, Choice):
        return position_of(float(value), parameter.low, parameter.high, parameter.log)
    numbers = _numbers(parameter.choices)
    if numbers is None:
        return [float(value == choice) for choice in parameter.choices]
    low, high = min(numbers), max(numbers)
    return position_of(float(value), low, high, is_log=low > 0 and high / low >= 4)


def position_of(value: float, low: float, high: float, is_log: bool) -> float:
    """Return where a value lies between two ends, 0 to 1 inside."""
    if high == low:
        return 0.5
    if is_log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def value_at(parameter: Parameter, position: float) -> ParamValue:
    """Return the value at a position from 0 to 1 of a parameter, on its grid."""
    if isinstance(parameter, Choice):
        n = len(parameter.choices)
        return parameter.choices[min(int(position * n), n - 1)]
    low, high = float(parameter.low), float(parameter.high)
    value = low * (high / low) ** position if parameter.log else low + (high - low) * position
    if parameter.step is not None and not parameter.log:
        value = low + parameter.step * round((value - low) / parameter.step)
        value = value if value <= high + 1e-9 else value - parameter.step
    value = min(high, max(low, value))
    return round(value) if isinstance(parameter, Int) else float(value)


def near(parameter: Parameter, value: ParamValue, rng: np.random.Generator) -> ParamValue:
    """Return a value close to another, which need not be one that the parameter has."""
    if isinstance(parameter, Choice):
        at, n = parameter.choices.index(nearest(parameter, value)), len(parameter.choices)
        if _numbers(parameter.choices) is None:
            return parameter.choices[int(rng.integers(n))]
        return parameter.choices[min(n - 1, max(0, at + int(rng.choice((-1, 1)))))]
    assert isinstance(parameter, Float | Int)
    position = position_of(float(value), parameter.low, parameter.high, parameter.log)
    return value_at(parameter, float(np.clip(position + 0.15 * rng.standard_normal(), 0.0, 1.0)))


def nearest(parameter: Parameter, value: ParamValue) -> ParamValue:
    """Return the legal value that is closest to a number; a word must be one of the choices."""
    if isinstance(parameter, Choice):
        if value in parameter.choices:
            return value
        numbers = _numbers(parameter.choices)
        assert numbers is not None, f"{parameter.name}: {value!r} is no choice"
        return min(parameter.choices, key=lambda choice: abs(float(choice) - float(value)))
    matched = parameter.match(value)
    if matched is not None:
        return matched
    position = position_of(float(value), parameter.low, parameter.high, is_log=False)
    plain = type(parameter)(parameter.name, parameter.low, parameter.high, step=parameter.step)  # type: ignore[arg-type]
    return value_at(plain, min(1.0, max(0.0, position)))


def limits(parameter: Parameter) -> tuple[float, float]:
    """Return the smallest and the largest number that a parameter can be."""
    if isinstance(parameter, Choice):
        numbers = [float(choice) for choice in parameter.choices]
        return min(numbers), max(numbers)
    return float(parameter.low), float(parameter.high)


def least_above_zero(parameter: Parameter) -> ParamValue:
    """Return the smallest value above 0; one there must be."""
    if isinstance(parameter, Choice):
        return min((choice for choice in parameter.choices if float(choice) > 0), key=float)
    if parameter.low > 0:
        return parameter.low
    step = parameter.step or 1
    return parameter.low + step * (int(-parameter.low // step) + 1)


def _numbers(choices: Sequence[ParamValue]) -> list[float] | None:
    """Return the choices as numbers, None if one is a word or a truth value."""
    if any(isinstance(choice, str | bool) for choice in choices):
        return None
    return [float(choice) for choice in choices]
