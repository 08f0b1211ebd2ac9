"""What this machine computes quickly, read from the system alone: no torch, so that `check` and `init` can ask."""

from __future__ import annotations

import os
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")
"""One folder per card where NVIDIA's driver is loaded."""
FAST_BFLOAT16 = frozenset({"avx512bw", "amx_bf16", "bf16"})
"""Flags of processors on which oneDNN has bfloat16 kernels; elsewhere torch multiplies in plain loops: on a CPU with
AVX2 alone, 160 x 576 by 576 x 1536 took 224 ms in bfloat16 and 3.8 ms in float32 (one thread, torch 2.13)."""


def is_bfloat16_slow(device: str) -> bool:
    """Return whether bfloat16 costs more time than float32 on this machine; False where that cannot be known.

    Args:
        device: `compute.device` of a study; with `auto`, a card that torch would take counts.
    """
    has_card = GPUS.is_dir() and any(GPUS.iterdir())
    if device == "cuda" or (
        device == "auto" and has_card and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    ):
        return False
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        return False
    return found is not None and not FAST_BFLOAT16 & set(found.group(1).split())
