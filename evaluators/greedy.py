"""Greedy generation of a batch of prompts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from evaluators.head import most_likely
from evaluators.pulse import beat


def greedy_ids(
    model: Any, ends: set[int], prompts: list[list[int]], limits: list[int]
) -> list[list[int]]:
    """Return the tokens written after each prompt, without the end-of-sequence token.

    A loop of our own: rows that have ended, or written all they may, leave the batch; no generation setting of the
    checkpoint can slip in; and the head sees two axes (given three, torch may copy a frozen head's weight for every
    row).

    Args:
        model: A causal language model of transformers, in inference mode.
        ends: The end-of-sequence tokens.
        prompts: Token ids, at least one list; none is empty.
        limits: The most tokens that each may write, at least 1; as many were written where the model had not ended.

    Raises:
        FloatingPointError: The model's logits are not finite.
    """
    device = model.device
    width = max(len(ids) for ids in prompts)
    input_BT = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts], device=device)
    # The mask comes from lengths, not from a pad token, which may be the end-of-sequence token as well.
    mask_BT = torch.tensor(
        [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device
    )
    positions_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
    head, cache = model.get_output_embeddings(), DynamicCache(config=model.config)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for n_written in range(1, max(limits) + 1):
        hidden_BTH = model.base_model(
            input_ids=input_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        top_B, tokens_B = most_likely(head, hidden_BTH[:, -1].contiguous())
        beat()
        if not top_B.isfinite().all():
            raise FloatingPointError("the model's logits are not finite")
        tokens = tokens_B.tolist()
        going_on = [at for at, token in enumerate(tokens) if token not in ends]
        for at in going_on:
            written[rows[at]].append(tokens[at])
        kept = [at for at in going_on if n_written < limits[rows[at]]]
        if len(kept) < len(rows):
            rows = [rows[at] for at in kept]
            if not rows:
                break
            kept_B = torch.tensor(kept, device=device)
            cache.batch_select_indices(kept_B)
            tokens_B, mask_BT = tokens_B[kept_B], mask_BT[kept_B]
        input_BT = tokens_B[:, None]
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)
        positions_BT = mask_BT.sum(dim=1, keepdim=True) - 1
    return written
