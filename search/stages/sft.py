"""Supervised fine-tuning: TRL's SFTTrainer on the stage's batches. Loss in nats per loss token."""

from __future__ import annotations

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from search.stages.trainer import (
    Setting,
    StageTrainer,
    Trained,
    train_built,
    trainer_arguments,
)
from spaces.recipe import Stage

FORMATS = ("messages", "prompt-completion", "text")
"""Formats of sources this method trains on."""


class StageSft(StageTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer on given batches."""


def train(setting: Setting, stage: Stage) -> Trained:
    """Train the model in place.

    Raises:
        StageError: The loss is not finite, or memory runs out with a single row.
    """
    return train_built(setting, lambda: build(setting))


def build(setting: Setting, _: object = None) -> StageSft:
    """Return a trainer; call inside `untouched`, and `release` it."""
    sample = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
    trainer = StageSft(
        model=setting.ref.model,
        args=trainer_arguments(SFTConfig, setting, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=sample,
        processing_class=setting.ref.tokenizer,
        optimizers=setting.optimizers,
    )
    trainer.start(setting.batches, setting.memory, has_layer_dropout=True)
    return trainer
