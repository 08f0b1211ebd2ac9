"""Adapters that begin with a part of the weights (PiSSA, OLoRA), on a model whose weights stay as they are.

PEFT takes the beginning out of the weights and puts the rest in their place. Here the weights stay, and a second,
frozen adapter takes the beginning off again: W x + s B A x - s B0 A0 x. That is the same function, the model begins as
its parent in any dtype of the weights, and what the stage trained is s (B A - B0 A0), a plain LoRA of twice the rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from search.errors import StageError
from search.stages.adapters import (
    Factors,
    add_adapter,
    add_factors,
    lora_layers,
    plain_linear,
    remove_adapters,
)
from search.stages.places import canonical_name, lora_modules
from spaces.adapter import ON_WEIGHTS, Lora

_START = "-start"


def start_name(name: str) -> str:
    """Return the name of the frozen adapter that takes the beginning of another one off again."""
    return f"{name}{_START}"


def begins_on_weights(settings: object) -> bool:
    """Tell whether an adapter begins with a part of the weights."""
    return isinstance(settings, Lora) and settings.init in ON_WEIGHTS


def add_on_weights(model: Any, name: str, settings: Lora, is_restored: bool) -> None:
    """Inject an adapter and its frozen counterpart.

    Args:
        model: The model; adapters that are stacked on it do not count as its weights.
        name: Of the adapter.
        settings: Of the adapter.
        is_restored: Both get their weights from files, so none are computed.

    Raises:
        StageError: As `add_adapter`, a target is not a plain linear module, or the rank is larger than the smaller
            side of a module.
    """
    for path, module in lora_modules(model, settings).items():
        plain_linear(path, module, f"init {settings.init}", "use init default")
    add_adapter(model, name, settings)
    factors = {}
    for path, layer in lora_layers(model):
        if name not in layer.lora_A:
            continue
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        if not is_restored:
            weight = layer.get_base_layer().weight.detach().float()
            rank, smaller = layer.r[name], min(weight.shape)
            if rank > smaller:
                raise StageError(
                    f"rank {rank} with init {settings.init}: {canonical_name(path)} has at most rank {smaller}; "
                    "lower it, or use init default"
                )
            start_a, start_b = _start(weight, rank, layer.scaling[name], settings.init)
            a.data.copy_(start_a)
            b.data.copy_(start_b)
        factors[canonical_name(path)] = Factors(a.detach(), b.detach(), -layer.scaling[name])
    add_factors(model, start_name(name), factors)


def finish_on_weights(model: Any, name: str) -> None:
    """Replace both adapters by one plain LoRA of twice the rank with the same effect."""
    start = start_name(name)
    factors = {}
    for path, layer in lora_layers(model):
        if name not in layer.lora_A:
            continue
        a = [layer.lora_A[one].weight.detach() for one in (name, start)]
        b = [layer.lora_B[name].weight.detach(), -layer.lora_B[start].weight.detach()]
        factors[canonical_name(path)] = Factors(
            torch.cat(a, dim=0), torch.cat(b, dim=1), layer.scaling[name]
        )
    remove_adapters(model, [name, start])
    add_factors(model, name, factors)


def _start(weight: Tensor, rank: int, scale: float, init: str) -> tuple[Tensor, Tensor]:
    """Return A (rank, n_in) and B (n_out, rank) that an adapter on `weight` (n_out, n_in) begins with.

    Sources: `pissa` Meng et al. 2024 (arXiv 2404.02948), eq. 2-3, with scale * B A the best approximation of the
    weight; `olora` Buyukakyuz 2024 (arXiv 2406.01775), first columns of Q and rows of R of its QR decomposition.
    """
    if init == "olora":
        q, r = torch.linalg.qr(weight)
        return r[:rank], q[:, :rank]
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    root = torch.sqrt(s[:rank] / scale)
    return root[:, None] * vh[:rank], u[:, :rank] * root
