"""AdamW and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
    rate_ratios: Mapping[int, float] | None = None,
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Return AdamW over the parameters and its schedule. Weight decay spares vectors (norms, biases).

    Args:
        parameters: What the stage trains.
        learning_rate: At the peak.
        n_steps: Optimizer steps of the stage.
        training: How all stages of the study train.
        rate_ratios: Id of a parameter to its learning rate as a multiple of the others'.
    """
    ratios = rate_ratios or {}
    found: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        key = (parameter.ndim <= 1, ratios.get(id(parameter), 1.0))
        found.setdefault(key, []).append(parameter)
    groups = [
        {
            "params": members,
            "weight_decay": 0.0 if is_vector else training.weight_decay,
            "lr": learning_rate * ratio,
        }
        for (is_vector, ratio), members in sorted(found.items(), key=lambda entry: entry[0])
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    share = partial(
        rate_share,
        n_steps=n_steps,
        warmup_steps=training.warmup_steps,
        schedule=training.schedule,
    )
    return optimizer, LambdaLR(optimizer, share)
