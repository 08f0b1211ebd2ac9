"""From params to stages: the only place where flat names become structure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spaces.adapter_spec import adapter_data, adapter_values
from spaces.combine import SPARSE, CombinationSpec
from spaces.influence import InfluenceSpec, MergeSpec, ParallelSpec, RampSpec, TermSpec
from spaces.loss import LOSS_SETTINGS
from spaces.mix import mix_data, mix_values, shares_from_unit
from spaces.mix_spec import AnyMix, SimplexSpec
from spaces.parallel import AnyStage, Merge, Parallel
from spaces.params import Float, Parameter, ParamValue, as_parameter
from spaces.stage import Stage

BASE_LABEL = "base"
SEPARATOR = " > "

DOSE_FACTOR = "repeat.dose_factor"
"""Field of an influence that decides the doses of its runs and is no part of any stage."""
_DOSE = re.compile(r"(parts\..+\.\d+\.)?dose_tokens")

FieldValue = Parameter | ParamValue | AnyMix
"""A parameter, a value, or a mix whose parts are parameters of their own."""

_UNION_TAGS = ("full", "lora", "adalora")
_STAGE: TypeAdapter[Stage | Parallel | Merge] = TypeAdapter(AnyStage)


def influence_values(
    prefix: str,
    spec: InfluenceSpec | ParallelSpec | MergeSpec,
    known: Mapping[str, InfluenceSpec | ParallelSpec | MergeSpec] | None = None,
) -> dict[str, FieldValue]:
    """Return every value of an influence by field, fixed or to be searched; parameters are named `<prefix>.<field>`.

    A searched mix of n sources gives n - 1 parameters, `<prefix>.mix.<source>`, each in [0, 1]. What belongs to a term
    of a joint influence is named `<prefix>.<term>.<field>`, what belongs to a stage of a branch
    `<prefix>.<branch>.<influence>.<field>`.

    Args:
        prefix: Of the parameters' names.
        spec: The influence.
        known: All influences by name; a parallel one needs those of its branches.
    """
    if not isinstance(spec, InfluenceSpec):
        return _combining_values(prefix, spec, known or {})
    values: dict[str, FieldValue] = {"method": spec.method}
    for field, value in adapter_values(prefix, spec.adapter).items():
        values[f"adapter.{field}"] = value
    for field in ("dose_tokens", "learning_rate", "handoff"):
        values[field] = as_parameter(f"{prefix}.{field}", getattr(spec, field))
    if spec.repeat is not None:
        values[DOSE_FACTOR] = as_parameter(f"{prefix}.{DOSE_FACTOR}", spec.repeat.dose_factor)
    if spec.max_passes is not None:
        values["max_passes"] = spec.max_passes
    if spec.method != "joint":
        return values | _loss_values(prefix, spec.method, spec)
    values["arbitration"] = as_parameter(f"{prefix}.arbitration", spec.arbitration)
    for loss, term in spec.terms.items():
        for field, found in _term_values(f"{prefix}.{loss}", loss, term).items():
            values[f"terms.{loss}.{field}"] = found
    return values if spec.weights is None else values | _simplex_values(prefix, spec.weights)


def dose_fields(values: Mapping[str, FieldValue]) -> list[str]:
    """Return the fields that are doses: one of an influence that trains, those of all branches, or none of a merge."""
    return [field for field in values if _DOSE.fullmatch(field)]


def decode_stage(
    influence: str,
    values: Mapping[str, FieldValue],
    params: Mapping[str, ParamValue],
    doses: Mapping[str, int] | None = None,
) -> Stage | Parallel | Merge:
    """Return the stage that an influence and the params mean.

    Args:
        influence: Its name.
        values: From `influence_values`.
        params: Values of its parameters, by name.
        doses: Of this run by field, where they are not the influence's own. A stage of a branch whose dose is 0 is left
            out.

    Raises:
        ValueError: The values make no legal stage.
    """
    decided: dict[str, Any] = {
        field: params[value.name] if isinstance(value, Parameter) else value
        for field, value in values.items()
        if field != DOSE_FACTOR
    } | dict(doses or {})
    if decided["method"] in ("parallel", "merge"):
        stage = _combining_data(influence, decided)
    else:
        stage = _training_data(influence, decided)
    try:
        return _STAGE.validate_python(stage)
    except ValidationError as error:
        first = error.errors()[0]
        # The first part is the method, which tells kinds of stages apart.
        place = ".".join(str(part) for part in first["loc"][1:] if part not in _UNION_TAGS)
        raise ValueError(
            f"influences.{influence}{'.' + place if place else ''}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _training_data(influence: str, decided: dict[str, Any]) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "influence": influence,
        "adapter": adapter_data(_take(decided, "adapter")),
    }
    weights = _weights(decided)
    terms: dict[str, dict[str, Any]] = {}
    for field, value in _take(decided, "terms").items():
        name, _, rest = field.partition(".")
        terms.setdefault(name, {})[rest] = value
    if terms:
        stage["terms"] = {name: _term_data(term, weights.get(name)) for name, term in terms.items()}
    return stage | _mixed_data(decided)


def _combining_values(
    prefix: str,
    spec: ParallelSpec | MergeSpec,
    known: Mapping[str, InfluenceSpec | ParallelSpec | MergeSpec],
) -> dict[str, FieldValue]:
    """Return the values of an influence that combines models; `parts` are its branches or models."""
    values: dict[str, FieldValue] = {"method": spec.method}
    parts = spec.branches if isinstance(spec, ParallelSpec) else spec.models
    for name, part in parts.items():
        values[f"parts.{name}.weight"] = as_parameter(f"{prefix}.{name}.weight", part.weight or 0.0)
    if spec.weights is not None:
        values |= _simplex_values(prefix, spec.weights)
    values |= _combination_values(f"{prefix}.combination", spec.combination)
    if isinstance(spec, MergeSpec):
        for name, model in spec.models.items():
            values[f"parts.{name}.digest"] = model.digest or ""
        return values
    for name, branch in spec.branches.items():
        values[f"parts.{name}.order"] = SEPARATOR.join(branch.stages)
        for at, influence in enumerate(branch.stages):
            copy = branch.stages[:at].count(influence) + 1
            own = f"{prefix}.{name}.{influence}" + (f".{copy}" if copy > 1 else "")
            for field, value in influence_values(own, known[influence]).items():
                # What is in a branch twice has values of its own each time.
                if field != DOSE_FACTOR:
                    values[f"parts.{name}.{at}.{field}"] = value
    return values


def _simplex_values(prefix: str, weights: SimplexSpec) -> dict[str, FieldValue]:
    free = list(weights.simplex)[:-1]
    return {
        "weights": weights,
        **{f"weights.{name}": Float(f"{prefix}.weights.{name}", 0.0, 1.0) for name in free},
    }


def _combination_values(prefix: str, spec: CombinationSpec) -> dict[str, FieldValue]:
    values: dict[str, FieldValue] = {}
    for field in type(spec).model_fields:
        given = getattr(spec, field)
        if given is not None:
            values[f"combination.{field}"] = as_parameter(f"{prefix}.{field}", given)
    return values


def _combining_data(influence: str, decided: dict[str, Any]) -> dict[str, Any]:
    """Return what a Parallel or a Merge is validated from."""
    combination = _take(decided, "combination")
    if combination["how"] not in SPARSE or combination.get("density") == 1:
        combination.pop("density", None)
    if combination["how"] != "svd":
        combination.pop("rank", None)
    weights = _weights(decided)
    parts: dict[str, dict[str, Any]] = {}
    for field, value in _take(decided, "parts").items():
        name, _, rest = field.partition(".")
        parts.setdefault(name, {})[rest] = value
    stage = {"influence": influence, "method": decided["method"], "combination": combination}
    if decided["method"] == "merge":
        models = {
            name: {"weight": weights.get(name, part["weight"]), "digest": part["digest"] or None}
            for name, part in parts.items()
        }
        return {**stage, "models": models}
    branches = {
        name: {"weight": weights.get(name, part["weight"]), "stages": _branch_stages(part)}
        for name, part in parts.items()
    }
    return {**stage, "branches": branches}


def _branch_stages(part: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    influences = part["order"].split(SEPARATOR) if part["order"] else []
    stages = [_training_data(name, _take(part, str(at))) for at, name in enumerate(influences)]
    return tuple(stage for stage in stages if stage["dose_tokens"] != 0)


def _loss_values(prefix: str, loss: str, holder: InfluenceSpec | TermSpec) -> dict[str, FieldValue]:
    """Return the settings and the mix of one loss."""
    values: dict[str, FieldValue] = {}
    for name, default in LOSS_SETTINGS[loss].items():
        given = getattr(holder, name)
        values[name] = default if given is None else as_parameter(f"{prefix}.{name}", given)
    return values | mix_values(prefix, holder.mix)


def _term_values(prefix: str, loss: str, term: TermSpec) -> dict[str, FieldValue]:
    values: dict[str, FieldValue] = {}
    if isinstance(term.weight, RampSpec):
        values["weight"] = as_parameter(f"{prefix}.weight.start", term.weight.start)
        values["end_weight"] = as_parameter(f"{prefix}.weight.end", term.weight.end)
    elif term.weight is not None:
        values["weight"] = as_parameter(f"{prefix}.weight", term.weight)
    return values | _loss_values(prefix, loss, term)


def _term_data(fields: dict[str, Any], weight: float | None) -> dict[str, Any]:
    data = _mixed_data(fields)
    return data if weight is None else data | {"weight": weight}


def _mixed_data(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what a Stage or a Term is validated from, given decided values by flat field name."""
    parts = {name for name in fields if name == "mix" or name.startswith("mix.")}
    data = {name: value for name, value in fields.items() if name not in parts}
    return data | mix_data({name: fields[name] for name in parts})


def _weights(decided: dict[str, Any]) -> dict[str, float]:
    """Take the shared weights of all terms out of decided values; empty where each term has its own."""
    units = _take(decided, "weights")
    simplex = decided.pop("weights", None)
    if not isinstance(simplex, SimplexSpec):
        return {}
    shares = shares_from_unit(simplex.simplex, [units[name] for name in list(simplex.simplex)[:-1]])
    return {name: shares.get(name, 0.0) for name in simplex.simplex}


def _take(decided: dict[str, Any], head: str) -> dict[str, Any]:
    """Take the fields that begin with `head.` out of decided values, without it."""
    found = [field for field in decided if field.startswith(f"{head}.")]
    return {field.removeprefix(f"{head}."): decided.pop(field) for field in found}
