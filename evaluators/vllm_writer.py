"""Greedy generation by vLLM, for suites that let a model on a CUDA card write much.

`study.yaml`: `generation: {backend: vllm}`. vLLM has kernels of its own, so replies may differ from those of
transformers where two tokens are nearly as likely; likelihoods stay with transformers. Each model goes to vLLM through
a folder, which costs seconds (an engine starts for it): it pays for thousands of replies, not for dozens.
"""

from __future__ import annotations

import gc
import importlib
import tempfile
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class VllmWriter:
    """Writes with an engine of vLLM that lives as long as one call.

    Args:
        memory_share: Share of the card's memory that the engine may take, in (0, 1). The model in training, and the
            trials beside it, need the rest.
        dtype: `float32` or `bfloat16`, of the engine's weights.
    """

    memory_share: float = 0.4
    dtype: str = "float32"

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        ends: set[int],
        prompts: list[list[int]],
        limits: list[int],
    ) -> list[list[int]]:
        """Return the tokens written after each prompt, without the end-of-sequence token.

        Args:
            model: A causal language model of transformers on CUDA, without adapters beside its weights.
            tokenizer: Its tokenizer, saved beside it.
            ends: The end-of-sequence tokens.
            prompts: Token ids.
            limits: The most tokens that each may write.

        Raises:
            ValueError: vLLM is not installed, no card is there, or the model has adapters that are not merged.
        """
        if not torch.cuda.is_available():
            raise ValueError("vllm generates on CUDA, and torch sees no card")
        if any(".lora_" in name for name, _ in model.named_parameters()):
            raise ValueError(
                "vllm gets the model's own weights, and adapters lie beside them; write handoff: merge, "
                "or generation: {backend: transformers}"
            )
        try:
            vllm = importlib.import_module("vllm")
        except ImportError as error:
            raise ValueError(f"vllm cannot be imported ({error}); install it") from error
        with tempfile.TemporaryDirectory(prefix="apportion-vllm-") as folder:
            model.save_pretrained(folder, safe_serialization=True)
            tokenizer.save_pretrained(folder)
            engine = vllm.LLM(
                model=folder,
                dtype=self.dtype,
                load_format="safetensors",
                gpu_memory_utilization=self.memory_share,
                max_model_len=max(map(sum, zip(map(len, prompts), limits, strict=True))),
                # Graphs are captured anew for every model, which takes longer than they save.
                enforce_eager=True,
                skip_tokenizer_init=True,
                trust_remote_code=False,
                seed=0,
            )
            try:
                settings = [
                    vllm.SamplingParams(
                        temperature=0.0,
                        max_tokens=limit,
                        stop_token_ids=sorted(ends),
                        detokenize=False,
                    )
                    for limit in limits
                ]
                asked = [{"prompt_token_ids": ids} for ids in prompts]
                found = engine.generate(asked, settings, use_tqdm=False)
                return [_without_end(list(each.outputs[0].token_ids), ends) for each in found]
            finally:
                del engine
                gc.collect()
                torch.cuda.empty_cache()


def _without_end(ids: list[int], ends: set[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] in ends else ids
