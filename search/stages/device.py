"""Which device trains, and its name."""

from __future__ import annotations

import torch

from search.errors import StageError


def pick_device(wanted: str) -> str:
    """Return `cpu` or `cuda`.

    Raises:
        StageError: CUDA is asked for and not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise StageError("compute.device is cuda, but torch sees no CUDA device here")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """Return the device with its name, such as `cuda: NVIDIA A100`."""
    return f"cuda: {torch.cuda.get_device_name()}" if device == "cuda" else "cpu"


def arithmetic(device: str, threads: int) -> str:
    """Return a text that names what changes the bits of equal computations: equal texts, equal results on a CPU."""
    place = f"cpu, {threads} threads" if device == "cpu" else device
    return f"{place}, torch {torch.__version__.split('+')[0]}"
