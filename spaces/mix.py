"""Shares over sources as searched values: a point of a bounded simplex from independent numbers in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spaces.mix_spec import AnyMix, CurriculumSpec, ShareRange, SimplexSpec, TemperatureSpec
from spaces.params import Float, Parameter, ParamValue, as_parameter


def mix_values(prefix: str, mix: AnyMix) -> dict[str, Parameter | ParamValue | AnyMix]:
    """Return a mix and what of it is to be searched, by flat field name; parameters are `<prefix>.<field>`.

    The fields are `mix`, and `mix.<source>`, `mix.start.<source>`, `mix.end.<source>` or `mix.temperature`.
    """
    values: dict[str, Parameter | ParamValue | AnyMix] = {"mix": mix}
    if isinstance(mix, CurriculumSpec):
        for side, part in (("start", mix.start), ("end", mix.end)):
            for source in _free(part):
                values[f"mix.{side}.{source}"] = Float(f"{prefix}.mix.{side}.{source}", 0.0, 1.0)
    elif isinstance(mix, TemperatureSpec):
        values["mix.temperature"] = as_parameter(f"{prefix}.mix.temperature", mix.temperature)
    else:
        for source in _free(mix):
            values[f"mix.{source}"] = Float(f"{prefix}.mix.{source}", 0.0, 1.0)
    return values


def mix_data(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return `mix`, `end_mix` and `temperature` of a stage, as far as it has them.

    Args:
        fields: Decided values by the names of `mix_values`; empty for what draws no rows.
    """
    mix = fields.get("mix", {})
    if isinstance(mix, CurriculumSpec):
        return {
            "mix": _shares(mix.start, "mix.start", fields),
            "end_mix": _shares(mix.end, "mix.end", fields),
        }
    if isinstance(mix, TemperatureSpec):
        equal = {source: 1.0 / len(mix.sources) for source in mix.sources}
        return {"mix": equal, "temperature": float(fields["mix.temperature"])}
    return {"mix": _shares(mix, "mix", fields)}


def _free(mix: dict[str, float] | SimplexSpec) -> list[str]:
    return list(mix.simplex)[:-1] if isinstance(mix, SimplexSpec) else []


def _shares(
    mix: dict[str, float] | SimplexSpec, place: str, fields: Mapping[str, Any]
) -> dict[str, float]:
    if not isinstance(mix, SimplexSpec):
        return dict(mix)
    return shares_from_unit(mix.simplex, [fields[f"{place}.{source}"] for source in _free(mix)])


def shares_from_unit(bounds: Mapping[str, ShareRange], units: Sequence[float]) -> dict[str, float]:
    """Return shares that respect their bounds and sum to 1.

    Shares are broken off a stick one after the other, each within what the others' bounds leave. Without bounds the
    result is uniform on the simplex if the units are uniform: the first of n shares is Beta(1, n - 1) (Devroye 1986,
    "Non-Uniform Random Variate Generation", chapter XI.4).

    Args:
        bounds: Source to bounds of its share, n sources.
        units: n - 1 numbers in [0, 1].

    Raises:
        ValueError: The number of units is not n - 1.
    """
    names = list(bounds)
    if len(units) != len(names) - 1:
        raise ValueError(f"{len(names)} sources need {len(names) - 1} numbers, got {len(units)}")
    shares: dict[str, float] = {}
    left = 1.0
    for position, (name, unit) in enumerate(zip(names, units, strict=False)):
        later = [bounds[other] for other in names[position + 1 :]]
        low = max(bounds[name].low, left - sum(b.high for b in later))
        high = min(bounds[name].high, left - sum(b.low for b in later))
        portion = 1.0 - (1.0 - unit) ** (1.0 / len(later))
        shares[name] = low + portion * max(0.0, high - low)
        left -= shares[name]
    shares[names[-1]] = left
    # A source with no share is left out: shares of a mix are positive.
    kept = {name: round(share, 6) for name, share in shares.items() if share > 5e-7}
    largest = max(kept, key=lambda name: kept[name])
    kept[largest] = round(1.0 - sum(share for name, share in kept.items() if name != largest), 6)
    return kept
