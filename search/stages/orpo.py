"""Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691), eq. 6: no reference.

The loss is the negative log-likelihood per token of the chosen answers plus beta (the paper's lambda) times
-log sigmoid of the log odds ratio of chosen and rejected. With `loss_on: all` the likelihood counts the prompts too, as
in TRL's ORPOTrainer, whose formula of the odds ratio is used.
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
    from trl.experimental.orpo import ORPOTrainer


class StageOrpo(ReferenceFree):
    """ORPO on given batches of tokenised pairs."""

    with_prompts = False

    def part_loss(self, model: Any, rows: Batch, batch: Batch) -> Tensor:
        """Return what the rows, a part of the batch, add to the batch's loss, a scalar."""
        n_tokens = sum(self._n_likelihood_tokens(row) for row in batch)
        answers = self.answers(model, rows, self.with_prompts)
        gain_B = ORPOTrainer.odds_ratio_loss(self, answers.chosen, answers.rejected)[0]
        loss: Tensor = -answers.chosen_sum / n_tokens - gain_B.sum() / len(batch)
        return loss

    def _n_likelihood_tokens(self, row: dict[str, Any]) -> int:
        n_prompt = len(row["prompt_ids"]) - 1 if self.with_prompts else 0
        return n_prompt + len(row["chosen_ids"])


def train(setting: Setting, stage: Stage) -> Trained:
    """Train the model in place.

    Raises:
        StageError: The loss is not finite, or memory runs out with a single pair.
    """
    return train_built(setting, lambda: build(setting, stage))


def build(setting: Setting, stage: Stage | Term) -> StageOrpo:
    """Return a trainer; call inside `untouched`, and `release` it."""
    trainer = build_pairs(StageOrpo, setting, stage)
    trainer.with_prompts = setting.training.loss_on == "all"
    return trainer
