"""Bases of 4 or 8 bits through bitsandbytes, on CUDA only.

Their weights never change: stages train LoRA adapters beside them and hand off with stack, detach or continue.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from search.errors import SpecError


def quantisation(bits: int, device: str) -> Any:
    """Return what `from_pretrained` takes as `quantization_config`.

    Args:
        bits: 4 (NF4 with double quantisation, Dettmers et al. 2023, arXiv 2305.14314) or 8 (LLM.int8).
        device: `cpu` or `cuda`.

    Raises:
        SpecError: The device is not CUDA, or bitsandbytes is not installed.
    """
    if device != "cuda":
        raise SpecError(
            f"base: {bits}-bit weights need CUDA, and the device is {device}; leave quantisation out, or run on a GPU"
        )
    if find_spec("bitsandbytes") is None:
        raise SpecError(
            f"base: {bits}-bit weights need the package bitsandbytes; install it, or leave quantisation out"
        )
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
