"""Save a trained model so that plain transformers or PEFT load it."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from search.errors import SpecError
from search.stages.adapters import (
    adapter_parameters,
    lora_layers,
    plain_config,
    stacked_config,
    summed_factors,
)
from search.stages.model_ref import ModelRef
from search.stages.places import canonical_name

Form = Literal["auto", "adapter", "merged"]


def save_model(ref: ModelRef, out: Path, form: Form = "auto") -> Path:
    """Save the model and its tokenizer as safetensors. The folder appears whole or not at all; `ref` is left as it is.

    Args:
        ref: The model.
        out: Folder to make.
        form: `merged` is a plain model; `adapter` a PEFT adapter for the untouched base, several as one with the same
            effect; `auto` an adapter where the model is the base plus exactly one.

    Raises:
        SpecError: `out` exists, or the model is not the base with adapters.
    """
    if out.exists():
        raise SpecError(f"{out}: exists already; name a folder that does not")
    is_adapter = bool(ref.adapters) and not ref.is_base_changed
    if form == "adapter" and not is_adapter:
        raise SpecError(
            f"{out}: the model is not the base with adapters ({len(ref.adapters)} stacked, "
            f"base weights {'changed' if ref.is_base_changed else 'unchanged'}); save it merged"
        )
    if form == "auto":
        form = "adapter" if is_adapter and len(ref.adapters) == 1 else "merged"
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir()
        if form == "adapter":
            save = _save_adapter if len(ref.adapters) == 1 else _save_sum
            save(ref, part)
        else:
            _save_merged(ref, part)
        ref.tokenizer.save_pretrained(part)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _save_adapter(ref: ModelRef, folder: Path) -> None:
    (adapter,) = ref.adapters
    config = stacked_config(ref.model, adapter.name, adapter.settings)
    tensors = {}
    for name, parameter in adapter_parameters(ref.model, adapter.name).items():
        key = ".".join(part for part in name.split(".") if part != adapter.name)
        key = key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
        tensors[key] = parameter.detach()
    _write_adapter(ref, folder, config, tensors)


def _save_sum(ref: ModelRef, folder: Path) -> None:
    """Save several adapters as one: their A one above the other, their B, scaled, side by side."""
    factors = summed_factors(ref.model, [adapter.name for adapter in ref.adapters])
    tensors = {}
    for path, own in factors.items():
        tensors[f"{path}.lora_A.weight"] = own.a
        tensors[f"{path}.lora_B.weight"] = own.b
    ranks = {path: own.a.shape[0] for path, own in factors.items()}
    _write_adapter(ref, folder, plain_config(ranks, dict(ranks)), tensors)


def _write_adapter(ref: ModelRef, folder: Path, config: Any, tensors: dict[str, Tensor]) -> None:
    config.base_model_name_or_path = ref.base_name
    config.inference_mode = True
    config.save_pretrained(folder)
    named = {
        f"base_model.model.{key}": tensor.cpu().contiguous() for key, tensor in tensors.items()
    }
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def _save_merged(ref: ModelRef, folder: Path) -> None:
    model = ref.model
    layers = dict(lora_layers(model))
    tensors: dict[str, Tensor] = {
        canonical_name(name): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in layers.items():
        tensors[f"{name}.weight"] = merged_weight(layer)
    try:
        # transformers writes the modules' own names, so the layers step aside meanwhile.
        for name, layer in layers.items():
            _put(model, name, layer.base_layer)
        model.save_pretrained(folder, state_dict=tensors)
    finally:
        for name, layer in layers.items():
            _put(model, name, layer)


def merged_weight(layer: Any) -> Tensor:
    """Return a copy of the weight that a LoRA layer and its active adapters amount to; the layer stays as it is."""
    weight = layer.base_layer.weight
    before = weight.detach().clone()
    try:
        layer.merge(adapter_names=list(layer.active_adapters))
        merged: Tensor = weight.detach().clone()
        return merged
    finally:
        layer.merged_adapters.clear()
        weight.data.copy_(before)


def _put(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
