"""Greedy generation of a batch of prompts: tokens, and whether they were cut at the limit."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import DynamicCache


class Written(NamedTuple):
    """What a model wrote after one prompt."""

    ids: list[int]
    """Without the end-of-sequence token."""
    is_cut: bool
    """True: it had not ended when the limit was reached."""


def greedy_ids(
    model: Any, ends: set[int], prompts: list[list[int]], max_new_tokens: int
) -> list[Written]:
    """Return the tokens written after each prompt, up to the end-of-sequence token.

    A loop of our own: rows that have ended leave the batch, no generation setting of the checkpoint can slip in,
    and the head sees two axes (given three, torch may copy a frozen head's weight for every row).

    Args:
        model: A causal language model of transformers, in inference mode.
        ends: The end-of-sequence tokens.
        prompts: Token ids, at least one list; none is empty.
        max_new_tokens: The limit.

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
    for _ in range(max_new_tokens):
        hidden_BTH = model.base_model(
            input_ids=input_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        top_B, tokens_B = head(hidden_BTH[:, -1].contiguous()).max(dim=-1)
        if not top_B.isfinite().all():
            raise FloatingPointError("the model's logits are not finite")
        tokens = tokens_B.tolist()
        kept = [at for at, token in enumerate(tokens) if token not in ends]
        for at in kept:
            written[rows[at]].append(tokens[at])
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
    return [Written(ids, row in rows) for row, ids in enumerate(written)]
