"""LoRA layers inside a plain model: put in, switch, merge, take out. PEFT does the layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.mapping import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor

from search.errors import StageError
from search.stages.places import canonical_name, lora_modules, n_layers
from spaces.adapter import Lora, LowRank, by_module
from spaces.place import layer_numbers, target_modules


@dataclass(frozen=True)
class Factors:
    """The update of one module: scale * B A."""

    a: Tensor
    """Shape (rank, n_in)."""
    b: Tensor
    """Shape (n_out, rank)."""
    scale: float
    """As PEFT's `scaling`."""


def lora_config(model: Any, settings: Lora) -> LoraConfig:
    """Return PEFT's configuration of an adapter as its settings say."""
    layers = None
    if settings.layers != "all":
        layers = list(layer_numbers(settings.layers, n_layers(model)))
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
        init_lora_weights="gaussian" if settings.init == "gaussian" else True,
        rank_pattern=_present(model, settings, by_module(settings.ranks)),
        alpha_pattern=_present(model, settings, by_module(settings.alphas)),
        exclude_modules=list(target_modules(settings.exclude)) if settings.exclude else None,
        target_modules=list(target_modules(settings.targets)),
        layers_to_transform=layers,
        bias="none",
        task_type="CAUSAL_LM",
    )


def stacked_config(model: Any, name: str, settings: LowRank) -> LoraConfig:
    """Return PEFT's configuration of an adapter as it lies on the model, for a file that PEFT reads."""
    if isinstance(settings, Lora) and settings.init in ("default", "gaussian"):
        return lora_config(model, settings)
    ranks, alphas = {}, {}
    for path, layer in lora_layers(model):
        if name in layer.lora_A:
            ranks[path] = layer.r[name]
            alphas[path] = layer.scaling[name] * layer.r[name]
    return plain_config(ranks, alphas)


