"""Settings of transformers' Trainer that repeat apportion's optimizer steps, for tools that build on it. No torch."""

from __future__ import annotations

from typing import Any

from search.spec import TrainingSpec


def schedule_settings(training: TrainingSpec) -> dict[str, Any]:
    """Return the learning rate schedule.

    A constant rate after a warm-up is transformers' `cosine_warmup_with_min_lr` with the minimum at the peak: step s of
    its W warm-up steps has share (s + 1) / W of the peak, as has step s of W - 1 of ours
    (`search.stages.schedule.rate_share`). Without warm-up the names mean the same.

    Args:
        training: Without a schedule that falls after a warm-up, which `tool.checked_chain` refuses.
    """
    if training.warmup_steps == 0:
        return {"lr_scheduler_type": training.schedule, "warmup_steps": 0}
    return {
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 1.0},
        "warmup_steps": training.warmup_steps + 1,
    }


def trainer_settings(training: TrainingSpec, learning_rate: float, seed: int) -> dict[str, Any]:
    """Return what transformers' TrainingArguments take, with names as in their version 5."""
    micro = training.micro_batch_rows or training.rows_per_step
    return {
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": training.rows_per_step // micro,
        "learning_rate": learning_rate,
        **schedule_settings(training),
        "optim": "adamw_torch_fused",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "bf16": training.precision == "bfloat16",
        "gradient_checkpointing": training.gradient_checkpointing,
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
    }
