"""LoRA layers inside a plain model: put in, switch, merge, take out. PEFT does the layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from peft import LoraConfig
from peft.mapping import inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from search.errors import StageError
from search.stages.places import canonical_name, lora_modules, n_layers
from spaces.recipe import Lora, layer_range, target_modules


def lora_config(model: Any, settings: Lora) -> LoraConfig:
    """Return PEFT's configuration of an adapter."""
    layers = None
    if settings.layers != "all":
        layers = list(layer_range(settings.layers, n_layers(model)))
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
        target_modules=list(target_modules(settings.targets)),
        layers_to_transform=layers,
        bias="none",
        task_type="CAUSAL_LM",
    )


def add_adapter(model: Any, name: str, settings: Lora) -> None:
    """Inject a new adapter, which changes nothing yet: its B is zero. Its weights are float32.

    A is drawn from torch's generator, which a stage has seeded.

    Raises:
        StageError: Targets or layers are not in this model, or a target shares its weight with another module.
    """
    _check_untied(model, lora_modules(model, settings))
    with warnings.catch_warnings():
        # PEFT warns of a second adapter in the same model; here that is what stacking means.
        warnings.simplefilter("ignore", UserWarning)
        inject_adapter_in_model(lora_config(model, settings), model, adapter_name=name)
    for parameter in adapter_parameters(model, name).values():
        parameter.data = parameter.data.float()


def lora_layers(model: Any) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the LoRA layers of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def adapter_parameters(model: Any, name: str) -> dict[str, torch.nn.Parameter]:
    """Return an adapter's parameters by their names in the model."""
    return {
        path: parameter for path, parameter in model.named_parameters() if name in path.split(".")
    }


def activate(model: Any, names: Iterable[str]) -> None:
    """Let exactly these adapters take part in the forward pass, in this order; all are frozen."""
    active = list(names)
    for _, layer in lora_layers(model):
        layer.set_adapter(active, inference_mode=True)


def merge_adapter(model: Any, name: str) -> None:
    """Fold an adapter into the weights it lies on, in their dtype, and take it out."""
    for _, layer in lora_layers(model):
        if name in layer.lora_A or name in layer.lora_embedding_A:
            layer.merge(adapter_names=[name])
            layer.merged_adapters.remove(name)
    remove_adapters(model, [name])


def merged_names(model: Any, name: str) -> list[str]:
    """Return the canonical names of the parameters that merging an adapter would change."""
    return [
        f"{canonical_name(path)}.weight"
        for path, layer in lora_layers(model)
        if name in layer.lora_A or name in layer.lora_embedding_A
    ]


def remove_adapters(model: Any, names: Iterable[str]) -> None:
    """Take adapters out; layers without any become what they were before injection."""
    gone = set(names)
    for path, layer in list(lora_layers(model)):
        for name in gone:
            layer.set_adapter([kept for kept in layer.active_adapters if kept != name], True)
            layer.delete_adapter(name)
        if not layer._all_available_adapter_names():
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base_layer)
    if not any(True for _ in lora_layers(model)) and hasattr(model, "peft_config"):
        del model.peft_config


def dora_conflict(settings: Lora | None, stacked: Iterable[Lora]) -> str | None:
    """Return why a stage cannot train beside stacked adapters; None if it can.

    DoRA rescales the weights it lies on together with what else lies there, so its effect is not the sum of parts that
    handoffs rely on.
    """
    others = list(stacked)
    if settings is None or not others:
        return None
    if settings.dora:
        return "a DoRA stage cannot train on stacked adapters; hand them off with merge"
    if any(other.dora for other in others):
        return "a LoRA stage cannot train on a stacked DoRA adapter; hand it off with merge"
    return None


def adapter_names(model: Any) -> list[str]:
    """Return the names of all adapters in a model."""
    return sorted(
        {name for _, layer in lora_layers(model) for name in layer._all_available_adapter_names()}
    )


def _check_untied(model: Any, modules: dict[str, Any]) -> None:
    """Refuse what cannot be merged: an update of one module would also change the one that shares its weight."""
    if not model.config.get_text_config().tie_word_embeddings:
        return
    tied = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    for name, module in modules.items():
        if id(module) in tied:
            raise StageError(
                f"targets: {name} shares its weight with another module of this model, so LoRA on it "
                "cannot be merged; leave it out, or train it with a full adapter"
            )
