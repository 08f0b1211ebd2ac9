"""Hidden states of probe prompts after each layer, and how far they lie from those of another model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def hidden_states(model: Any, prompts: Sequence[Sequence[int]], device: str) -> Tensor:
    """Return hidden states in float32 on the CPU, shape (L + 1, T, width): the embeddings, then after each layer.

    Args:
        model: A `PreTrainedModel`; its head is not computed.
        prompts: Token ids; T is the number of all of them.
        device: Where the model is.
    """
    found = []
    for ids in prompts:
        outputs = model.base_model(
            input_ids=torch.tensor([list(ids)], device=device),
            output_hidden_states=True,
            use_cache=False,
        )
        found.append(torch.stack([one[0].float().cpu() for one in outputs.hidden_states]))
    return torch.cat(found, dim=1)


def relative_change(before_LTW: Tensor, after_LTW: Tensor) -> list[float]:
    """Return the mean over tokens of |after - before| / |before| for each layer; every token counts alike.

    A few tokens of most models (the first one above all) have states many times longer than the rest. As a share of
    each token's own length they do not drown the others. States of length 0 do not count.

    Args:
        before_LTW: As `hidden_states` returns them.
        after_LTW: The same, of the same prompts.
    """
    distance_LT = torch.linalg.vector_norm(after_LTW - before_LTW, dim=-1)
    length_LT = torch.linalg.vector_norm(before_LTW, dim=-1)
    # The embedding of padding is 0 in many models, and it may stand in a prompt: it has no relative change.
    is_there_LT = length_LT > 1e-6 * length_LT.mean(dim=-1, keepdim=True)
    ratio_LT = torch.where(is_there_LT, distance_LT / length_LT.clamp_min(1e-30), 0.0)
    return [float(x) for x in ratio_LT.sum(dim=-1) / is_there_LT.sum(dim=-1).clamp_min(1)]
