"""Which parameters and modules a stage's `targets` and `layers` mean in a given model."""

from __future__ import annotations

import re
from typing import Any

from search.errors import StageError
from spaces.adapter import Full, LowRank
from spaces.place import FULL_TARGETS, TARGET_MODULES, layer_numbers, target_modules

_USUAL = {
    **{f"{kind}_proj": kind for kind in ("q", "k", "v", "o", "gate", "up", "down", "qkv")},
    **{"out_proj": "o", "attn.c_proj": "o", "attention.dense": "o", "self_attention.dense": "o"},
    **{"c_attn": "qkv", "query_key_value": "qkv", "gate_up_proj": "gate_up"},
    **{"fc1": "up", "c_fc": "up", "dense_h_to_4h": "up"},
    **{"fc2": "down", "mlp.c_proj": "down", "dense_4h_to_h": "down"},
}
"""Name of a module, with its parent's where the name alone says too little, to its kind."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")


def canonical_name(name: str) -> str:
    """Return a parameter's or module's name as it is without injected adapters."""
    return name.replace(".base_layer", "")


def layer_number(name: str) -> int | None:
    """Return the number of the decoder layer that a parameter or module belongs to; None outside the layers."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def n_layers(model: Any) -> int:
    """Return the number of decoder layers."""
    return int(model.config.get_text_config().num_hidden_layers)


def full_parameters(model: Any, adapter: Full) -> dict[str, Any]:
    """Return the parameters that a full adapter trains, by canonical name.

    `everything` on all layers is the whole model; on some layers it is all that those layers hold. Other targets
    select parameters whose name has one of the target names as a part, and the groups of `FULL_TARGETS`.

    Raises:
        StageError: Layers or targets select nothing in this model.
    """
    layers = _layers(model, adapter.layers)
    names = None if adapter.targets == "everything" else set(target_modules(adapter.targets))
    missing = set(names or ())
    groups = _groups(model, missing & set(FULL_TARGETS))
    chosen = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        number = layer_number(name)
        if adapter.layers != "all" and number not in layers:
            continue
        if names is None:
            chosen[canonical_name(name)] = parameter
            continue
        meant = names & set(canonical_name(name).split("."))
        meant |= {group for group, members in groups.items() if id(parameter) in members}
        if meant:
            chosen[canonical_name(name)] = parameter
            missing -= meant
    _check_found(model, adapter.targets, missing)
    if not chosen:
        raise StageError(f"layers {adapter.layers} hold no parameters in this model")
    return chosen


def lora_modules(model: Any, adapter: LowRank) -> dict[str, Any]:
    """Return the modules that a low-rank adapter attaches to, by canonical name.

    Raises:
        StageError: Layers, targets, excluded modules or ranks of their own select nothing in this model.
    """
    layers = _layers(model, adapter.layers)
    wanted = set(target_modules(adapter.targets))
    chosen = {
        canonical_name(name): module
        for name, module in model.named_modules()
        if _is_named(name, wanted) and (adapter.layers == "all" or layer_number(name) in layers)
    }
    _check_found(model, adapter.targets, {one for one in wanted if not _matches(chosen, one)})
    excluded = set(target_modules(adapter.exclude)) if adapter.exclude else set()
    useless = sorted(one for one in excluded if not _matches(chosen, one))
    if useless:
        raise StageError(
            f"exclude {useless[0]!r}: the adapter has no such module anyway; remove it, or name one of "
            f"{', '.join(sorted({name.rsplit('.', 1)[-1] for name in chosen}))}"
        )
    kept = {name: module for name, module in chosen.items() if not _is_named(name, excluded)}
    if not kept:
        raise StageError(
            f"exclude {adapter.exclude!r} leaves no module of targets {adapter.targets!r}"
        )
    return kept


def weight_kinds(model: Any) -> dict[str, str]:
    """Return what kind of weight each parameter is, by canonical name: q, k, v, o, gate, up, down and the like.

    Groups of `FULL_TARGETS` go first; embeddings that the head shares are `embeddings`. A module without a usual name
    is a kind of its own, under the name that the model gives it.
    """
    groups = _groups(model, set(FULL_TARGETS))
    kinds = {}
    for path, parameter in model.named_parameters():
        name = canonical_name(path)
        if ".lora_" in name:
            continue
        own = next((group for group in FULL_TARGETS if id(parameter) in groups[group]), None)
        parts = [part for part in name.split(".")[:-1] if not part.isdigit()]
        usual = (_USUAL.get(".".join(parts[-2:])), _USUAL.get(parts[-1] if parts else name))
        kinds[name] = own or next(filter(None, usual), parts[-1] if parts else name)
    return kinds


def _is_named(path: str, names: set[str]) -> bool:
    """Tell whether a module's path ends with one of the names, which may be paths themselves."""
    return path.rsplit(".", 1)[-1] in names or any(
        path == name or path.endswith(f".{name}") for name in names if "." in name
    )


def _matches(paths: dict[str, Any], name: str) -> bool:
    return any(_is_named(path, {name}) for path in paths)


def _groups(model: Any, wanted: set[str]) -> dict[str, set[int]]:
    """Return the ids of the parameters of each wanted group that only a model can tell."""
    members: dict[str, set[int]] = {group: set() for group in wanted}
    ends = {"embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    for group, module in ends.items():
        if group in members and module is not None:
            members[group].update(map(id, module.parameters()))
    for module in model.modules():
        if "norms" in members and "norm" in type(module).__name__.lower():
            members["norms"].update(map(id, module.parameters(recurse=False)))
        bias = getattr(module, "bias", None)
        if "biases" in members and bias is not None:
            members["biases"].add(id(bias))
    return members


def _layers(model: Any, layers: str) -> tuple[int, ...]:
    try:
        return layer_numbers(layers, n_layers(model))
    except ValueError as error:
        raise StageError(str(error)) from None


def _check_found(model: Any, targets: str, missing: set[str]) -> None:
    if not missing:
        return
    known = sorted(
        {
            canonical_name(name).rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if getattr(module, "weight", None) is not None and ".lora_" not in name
        }
    )
    hint = ""
    if targets in TARGET_MODULES:
        hint = "; name modules instead of a group"
    raise StageError(
        f"targets {targets!r}: the model has no {', '.join(sorted(missing))} in these layers"
        f"{hint}; it has {', '.join(known)}"
    )
