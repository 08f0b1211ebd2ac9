"""Keep what a stage trained in files, and put it back into a model later, bit for bit.

Adapters are kept as adapters. Full weights are kept as the bits in which they differ from the base (XOR), bytes of like
rank side by side and compressed: training moves the low bits, so signs, exponents and leading bits vanish. Restoring
therefore needs the same base, and for an adapter the model before it: `needs_parent` says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
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
CHUNK = 1 << 18
"""Weights that are packed together: few enough to stay in a core's cache on the way."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
_CODEC = "zstd"


@dataclass(frozen=True)
class StageWeights:
    """What a stage trained, and what else its adapter needs, before its handoff."""

    adapter: Mapping[str, Tensor]
    """Canonical name to weights of an adapter: copies."""
    changed: Mapping[str, tuple[Tensor, Tensor]]
    """Canonical name to a full weight and the same one in the base: the tensors themselves, to spare the memory of a
    second model, so nothing may change them in place before they are written."""

    @classmethod
    def of(cls, ref: ModelRef, parameters: list[torch.nn.Parameter]) -> StageWeights:
        """Take hold of what a stage trained.

        Args:
            ref: The model, with the stage's adapter still on it.
            parameters: What the stage trained.
        """
        names = {id(parameter): name for name, parameter in ref.model.named_parameters()}
        adapter: dict[str, Tensor] = {}
        changed: dict[str, tuple[Tensor, Tensor]] = {}
        for parameter in [*parameters, *handoff.frozen_start(ref)]:
            name = canonical_name(names[id(parameter)])
            # Not the parameter: a suite may let it point to weights of another precision for a while.
            value = parameter.detach()
            if ".lora_" in name:
                adapter[name] = value.to("cpu", copy=True)
            else:
                changed[name] = (value, ref.base.original(name))
        return cls(adapter, changed)

    def write(self, folder: Path) -> None:
        """Write them into `folder`, which exists and holds no such file yet. Any thread may do so.

        Raises:
            OSError: The disk is full, or the like.
            SafetensorError: The same.
        """
        tensors = {name: value.contiguous() for name, value in self.adapter.items()}
        for name, (value, original) in self.changed.items():
            tensors[name] = _pack(value.cpu(), original.cpu())
        # Under its own name only when it is whole.
        part = folder.parent / f"{folder.name}.{FILE}"
        layout = {"weights": CHUNK, "names": list(self.changed)}
        save_file(tensors, part, metadata={"chunks": json.dumps(layout)})
        os.replace(part, folder / FILE)


Keep = Callable[[StageWeights], None]
"""Is given what a stage trained, to be written for `restore_stage`."""


def combined_weights(ref: ModelRef, names: Iterable[str]) -> StageWeights:
    """Take hold of the weights of a model that several became one in; no adapter lies on it.

    Args:
        ref: The model.
        names: Its weights that differ from the base, by canonical name.
    """
    parameters = dict(ref.model.named_parameters())
    return StageWeights.of(ref, [parameters[name] for name in names])


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


def restore_stage(
    ref: ModelRef,
    stage: Stage | Parallel | Merge,
    folder: Path,
    look: Callable[[], None] | None = None,
) -> None:
    """Bring the model to where `stage` left it; `ref` must be where the stage began.

    Where models became one, `ref` may also be the base.

    Args:
        ref: The model.
        stage: The stage.
        folder: Its files.
        look: As in `handoff.end`.

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
        chunk_by_name = _chunks(file.metadata() or {})
        expected = {canonical_name(names[id(parameter)]): parameter for parameter in parameters}
        if set(file.keys()) != set(expected):
            raise StageError(f"{folder / FILE}: holds other parameters than the stage trains")
        for name, parameter in expected.items():
            value = file.get_tensor(name)
            if name in chunk_by_name:
                value = _unpacked(ref, name, value, chunk_by_name[name])
            if value.shape != parameter.shape:
                raise StageError(f"{folder / FILE}: {name} has shape {tuple(value.shape)}")
            parameter.copy_(value)
    handoff.end(ref, stage, look)


def _restore_combined(ref: ModelRef, folder: Path) -> None:
    parameters = {name: one for name, one in ref.model.named_parameters() if ".lora_" not in name}
    own = {canonical_name(name): parameter for name, parameter in parameters.items()}
    with safe_open(folder / FILE, "pt") as file, torch.no_grad():
        names = set(file.keys())
        chunk_by_name = _chunks(file.metadata() or {})
        if set(chunk_by_name) != names:
            raise StageError(f"{folder / FILE}: holds weights that are no differences to the base")
        if not names <= set(own):
            raise StageError(f"{folder / FILE}: holds weights that the model lacks")
        ref.base.keep(names)
        weights = (
            (name, _unpacked(ref, name, file.get_tensor(name), chunk_by_name[name]))
            for name in names
        )
        load_weights(ref, weights)
    ref.n_stages += 1


def _unpacked(ref: ModelRef, name: str, packed: Tensor, chunk: int | None) -> Tensor:
    original = ref.base.original(name).cpu()
    return _unpack(packed, original, chunk or original.numel())


def _chunks(metadata: Mapping[str, str]) -> dict[str, int | None]:
    """Return how many weights of each packed tensor were packed together; None for all, as in files of old."""
    if "packed" in metadata:
        return dict.fromkeys(json.loads(metadata["packed"]))
    layout = json.loads(metadata.get("chunks", '{"weights": 1, "names": []}'))
    return dict.fromkeys(layout["names"], layout["weights"])


def _pack(value: Tensor, original: Tensor) -> Tensor:
    """Return the compressed difference in bits, chunk by chunk, shape (n_bytes,)."""
    bits, base = _flat_bits(value), _flat_bits(original)
    # numpy, and not torch: one thread, whatever other threads of the process compute with.
    frames = [
        pa.compress(_planes(bits[start : start + CHUNK] ^ base[start : start + CHUNK]), _CODEC)
        for start in range(0, len(bits), CHUNK)
    ]
    return torch.from_numpy(np.concatenate([np.frombuffer(frame, np.uint8) for frame in frames]))


def _planes(bits: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of integers, first all lowest ones, then all of the next rank, and so on."""
    return np.ascontiguousarray(bits.view(np.uint8).reshape(len(bits), -1).T).reshape(-1)


def _flat_bits(value: Tensor) -> NDArray[Any]:
    bits: NDArray[Any] = value.contiguous().view(_BITS[value.element_size()]).numpy().reshape(-1)
    return bits


def _unpack(packed: Tensor, original: Tensor, chunk: int) -> Tensor:
    """Return the value whose difference to `original` was packed, `chunk` weights at a time."""
    base = _flat_bits(original)
    n_bytes = base.nbytes
    try:
        # Frames that follow one another are read as one.
        raw = pa.decompress(packed.numpy(), n_bytes, codec=_CODEC)
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"stored weights cannot be unpacked ({error})") from None
    planes = np.frombuffer(raw, np.uint8)
    bits = np.empty_like(base)
    bytes_NS = bits.view(np.uint8).reshape(len(base), -1)
    size = bytes_NS.shape[1]
    for start in range(0, len(base), chunk):
        part = bytes_NS[start : start + chunk]
        part[:] = planes[size * start : size * (start + len(part))].reshape(size, -1).T
    bits ^= base
    return torch.from_numpy(bits).view(original.dtype).view(original.shape)
