"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734), eq. 6: no reference.

The loss is -log sigmoid(beta * (mean log-probability of chosen - of rejected) - gamma), by the formula of TRL's
CPOTrainer without its likelihood term.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from search.stages.dpo import FORMATS as FORMATS
from search.stages.dpo import build_pairs
from search.stages.reference_free import ReferenceFree
from search.stages.trainer import Batch, Setting, Trained, train_built
from spaces.loss import Term
from spaces.recipe import Stage

with warnings.catch_warnings():
    # It says that names may move between releases; pyproject.toml pins the release.
    warnings.simplefilter("ignore")
    from trl.experimental.cpo import CPOTrainer


class StageSimpo(ReferenceFree):
    """SimPO on given batches of tokenised pairs."""

    # What CPOTrainer.cpo_loss reads beside beta and label_smoothing.
    loss_type = "simpo"
    alpha = 0.0
    simpo_gamma = 0.0

    def part_loss(self, model: Any, rows: Batch, batch: Batch) -> Tensor:
        """Return what the rows, a part of the batch, add to the batch's loss, a scalar."""
        answers = self.answers(model, rows, with_prompts=False)
        loss_B = CPOTrainer.cpo_loss(self, answers.chosen, answers.rejected)[0]
        loss: Tensor = loss_B.sum() / len(batch)
        return loss


def train(setting: Setting, stage: Stage) -> Trained:
    """Train the model in place.

    Raises:
        StageError: The loss is not finite, or memory runs out with a single pair.
    """
    return train_built(setting, lambda: build(setting, stage))


def build(setting: Setting, stage: Stage | Term) -> StageSimpo:
    """Return a trainer; call inside `untouched`, and `release` it."""
    trainer = build_pairs(StageSimpo, setting, stage)
    trainer.simpo_gamma = stage.gamma or 0.0
    return trainer
