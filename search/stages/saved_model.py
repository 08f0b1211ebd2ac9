"""A saved model, ours or another tool's: transformers weights, or a PEFT adapter for the base. Safetensors only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from search.base_files import BaseFilesError, resolve_base
from search.errors import SpecError
from search.messages import one_line
from search.spec import BaseSpec
from search.stages.base_model import ResidentBase
from search.stages.model_ref import ModelRef

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def saved_model(base: ResidentBase, folder: Path, dtype: str) -> ModelRef:
    """Return a saved model; where it is an adapter, on the base, whose earlier models are stale from then on.

    Args:
        base: What an adapter is put on; gives the device, and the tokenizer where the folder has none.
        folder: As `save_pretrained` writes it.
        dtype: Of weights in memory, such as `float32`.

    Raises:
        SpecError: There is no such model, or it does not fit the base.
    """
    if not folder.is_dir():
        raise SpecError(f"{folder}: no such folder; name one that `save_pretrained` has written")
    is_adapter = (folder / ADAPTER).is_file()
    if is_adapter:
        _check_adapter(folder)
    else:
        try:
            resolve_base(BaseSpec(path=str(folder.absolute())), folder)
        except BaseFilesError as error:
            raise SpecError(f"{folder}: {error.text}") from error
    try:
        if is_adapter:
            wrapped: Any = PeftModel.from_pretrained(base.fresh().model, str(folder))
            model = wrapped.eval()
        else:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
            )
            model = model.to(base.device).eval()
        has_own = (folder / "tokenizer_config.json").is_file()
        tokenizer = (
            AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            if has_own
            else base.tokenizer
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        fault = one_line(str(error))[:200]
        what = (
            "does not fit the study's base" if is_adapter else "must hold a causal language model"
        )
        raise SpecError(f"{folder}: cannot be loaded ({fault}); it {what}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return ModelRef(
        model=model,
        tokenizer=tokenizer,
        device=base.device,
        precision=base.precision,
        base=base,
        base_name=base.name,
        tokenizer_hash=base.tokenizer_hash,
        n_stages=1,
        is_base_changed=not is_adapter,
    )


def _check_adapter(folder: Path) -> None:
    """Refuse an adapter whose loading would unpickle, or import a module that its configuration names."""
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise SpecError(f"{folder}: no {ADAPTER_WEIGHTS} in it; save the adapter as safetensors")
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{folder}: {ADAPTER} cannot be read; save the adapter again") from error
    if not isinstance(config, dict) or config.get("megatron_config") is not None:
        raise SpecError(
            f"{folder}: {ADAPTER} is not of a plain adapter; it must name no module of Megatron's"
        )
