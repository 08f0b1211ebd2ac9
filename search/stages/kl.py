"""Divergence from the model as the stage received it, on the rows of another loss of a joint stage.

KL(policy || reference) = sum over the vocabulary of p * (log p - log q), in nats, exact at every scored token, and the
mean over those of the step. Scored are the tokens that the other loss scores: of pairs, both answers.

The reference is the same model with the values its trained parameters had at the beginning, which are put in place for
one forward pass at a time. Of an adapter that is next to nothing; full training keeps a copy of all trained weights on
the device (as much memory as the weights themselves, beside gradients and AdamW's two moments). Each step costs one
forward pass without gradients and one with, beyond the other losses, and holds the logits of one part of the batch
twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from search.stages.head import scored_logits
from search.stages.tokens import IGNORED, TokenRow
from search.stages.trainer import Batch, Memory, parts, stop_layer_dropout


class KlTerm:
    """The KL term of one stage; the other losses' counterpart is a StageTrainer."""

    def __init__(
        self, model: Any, parameters: Sequence[torch.nn.Parameter], accelerator: Any, memory: Memory
    ) -> None:
        """Remember the reference: the values of the trained parameters as they are now.

        Args:
            model: Whose device the rows go to.
            parameters: All that the stage trains.
            accelerator: Of the trainer that runs the loop.
            memory: Rows per forward pass.
        """
        self._device = model.device
        self._parameters = parameters
        self._received = [parameter.detach().clone() for parameter in parameters]
        self._accelerator = accelerator
        self._memory = memory

    def accumulate(self, model: Any, batch: Batch) -> Tensor:
        """Add the gradients of the divergence on one batch to those that are there; return it, a scalar."""
        rows = [labelled for row in batch for labelled in labelled_rows(row)]
        n_tokens = sum(label != IGNORED for row in rows for label in row["labels"][1:])
        total = torch.zeros((), device=self._device)
        for part in parts(rows, self._memory.micro_batch_rows):
            inputs = self._padded(part)
            with self._reference(model), torch.no_grad(), self._accelerator.autocast():
                log_q_NV = _logits(model, inputs).log_softmax(-1)
            model.train()
            stop_layer_dropout(model)
            with self._accelerator.autocast():
                logits_NV = _logits(model, inputs)
            value, slope_NV = divergence(logits_NV.detach(), log_q_NV)
            self._accelerator.backward((slope_NV * logits_NV).sum() / n_tokens)
            total += value / n_tokens
        return total

    @contextmanager
    def _reference(self, model: Any) -> Iterator[None]:
        self._swap()
        model.eval()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for parameter, received in zip(self._parameters, self._received, strict=True):
            parameter.data, received.data = received.data, parameter.data

    def _padded(self, rows: Sequence[TokenRow]) -> dict[str, Tensor]:
        padding = {"input_ids": 0, "labels": IGNORED}
        return {
            name: pad_sequence(
                [torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=value
            ).to(self._device)
            for name, value in padding.items()
        }


def labelled_rows(row: TokenRow) -> list[TokenRow]:
    """Return a row of any loss as rows with `input_ids` and `labels`."""
    if "input_ids" in row:
        return [row]
    prompt = row["prompt_ids"]
    return [
        {"input_ids": prompt + row[field], "labels": [IGNORED] * len(prompt) + row[field]}
        for field in ("chosen_ids", "rejected_ids", "completion_ids")
        if field in row
    ]


def divergence(logits_NV: Tensor, log_q_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(softmax(logits) || q) summed over N tokens, in nats, and its derivative by the logits, shape (N, V).

    The derivative p * (log p - log q - KL) is written out because it is exactly 0 where p is q; the one that autograd
    finds is noise there, to which a normalised gradient would give full length.
    """
    log_p_NV = logits_NV.log_softmax(-1)
    gain_NV = log_p_NV - log_q_NV
    p_NV = log_p_NV.exp()
    kl_N1 = (p_NV * gain_NV).sum(-1, keepdim=True)
    return kl_N1.sum(), p_NV * (gain_NV - kl_N1)


def _logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return scored_logits(
        model, inputs["labels"], input_ids=inputs["input_ids"], use_cache=False
    ).float()
