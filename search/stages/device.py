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
