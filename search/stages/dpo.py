"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): TRL's DPOTrainer on the stage's batches.

The reference is the model as the stage received it, adapters included. Its log-probabilities are computed before the
first step, for exactly the rows that the stage uses; no second model is ever in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trl.trainer.dpo_trainer
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from search.stages.trainer import (
    Batch,
    Setting,
    StageTrainer,
    Trained,
    parts,
    train_built,
    trainer_arguments,
)
from spaces.loss import Term
from spaces.recipe import Stage

FORMATS = ("preference",)
"""Formats of sources this method trains on."""
Built = TypeVar("Built", bound="StageDpo")


class StageDpo(StageTrainer, DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer on given batches of tokenised pairs."""

    def _prepare_dataset(self, dataset: Any, *_: object, **__: object) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: object, **__: object) -> Any:
        return dataset

    def add_reference(self) -> None:
        """Add `ref_chosen_logps` and `ref_rejected_logps`, in nats, to the rows, with the model as it is now.

        Rows go through in training order, in batches of the size of a step, so the first step starts from the very
        numbers it computes itself.
        """
        self.stage_model.eval()
        rows = list({id(row): row for batch in self.batches for row in batch}.values())
        for batch in parts(rows, max(len(batch) for batch in self.batches)):
            self.memory.retried(lambda batch=batch: self._refer(batch), lambda: None)  # type: ignore[misc]

    def _refer(self, batch: Batch) -> None:
        for rows in parts(batch, self.memory.micro_batch_rows):
            inputs = self._prepare_inputs(self.data_collator(rows))
            logps_2B = self.compute_ref_log_probs(self.stage_model, inputs)
            for row, chosen, rejected in zip(
                rows, *(logp_B.float().tolist() for logp_B in logps_2B), strict=True
            ):
                row["ref_chosen_logps"] = chosen
                row["ref_rejected_logps"] = rejected


def train(setting: Setting, stage: Stage) -> Trained:
    """Train the model in place; losses are in nats, and the first is log 2.

    Raises:
        StageError: The loss is not finite, or memory runs out with a single pair.
    """
    return train_built(setting, lambda: build(setting, stage))


def build(setting: Setting, stage: Stage | Term) -> StageDpo:
    """Return a trainer; call inside `untouched`, and `release` it."""
    return build_pairs(StageDpo, setting, stage, loss_type=["sigmoid"])


def build_pairs(
    trainer_class: type[Built], setting: Setting, stage: Stage | Term, **more: object
) -> Built:
    """Return a trainer on pairs with TRL's DPOConfig: `more` goes there."""
    sample = Dataset.from_dict({"prompt_ids": [[0]], "chosen_ids": [[0]], "rejected_ids": [[0]]})
    arguments = trainer_arguments(
        DPOConfig,
        setting,
        beta=stage.beta,
        precompute_ref_log_probs=True,
        # An adapter's dropout stays as the stage says; the layers' own is switched off in `accumulate`.
        disable_dropout=False,
        **more,
    )
    with no_model_hash(trl.trainer.dpo_trainer):
        trainer = trainer_class(
            model=setting.ref.model,
            args=arguments,
            train_dataset=sample,
            processing_class=setting.ref.tokenizer,
            optimizers=setting.optimizers,
        )
    trainer.start(setting.batches, setting.memory, has_layer_dropout=False)
    return trainer


@contextmanager
def no_model_hash(module: Any) -> Iterator[None]:
    """Keep a module of TRL from hashing all weights: the hash names a cache that stages do not use."""
    original = getattr(module, "hash_module", None)
    if original is not None:
        module.hash_module = lambda model: ""
    try:
        yield
    finally:
        if original is not None:
            module.hash_module = original
