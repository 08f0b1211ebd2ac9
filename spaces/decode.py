"""From params to stages: the only place where flat names become structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from spaces.influence import InfluenceSpec, SimplexSpec
from spaces.mix import shares_from_unit
from spaces.params import Float, Parameter, ParamValue, as_parameter
from spaces.recipe import Stage

BASE_LABEL = "base"
SEPARATOR = " > "
DEFAULT_BETA = 0.1
"""As in TRL and in Rafailov et al. 2023."""

_ADAPTER = "adapter."
_MIX = "mix."


def influence_values(
    prefix: str, spec: InfluenceSpec
) -> dict[str, Parameter | ParamValue | SimplexSpec | dict[str, float]]:
    """Return every value of an influence by field, fixed or to be searched; parameters are named `<prefix>.<field>`.

    A searched mix of n sources gives n - 1 parameters, `<prefix>.mix.<source>`, each in [0, 1].
    """
    values: dict[str, Parameter | ParamValue | SimplexSpec | dict[str, float]] = {
        "method": spec.method
    }
    for field in type(spec.adapter).model_fields:
        values[_ADAPTER + field] = as_parameter(f"{prefix}.{field}", getattr(spec.adapter, field))
    for field in ("dose_tokens", "learning_rate", "handoff"):
        values[field] = as_parameter(f"{prefix}.{field}", getattr(spec, field))
    if spec.method == "dpo":
        values["beta"] = (
            DEFAULT_BETA if spec.beta is None else as_parameter(f"{prefix}.beta", spec.beta)
        )
    values["mix"] = spec.mix
    if isinstance(spec.mix, SimplexSpec):
        for source in list(spec.mix.simplex)[:-1]:
            values[_MIX + source] = Float(f"{prefix}.mix.{source}", 0.0, 1.0)
    return values


def decode_stage(
    influence: str,
    values: Mapping[str, Parameter | ParamValue | SimplexSpec | dict[str, float]],
    params: Mapping[str, ParamValue],
) -> Stage:
    """Return the stage that an influence and the params mean.

    Raises:
        ValueError: The values make no legal stage.
    """
    decided: dict[str, Any] = {
        field: params[value.name] if isinstance(value, Parameter) else value
        for field, value in values.items()
    }
    mix = decided.pop("mix")
    units = [decided.pop(field) for field in list(decided) if field.startswith(_MIX)]
    if isinstance(mix, SimplexSpec):
        mix = shares_from_unit(mix.simplex, units)
    adapter = {
        field.removeprefix(_ADAPTER): decided.pop(field)
        for field in list(decided)
        if field.startswith(_ADAPTER)
    }
    for field in ("alpha", "dropout"):
        if field in adapter:
            adapter[field] = float(adapter[field])
    try:
        return Stage.model_validate(
            {"influence": influence, "adapter": adapter, "mix": dict(mix), **decided}
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("full", "lora"))
        raise ValueError(
            f"influences.{influence}{'.' + place if place else ''}: {first['msg'].removeprefix('Value error, ')}"
        ) from error
