"""AdamW and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch.optim.lr_scheduler import LambdaLR

from search.spec import TrainingSpec


def rate_share(step: int, n_steps: int, warmup_steps: int, schedule: str) -> float:
    """Return the share of the peak learning rate at optimizer step `step` (from 0), in (0, 1].

    Warm-up rises linearly and reaches the peak at step `warmup_steps`; no step has rate 0, since it would consume
    tokens and teach nothing. `linear` and `cosine` then fall towards 0, which they would reach at step `n_steps`.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done_share = (step - warmup_steps) / max(1, n_steps - warmup_steps)
    if schedule == "linear":
        return 1.0 - done_share
    return 0.5 * (1.0 + math.cos(math.pi * done_share))


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter],
    learning_rate: float,
    n_steps: int,
    training: TrainingSpec,
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Return AdamW over the parameters and its schedule. Weight decay spares vectors (norms, biases)."""
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=learning_rate, fused=True
    )
    share = partial(
        rate_share,
        n_steps=n_steps,
        warmup_steps=training.warmup_steps,
        schedule=training.schedule,
    )
    return optimizer, LambdaLR(optimizer, share)
