"""Preference losses that compare the model with nothing it was before: mean log-probabilities of both answers.

TRL's own trainers of these losses (trl.experimental) tokenise, pad and apply the whole vocabulary head themselves, so
the formula alone is theirs here: their methods are called on a trainer that is fed as all others are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from search.stages.dpo import StageDpo
from search.stages.tokens import IGNORED


class Answers(NamedTuple):
    """Log-probabilities of a part of a batch, in nats."""

    chosen: Tensor
    """Mean over the tokens of each chosen answer, shape (B,)."""
    rejected: Tensor
    """Mean over the tokens of each rejected answer, shape (B,)."""
    chosen_sum: Tensor
    """Shape (): sum over all tokens of the chosen rows that the likelihood term counts."""


class ReferenceFree(StageDpo):
    """A trainer on pairs that needs no reference."""

    def add_reference(self) -> None:
        """Do nothing."""

    def answers(self, model: Any, rows: Any, with_prompts: bool) -> Answers:
        """Return the log-probabilities of a part of a batch.

        Args:
            model: In training mode.
            rows: Tokenised pairs.
            with_prompts: Whether `chosen_sum` counts the tokens of the prompts as well.
        """
        inputs = self._prepare_inputs(self.data_collator(rows))
        mask_BT = inputs.pop("completion_mask")
        is_learnt_BT = mask_BT.bool()
        if with_prompts:
            half = len(rows)
            is_learnt_BT[:half] |= inputs["attention_mask"][:half].bool()
        labels_BT = inputs["input_ids"].masked_fill(~is_learnt_BT, IGNORED)
        logp_BT = model(**inputs, use_cache=False, labels=labels_BT, fused_lm_head=True).log_probs
        answer_BT = mask_BT[:, 1:]
        means_B = (logp_BT * answer_BT).sum(-1) / answer_BT.sum(-1)
        chosen_B, rejected_B = means_B.chunk(2)
        return Answers(chosen_B, rejected_B, logp_BT[: len(rows)].sum())
