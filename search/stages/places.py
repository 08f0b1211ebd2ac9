"""Which parameters and modules a stage's `targets` and `layers` mean in a given model."""

from __future__ import annotations

import re
from typing import Any

from search.errors import StageError
from spaces.recipe import TARGET_MODULES, Full, Lora, layer_range, target_modules

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
    select parameters whose name has one of the target names as a part.

    Raises:
        StageError: Layers or targets select nothing in this model.
    """
    layers = _layers(model, adapter.layers)
    names = None if adapter.targets == "everything" else set(target_modules(adapter.targets))
    chosen = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        number = layer_number(name)
        if adapter.layers != "all" and number not in layers:
            continue
        if names is None or names & set(name.split(".")):
            chosen[canonical_name(name)] = parameter
    if names is not None:
        parts = {part for name in chosen for part in name.split(".")}
        _check_found(model, adapter.targets, names - parts)
    if not chosen:
        raise StageError(f"layers {adapter.layers} hold no parameters in this model")
    return chosen


def lora_modules(model: Any, adapter: Lora) -> dict[str, Any]:
    """Return the modules that a LoRA adapter attaches to, by canonical name.

    Raises:
        StageError: Layers or targets select nothing in this model.
    """
    layers = _layers(model, adapter.layers)
    wanted = set(target_modules(adapter.targets))
    chosen = {
        name: module
        for name, module in model.named_modules()
        if name.rsplit(".", 1)[-1] in wanted
        and (adapter.layers == "all" or layer_number(name) in layers)
    }
    _check_found(model, adapter.targets, wanted - {name.rsplit(".", 1)[-1] for name in chosen})
    return {canonical_name(name): module for name, module in chosen.items()}


def _layers(model: Any, layers: str) -> range:
    try:
        return layer_range(layers, n_layers(model))
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
