"""Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036): TRL's DPOTrainer with its IPO loss.

As in TRL, log-probabilities are means over the tokens of an answer. `beta` is the paper's tau: the gain of the chosen
over the rejected answer is pulled to 1 / (2 beta).
"""

from __future__ import annotations

from search.stages.dpo import FORMATS as FORMATS
from search.stages.dpo import StageDpo, build_pairs
from search.stages.trainer import Setting, Trained, train_built
from spaces.loss import Term
from spaces.recipe import Stage


def train(setting: Setting, stage: Stage) -> Trained:
    """Train the model in place; the first loss is 1 / (4 beta^2).

    Raises:
        StageError: The loss is not finite, or memory runs out with a single pair.
    """
    return train_built(setting, lambda: build(setting, stage))


def build(setting: Setting, stage: Stage | Term) -> StageDpo:
    """Return a trainer; call inside `untouched`, and `release` it."""
    return build_pairs(StageDpo, setting, stage, loss_type=["ipo"])
