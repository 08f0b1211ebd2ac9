"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306), eq. 7-8: TRL's KTOTrainer on our batches.

Rows are single answers with a label; preference pairs are split in two. The reference point is the policy's divergence
from the reference, estimated over a whole step on answers to other prompts; it takes no part in the gradient. TRL takes
the answer of the row before; here rows with the same prompt, such as the halves of a pair, are passed over. The
reference is the model as the stage received it.
"""

from __future__ import annotations

from typing import Any

import torch
import trl.trainer.kto_trainer
from datasets import Dataset
from torch import Tensor
from trl import KTOConfig, KTOTrainer

from search.errors import StageError
from search.stages.dpo import no_model_hash
from search.stages.tokens import UNPAIRED, TokenRow
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

FORMATS = ("preference", UNPAIRED)
"""Formats of sources this method trains on."""


class StageKto(StageTrainer, KTOTrainer):  # type: ignore[misc]
    """TRL's KTOTrainer on given batches of tokenised answers."""

    divergence: Tensor
    """Of the step, in nats, at least 0, shape ()."""

    def _prepare_dataset(self, dataset: Any, *_: object, **__: object) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: object, **__: object) -> Any:
        return dataset

    def add_reference(self) -> None:
        """Add `ref_logps` and `ref_KL_logps`, in nats, to the rows, with the model as it is now."""
        self.stage_model.eval()
        for batch in self.batches:
            self.memory.retried(lambda batch=batch: self._refer(batch), lambda: None)  # type: ignore[misc]

    def prepare_batch(self, model: Any, batch: Batch) -> None:
        """Estimate the divergence of the whole step, which each of its parts needs."""
        gains = [
            super(StageKto, self)._compute_kl_logps(model, inputs) - inputs["ref_KL_logps"]
            for rows in parts(batch, self.memory.micro_batch_rows)
            for inputs in [self._prepare_inputs(self.data_collator(rows))]
        ]
        self.divergence = torch.cat(gains).mean().clamp(min=0).detach()

    def part_loss(self, model: Any, rows: Batch, batch: Batch) -> Tensor:
        """Return what the rows, a part of the batch, add to the batch's loss, a scalar."""
        inputs = self._prepare_inputs(self.data_collator(rows))
        # TRL subtracts these from what `_compute_kl_logps` returns, and takes the mean.
        inputs["ref_KL_logps"] = torch.zeros_like(self.divergence)
        loss: Tensor = self.compute_loss(model, inputs) * (len(rows) / len(batch))
        return loss

    def _compute_kl_logps(self, *_: object) -> Tensor:
        return self.divergence

    def _refer(self, batch: Batch) -> None:
        for rows in parts(batch, self.memory.micro_batch_rows):
            inputs = self._prepare_inputs(self.data_collator(rows))
            logps_2B = self.compute_ref_log_probs(self.stage_model, inputs)
            for row, own, other in zip(
                rows, *(logp_B.tolist() for logp_B in logps_2B), strict=True
            ):
                row["ref_logps"] = own
                row["ref_KL_logps"] = other


def train(setting: Setting, stage: Stage) -> Trained:
    """Train the model in place; the first loss is half the mean weight of the labels.

    Raises:
        StageError: The loss is not finite, memory runs out with a single row, or a step has one row.
    """
    return train_built(setting, lambda: build(setting, stage))


def build(setting: Setting, stage: Stage | Term) -> StageKto:
    """Return a trainer; call inside `untouched`, and `release` it.

    Raises:
        StageError: A step has one row.
    """
    if setting.training.rows_per_step < 2:
        raise StageError(
            "kto compares answers of one step with each other; set training.rows_per_step to 2 or more"
        )
    sample = Dataset.from_dict({"prompt_ids": [[0]], "completion_ids": [[0]], "label": [True]})
    arguments = trainer_arguments(
        KTOConfig,
        setting,
        beta=stage.beta,
        desirable_weight=stage.desirable_weight,
        undesirable_weight=stage.undesirable_weight,
        precompute_ref_log_probs=True,
        # An adapter's dropout stays as the stage says; the layers' own is switched off in `accumulate`.
        disable_dropout=False,
    )
    with no_model_hash(trl.trainer.kto_trainer):
        trainer = StageKto(
            model=setting.ref.model,
            args=arguments,
            train_dataset=sample,
            processing_class=setting.ref.tokenizer,
            optimizers=setting.optimizers,
        )
    max_length = setting.training.max_length
    batches = [_with_neighbours(batch, max_length) for batch in setting.batches]
    trainer.start(batches, setting.memory, has_layer_dropout=False)
    return trainer


def _with_neighbours(batch: Batch, max_length: int) -> Batch:
    """Return copies of the rows, each with the answer of its neighbour, cut to the longest row."""
    neighbours = [_neighbour(batch, at) for at in range(len(batch))]
    return [
        {
            **row,
            "KL_completion_ids": other["completion_ids"][: max_length - len(row["prompt_ids"])],
        }
        for row, other in zip(batch, neighbours, strict=True)
    ]


def _neighbour(batch: Batch, at: int) -> TokenRow:
    """Return the nearest row before with another prompt; the last row comes before the first.

    Where all rows of the step have one prompt, the row before.
    """
    earlier = [batch[at - back] for back in range(1, len(batch))]
    others = (row for row in earlier if row["prompt_ids"] != batch[at]["prompt_ids"])
    return next(others, earlier[0])