def plain_config(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> LoraConfig:
    """Return the configuration of a plain LoRA adapter with these ranks and alphas by module."""
    paths = {canonical_name(path): rank for path, rank in ranks.items()}
    return LoraConfig(
        r=max(paths.values()),
        lora_alpha=max(paths.values()),
        rank_pattern=paths,
        alpha_pattern={canonical_name(path): alpha for path, alpha in alphas.items()},
        target_modules=list(paths),
        bias="none",
        task_type="CAUSAL_LM",
    )


def add_adapter(model: Any, name: str, settings: Lora) -> None:
    """Inject a new adapter, which changes nothing yet: its B is zero. Its weights are float32.

    A is drawn from torch's generator, which a stage has seeded.

    Raises:
        StageError: Targets or layers are not in this model, or a target shares its weight with another module.
    """
    modules = lora_modules(model, settings)
    check_untied(model, modules)
    for field in ("ranks", "alphas"):
        for module in getattr(settings, field):
            if not any(by_name in by_module({module: 1}) for by_name in _short_names(modules)):
                raise StageError(
                    f"{field}: the adapter has no module {module!r}; it has "
                    f"{', '.join(sorted({path.rsplit('.', 1)[-1] for path in modules}))}"
                )
    _inject(model, name, lora_config(model, settings))


def add_factors(model: Any, name: str, factors: Mapping[str, Factors]) -> None:
    """Inject a plain LoRA adapter with the given weights.

    Args:
        model: The model; other adapters may lie on it.
        name: Of the adapter.
        factors: Canonical name of a module to its update; ranks may differ.
    """
    ranks = {path: own.a.shape[0] for path, own in factors.items()}
    alphas = {path: own.scale * own.a.shape[0] for path, own in factors.items()}
    _inject(model, name, plain_config(ranks, alphas))
    for path, layer in lora_layers(model):
        own = factors.get(canonical_name(path))
        if own is not None and name in layer.lora_A:
            layer.lora_A[name].weight.data.copy_(own.a)
            layer.lora_B[name].weight.data.copy_(own.b)


def summed_factors(model: Any, names: Iterable[str]) -> dict[str, Factors]:
    """Return one update for each module that is the sum of what several plain adapters add to it.

    Raises:
        StageError: An adapter is no plain LoRA on a linear module.
    """
    chosen, factors = list(names), {}
    for path, layer in lora_layers(model):
        if layer.lora_embedding_A or any(layer.use_dora.get(name) for name in chosen):
            raise StageError(
                f"{path}: only plain LoRA on linear modules can be summed; save it merged"
            )
        own = [name for name in chosen if name in layer.lora_A]
        if own:
            a = torch.cat([layer.lora_A[name].weight.detach() for name in own], dim=0)
            b = [layer.scaling[name] * layer.lora_B[name].weight.detach() for name in own]
            factors[canonical_name(path)] = Factors(a, torch.cat(b, dim=1), 1.0)
    return factors


def plain_linear(path: str, module: Any, taker: str, remedy: str) -> torch.nn.Linear:
    """Return the layer that holds a module's weight, from under adapters that lie on it.

    Args:
        path: Canonical name of the module.
        module: The module.
        taker: What takes no other layers, for the error.
        remedy: For the error.

    Raises:
        StageError: The layer is not exactly `torch.nn.Linear`: others keep their weight in another form.
    """
    holder = module.get_base_layer() if hasattr(module, "base_layer") else module
    if type(holder) is not torch.nn.Linear:
        raise StageError(
            f"targets: {path} is a {type(holder).__name__}, and {taker} takes Linear; {remedy}"
        )
    return holder


def lora_layers(model: Any) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the LoRA layers of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def adapter_parameters(model: Any, name: str) -> dict[str, torch.nn.Parameter]:
    """Return an adapter's trainable parameters by their names in the model."""
    return {
        path: parameter
        for path, parameter in model.named_parameters()
        if ".lora_" in path and name in path.split(".")
    }


def adapter_ranks(model: Any, name: str) -> dict[str, int]:
    """Return the rank of an adapter in each module, by canonical name, while it lies on the model."""
    return {
        canonical_name(path): int(layer.r[name])
        for path, layer in lora_layers(model)
        if name in layer.lora_A
    }


def adapter_factors(model: Any, name: str) -> dict[str, Factors]:
    """Return copies of a plain LoRA adapter's updates by the canonical name of the weight that they change."""
    found = {}
    for path, layer in lora_layers(model):
        if name in layer.lora_A:
            a, b, is_turned = layer.lora_A[name].weight, layer.lora_B[name].weight, False
        elif name in layer.lora_embedding_A:
            a, b, is_turned = layer.lora_embedding_A[name], layer.lora_embedding_B[name], True
        else:
            continue
        if is_turned or getattr(layer, "fan_in_fan_out", False):
            # The weight is (n_in, n_out), so its update is that of a linear layer, transposed.
            a, b = b.T, a.T
        found[f"{canonical_name(path)}.weight"] = Factors(
            a.detach().clone(), b.detach().clone(), float(layer.scaling[name])
        )
    return found


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
    # Inner layers first: where one lies in another, the outer one takes over what the inner one becomes.
    for path, layer in reversed(list(lora_layers(model))):
        for name in gone:
            layer.set_adapter([kept for kept in layer.active_adapters if kept != name], True)
            layer.delete_adapter(name)
        if not layer._all_available_adapter_names():
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base_layer)
    if not any(True for _ in lora_layers(model)) and hasattr(model, "peft_config"):
        del model.peft_config


def adapter_names(model: Any) -> list[str]:
    """Return the names of all adapters in a model."""
    return sorted(
        {name for _, layer in lora_layers(model) for name in layer._all_available_adapter_names()}
    )


def rate_ratios(model: Any, name: str, settings: LowRank) -> dict[int, float]:
    """Return the id of each parameter of an adapter that learns faster or slower, and its multiple of the rate.

    Only LoRA+ has some: B learns `lr_ratio` times as fast as A (Hayou et al. 2024, arXiv 2402.12354).
    """
    if not isinstance(settings, Lora) or settings.lr_ratio == 1.0:
        return {}
    return {
        id(parameter): settings.lr_ratio
        for path, parameter in adapter_parameters(model, name).items()
        if ".lora_B." in path
    }


def check_untied(model: Any, modules: Mapping[str, Any]) -> None:
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


def _inject(model: Any, name: str, config: LoraConfig) -> None:
    with warnings.catch_warnings():
        # PEFT warns of a second adapter in the same model; here that is what stacking means.
        warnings.simplefilter("ignore", UserWarning)
        inject_adapter_in_model(config, model, adapter_name=name)
    for parameter in adapter_parameters(model, name).values():
        parameter.data = parameter.data.float()


def _present(model: Any, settings: Lora, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the modules that the adapter does not have, of which PEFT would warn."""
    if not values:
        return {}
    names = _short_names(lora_modules(model, settings))
    return {name: value for name, value in values.items() if name in names}


def _short_names(modules: Mapping[str, Any]) -> set[str]:
    """Return every name that may mean one of the modules: each end of its path."""
    ends: set[str] = set()
    for path in modules:
        parts = path.split(".")
        ends.update(".".join(parts[at:]) for at in range(len(parts)))
    return ends
