"""The vocabulary head applied only to tokens that the loss sees.

TRL's trainers call `model(..., labels=..., fused_lm_head=True)` and expect log-probabilities instead of logits. TRL's
own head does that with the scored positions on GPUs, and with all of them, in blocks and twice, on CPUs. This one
applies the model's own head to the scored positions alone: for SmolLM2-135M the head is a fifth of the work per token.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own habit
from trl.trainer.utils import FusedCausalLMOutput

from search.stages.tokens import IGNORED

EAGER_LENGTH = 256
"""Longest padded row, in tokens, for which attention on a CPU is computed by plain matrix products."""


def install_head(model: Any) -> None:
    """Replace `model.forward`; without `fused_lm_head` it does what it did. Remove it from the instance to undo."""
    forward = type(model).forward

    def scored(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        if not fused_lm_head or labels is None:
            return forward(self, *args, labels=labels, **inputs)
        return _scores(self, labels, **inputs)

    model.forward = MethodType(scored, model)


def _choose_attention(model: Any, labels_BT: Tensor) -> None:
    """Use plain matrix products for attention where rows are short and the device is a CPU.

    With SmolLM2-135M, LoRA, 8 rows of up to 76 tokens, bfloat16, one thread, a step takes 1.17 CPU seconds, and 1.48
    with PyTorch's fused attention. For long rows that is the one whose memory does not grow with their square.
    """
    config = model.config
    if config._attn_implementation not in ("sdpa", "eager") or labels_BT.device.type != "cpu":
        return
    wanted = "eager" if labels_BT.shape[1] <= EAGER_LENGTH else "sdpa"
    if config._attn_implementation != wanted:
        config._attn_implementation = wanted


def scored_logits(model: Any, labels_BT: Tensor, **inputs: Any) -> Tensor:
    """Return the logits of the scored positions alone, shape (N, V), N tokens in row order.

    Args:
        model: A causal language model; a replaced `forward` is passed by.
        labels_BT: Token ids, `IGNORED` where nothing is scored; the first of each row never is.
        inputs: What the model takes beside labels, `input_ids` at least.
    """
    is_scored_BT = labels_BT[:, 1:] != IGNORED
    # Rows are padded on the right, where causal attention never looks, so the mask would only cost time.
    inputs.pop("attention_mask", None)
    _choose_attention(model, labels_BT)
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: (args[0][:, :-1][is_scored_BT],)
    )
    try:
        logits_NV: Tensor = type(model).forward(model, **inputs).logits
    finally:
        hook.remove()
    return logits_NV


def _scores(model: Any, labels_BT: Tensor, **inputs: Any) -> FusedCausalLMOutput:
    targets_BT = labels_BT[:, 1:]
    is_scored_BT = targets_BT != IGNORED
    logits_NV = scored_logits(model, labels_BT, **inputs)
    logp_N = -F.cross_entropy(logits_NV.float(), targets_BT[is_scored_BT], reduction="none")
    logp_BT = logp_N.new_zeros(targets_BT.shape).masked_scatter(is_scored_BT, logp_N)
    # TRL keeps statistics of these three for its log, which stages do not write.
    unused_BT = torch.zeros_like(logp_BT)
    return FusedCausalLMOutput(
        log_probs=logp_BT,
        entropy=unused_BT,
        mean_logits=unused_BT,
        is_top1=torch.zeros_like(is_scored_BT),
        label_mask=is_scored_BT,
    )
