"""Keep what a stage trained in files, and put it back into a model later, bit for bit.

Adapters are kept as adapters. Full weights are kept as the bits in which they differ from the base (XOR), bytes of like
rank side by side and compressed: training moves the low bits, so signs, exponents and leading bits vanish. Restoring
therefore needs the same base, and for an adapter the model before it: `needs_parent` says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from search.errors import StageError
from search.stages import handoff
from search.stages.combine import load_weights
from search.stages.model_ref import ModelRef
from search.stages.places import canonical_name
from spaces.adapter import Full
from spaces.recipe import Merge, Parallel, Stage

FILE = "trained.safetensors"
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
_CODEC = "zstd"


def write_trained(ref: ModelRef, parameters: list[torch.nn.Parameter], folder: Path) -> None:
    """Write what a stage trained, and what else its adapter needs, into `folder`, before its handoff.

    Args:
        ref: The model, with the stage's adapter still on it.
        parameters: What the stage trained.
        folder: Exists, and holds no such file yet.
    """
    parameters = [*parameters, *handoff.frozen_start(ref)]
    names = {id(parameter): name for name, parameter in ref.model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    packed: dict[str, list[int]] = {}
    for parameter in parameters:
        name = canonical_name(names[id(parameter)])
        value = parameter.detach().cpu().contiguous()
        if ".lora_" in name:
            tensors[name] = value
        else:
            packed[name] = list(value.shape)
            tensors[name] = _pack(value, ref.base.original(name).cpu())
    # Under its own name only when it is whole.
    part = folder.parent / f"{folder.name}.{FILE}"
    save_file(tensors, part, metadata={"packed": json.dumps(packed)})
    os.replace(part, folder / FILE)


def write_combined(ref: ModelRef, names: Iterable[str], folder: Path) -> None:
    """Write the weights of a model that several became one in, into `folder`; no adapter lies on it.

    Args:
        ref: The model.
        names: Its weights that differ from the base, by canonical name.
        folder: Exists, and holds no such file yet.
    """
    parameters = dict(ref.model.named_parameters())
    write_trained(ref, [parameters[name] for name in names], folder)


def needs_parent(ref: ModelRef, stage: Stage | Parallel | Merge) -> bool:
    """Tell, after a stage, whether its files alone do not make its model.

    They do where all weights were trained, and where models became one.
    """
    if not isinstance(stage, Stage):
        return False
    is_whole = isinstance(stage.adapter, Full) and (
        (stage.adapter.targets, stage.adapter.layers) == ("everything", "all")
    )
    return not is_whole or bool(ref.adapters)


def restore_stage(ref: ModelRef, stage: Stage | Parallel | Merge, folder: Path) -> None:
    """Bring the model to where `stage` left it; `ref` must be where the stage began.

    Where models became one, `ref` may also be the base.

    Raises:
        StageError: The files do not fit this model and stage.
    """
    if not isinstance(stage, Stage):
        _restore_combined(ref, folder)
        return
    parameters = handoff.begin(ref, stage, is_restored=True)
    parameters += handoff.frozen_start(ref)
    names = {id(parameter): name for name, parameter in ref.model.named_parameters()}
    with safe_open(folder / FILE, "pt") as file, torch.no_grad():
        packed = json.loads((file.metadata() or {}).get("packed", "{}"))
        expected = {canonical_name(names[id(parameter)]): parameter for parameter in parameters}
        if set(file.keys()) != set(expected):
            raise StageError(f"{folder / FILE}: holds other parameters than the stage trains")
        for name, parameter in expected.items():
            value = file.get_tensor(name)
            if name in packed:
                value = _unpack(value, ref.base.original(name).cpu())
            if value.shape != parameter.shape:
                raise StageError(f"{folder / FILE}: {name} has shape {tuple(value.shape)}")
            parameter.copy_(value)
    handoff.end(ref, stage)


def _restore_combined(ref: ModelRef, folder: Path) -> None:
    parameters = {name: one for name, one in ref.model.named_parameters() if ".lora_" not in name}
    own = {canonical_name(name): parameter for name, parameter in parameters.items()}
    with safe_open(folder / FILE, "pt") as file, torch.no_grad():
        names = set(file.keys())
        if set(json.loads((file.metadata() or {}).get("packed", "{}"))) != names:
            raise StageError(f"{folder / FILE}: holds weights that are no differences to the base")
        if not names <= set(own):
            raise StageError(f"{folder / FILE}: holds weights that the model lacks")
        ref.base.keep(names)
        weights = (
            (name, _unpack(file.get_tensor(name), ref.base.original(name).cpu())) for name in names
        )
        load_weights(ref, weights)
    ref.n_stages += 1


def _pack(value: Tensor, original: Tensor) -> Tensor:
    """Return the compressed difference in bits, shape (n_bytes,)."""
    size = value.element_size()
    bits = value.view(_BITS[size]) ^ original.contiguous().view(_BITS[size])
    planes = np.ascontiguousarray(bits.numpy().view(np.uint8).reshape(-1, size).T)
    compressed = pa.compress(planes.tobytes(), codec=_CODEC, asbytes=True)
    return torch.from_numpy(np.frombuffer(compressed, np.uint8).copy())


def _unpack(packed: Tensor, original: Tensor) -> Tensor:
    """Return the value whose difference to `original` was packed."""
    size = original.element_size()
    n_bytes = original.numel() * size
    try:
        raw: Any = pa.decompress(packed.numpy().tobytes(), n_bytes, codec=_CODEC, asbytes=True)
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"stored weights cannot be unpacked ({error})") from None
    planes = np.frombuffer(raw, np.uint8).reshape(size, -1)
    bits = torch.from_numpy(np.ascontiguousarray(planes.T).reshape(-1)).view(_BITS[size])
    return (bits.view(original.shape) ^ original.contiguous().view(_BITS[size])).view(
        original.dtype
    )
