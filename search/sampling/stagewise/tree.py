"""The tree of recipes as the sampler sees it: nodes are models, an edge is a step, params are paths from the base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spaces.params import Choice, Float, Int, Parameter, Params, ParamValue
from spaces.space import Space

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """A stage with its values chosen."""

    influence: str
    values: tuple[ParamValue, ...]
    """Values of the influence's parameters, in their order."""


Node = tuple[Step, ...]
"""A recipe, as the steps from the base to it."""


@dataclass(frozen=True)
class _Influence:
    fields: tuple[tuple[str | None, Parameter], ...]
    """Name after the prefix, and the parameter. No name: the parameter has no prefix, and influences share it."""
    columns: tuple[slice, ...]
    """Where each parameter's features lie."""
    doses: tuple[int, ...]
    """Positions of searched doses among the fields: one, or those of all branches."""
    fixed_dose: int
    """Tokens of the doses that are fixed."""


class Tree:
    """Recipes of a space as nodes; gives random and middle steps and their features."""

    def __init__(self, space: Space) -> None:
        """Read the influences of a space."""
        self._space = space
        self.influences = tuple(space.influences)
        self._known = {name: self._read(name) for name in self.influences}
        self.min_stages, self.max_stages = space.rules.min_stages, space.rules.max_stages

    def n_features(self, influence: str) -> int:
        """Return the number of features of an influence's values."""
        columns = self._known[influence].columns
        return columns[-1].stop if columns else 0

    def node(self, params: Mapping[str, ParamValue]) -> Node:
        """Return the node that params mean.

        Raises:
            KeyError: A value is missing.
        """
        sequence = self._space.sequence(params)
        return tuple(
            Step(name, tuple(params[key] for key in self._keys(prefix, name)))
            for prefix, name in self._space.positions(sequence)
        )

    def params(self, node: Node) -> Params:
        """Return the params that mean a node.

        Raises:
            ValueError: Its order is not legal.
        """
        sequence = tuple(step.influence for step in node)
        params = self._space.encode(sequence, {})
        for (prefix, name), step in zip(self._space.positions(sequence), node, strict=True):
            params.update(zip(self._keys(prefix, name), step.values, strict=True))
        return params

    def is_legal(self, node: Node) -> bool:
        """Return whether a node is a recipe that the space allows."""
        try:
            self._space.decode(self.params(node))
        except ValueError:
            return False
        return True

    def following(self, node: Node, n_stages: int) -> list[str]:
        """Return the influences that may come next in a recipe of `n_stages` stages."""
        return self._space.rules.legal_next([step.influence for step in node], n_stages)

    def fitted(self, node: Node, step: Step) -> Step:
        """Return a step with the values that a node has decided already: shared by positions, or by influences."""
        if not self._space.per_position:
            same = next((each for each in node if each.influence == step.influence), None)
            if same is not None:
                return same
        decided = {
            parameter.name: value
            for each in node
            for (field, parameter), value in zip(
                self._known[each.influence].fields, each.values, strict=True
            )
            if field is None
        }
        fields = self._known[step.influence].fields
        values = tuple(
            decided.get(parameter.name, value) if field is None else value
            for (field, parameter), value in zip(fields, step.values, strict=True)
        )
        return Step(step.influence, values)

    def random_step(self, influence: str, rng: np.random.Generator) -> Step:
        """Return a step with values drawn uniformly, in the logarithm for log ranges."""
        fields = self._known[influence].fields
        return Step(influence, tuple(_value(parameter, rng.random()) for _, parameter in fields))

    def middle_step(self, influence: str) -> Step:
        """Return the step in the middle of all ranges."""
        fields = self._known[influence].fields
        return Step(influence, tuple(_value(parameter, 0.5) for _, parameter in fields))

    def near_step(self, step: Step, rng: np.random.Generator) -> Step:
        """Return a step with one value or more moved a little."""
        fields = self._known[step.influence].fields
        if not fields:
            return step
        moved = rng.random(len(fields)) < 1.0 / len(fields)
        moved[rng.integers(len(fields))] = True
        values = (
            _near(parameter, value, rng) if is_moved else value
            for (_, parameter), value, is_moved in zip(fields, step.values, moved, strict=True)
        )
        return Step(step.influence, tuple(values))

    def features(self, step: Step) -> Array:
        """Return the values as numbers, shape (n_features,): ranges as 0 to 1, words as one column each."""
        known = self._known[step.influence]
        features = np.zeros(self.n_features(step.influence))
        for (_, parameter), column, value in zip(
            known.fields, known.columns, step.values, strict=True
        ):
            features[column] = _features(parameter, value)
        return features

    def dose_tokens(self, step: Step) -> float:
        """Return the tokens that a step trains."""
        known = self._known[step.influence]
        return known.fixed_dose + sum(float(step.values[at]) for at in known.doses)

    def _keys(self, prefix: str, influence: str) -> list[str]:
        """Return the names of an influence's params at a position."""
        return [
            parameter.name if field is None else f"{prefix}.{field}"
            for field, parameter in self._known[influence].fields
        ]

    def _read(self, name: str) -> _Influence:
        values = self._space.values(name, name)
        fields = tuple(
            (_without(f"{name}.", value.name), value)
            for value in values.values()
            if isinstance(value, Parameter)
        )
        columns, start = [], 0
        for _, parameter in fields:
            columns.append(slice(start, start + _n_features(parameter)))
            start = columns[-1].stop
        doses = [value for field, value in values.items() if field.split(".")[-1] == "dose_tokens"]
        searched = [parameter for _, parameter in fields]
        at = tuple(searched.index(dose) for dose in doses if isinstance(dose, Parameter))
        fixed = sum(dose for dose in doses if isinstance(dose, int))
        return _Influence(fields, tuple(columns), at, fixed)


def _without(prefix: str, name: str) -> str | None:
    return name.removeprefix(prefix) if name.startswith(prefix) else None


def _numbers(choices: Sequence[ParamValue]) -> list[float] | None:
    """Return the choices as numbers, None if one is a word or a truth value."""
    if any(isinstance(choice, str | bool) for choice in choices):
        return None
    return [float(choice) for choice in choices]


def _n_features(parameter: Parameter) -> int:
    if isinstance(parameter, Choice) and _numbers(parameter.choices) is None:
        return len(parameter.choices)
    return 1


def _features(parameter: Parameter, value: ParamValue) -> float | list[float]:
    if not isinstance(parameter, Choice):
        return _position(float(value), parameter.low, parameter.high, parameter.log)
    numbers = _numbers(parameter.choices)
    if numbers is None:
        return [float(value == choice) for choice in parameter.choices]
    low, high = min(numbers), max(numbers)
    return _position(float(value), low, high, is_log=low > 0 and high / low >= 4)


def _position(value: float, low: float, high: float, is_log: bool) -> float:
    if high == low:
        return 0.5
    if is_log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _value(parameter: Parameter, position: float) -> ParamValue:
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


def _near(parameter: Parameter, value: ParamValue, rng: np.random.Generator) -> ParamValue:
    if isinstance(parameter, Choice):
        at, n = parameter.choices.index(value), len(parameter.choices)
        if _numbers(parameter.choices) is None:
            return parameter.choices[int(rng.integers(n))]
        return parameter.choices[min(n - 1, max(0, at + int(rng.choice((-1, 1)))))]
    assert isinstance(parameter, Float | Int)
    position = _position(float(value), parameter.low, parameter.high, parameter.log)
    return _value(parameter, float(np.clip(position + 0.15 * rng.standard_normal(), 0.0, 1.0)))
