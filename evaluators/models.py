"""LoadedModel: what evaluators do with a causal language model: write, and give the log-probability of text.

Everything runs in inference mode and leaves the model as it was found. The vocabulary head, half of a small model's
work, is applied only to the positions that count.

Precision `bfloat16` swaps the weights for bfloat16 copies while a measurement runs and puts the originals back. On one
CPU thread with bfloat16 instructions, greedy generation with SmolLM2-135M took 2.3 s so, 5.2 s under autocast (which
converts the weights again for every token) and 4.9 s in float32; scoring 1,024 tokens took 0.37, 0.46 and 1.32 s.
Softmax is always float32, sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluators.base import Conversation, Reply
from evaluators.forced import Batch, TeacherForcing, batches_of_like_length
from evaluators.greedy import greedy_ids
from evaluators.tokens import (
    Logp,
    TextChange,
    TextNats,
    TokenSequence,
    by_text,
    choice_sequences,
    completion_sequences,
    limit_of_each,
    n_tokens_by_text,
    prompt_ids,
    text_windows,
)

Precision = Literal["float32", "bfloat16"]
Writer = Callable[[Any, Any, set[int], list[list[int]], list[int]], list[list[int]]]
"""Greedy generation elsewhere (`vllm_writer.VllmWriter`): model, tokenizer, end tokens, prompts, limits."""


class TextHidden(NamedTuple):
    """A base's final hidden states of some texts, and its head: enough to get its exact logits back, in blocks.

    A token costs its width (576 numbers for SmolLM2-135M) and not the vocabulary (49,152). All is kept on the CPU in
    the precision it was computed in, so the logits are those that the base itself gives.
    """

    hidden: tuple[Tensor, ...]
    """One matrix (T, H) per window, in order: a row per predicted token."""
    head_weight: Tensor
    """(V, H)."""
    head_bias: Tensor | None
    """(V,)."""


class LoadedModel:
    """A causal language model in memory, with its tokenizer.

    Args:
        model: A `PreTrainedModel` on `device`; adapters may be injected into it.
        tokenizer: Its tokenizer.
        device: Such as `cpu` or `cuda:0`.
        precision: `float32` computes in the weights' own dtype, `bfloat16` in bfloat16 copies of them.
        writer: What generates; None does it here.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: str = "cpu",
        precision: Precision = "float32",
        writer: Writer | None = None,
    ) -> None:
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.precision = precision
        self.writer = writer
        self._forced = TeacherForcing(self.model, self.device)
        self._depth = 0

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Put the model into evaluation mode and precision; on leaving, put it back. May be nested."""
        if self._depth:
            yield
            return
        training = {module: module.training for module in self.model.modules()}
        originals = {
            parameter: parameter.data
            for parameter in self.model.parameters()
            if self.precision == "bfloat16" and parameter.dtype == torch.float32
        }
        self._depth += 1
        try:
            self.model.eval()
            for parameter, data in originals.items():
                parameter.data = data.to(torch.bfloat16)
            yield
        finally:
            for parameter, data in originals.items():
                parameter.data = data
            for module, was_training in training.items():
                module.training = was_training
            self._depth -= 1

    def generate(
        self, conversations: Sequence[Conversation], max_new_tokens: int | Sequence[int]
    ) -> list[Reply]:
        """Return the greedy continuation of each conversation, without special tokens.

        Equal ones are continued once, up to the longest of their limits: what greedy generation writes up to a limit
        is the beginning of what it writes up to a higher one. Conversations of all limits share their batches.

        Args:
            conversations: What is to be continued.
            max_new_tokens: The limit of all, or one for each.

        Raises:
            ValueError: A prompt and its continuation do not fit the model.
            FloatingPointError: The model's logits are not finite.
        """
        limits = limit_of_each(max_new_tokens, len(conversations))
        asked = [tuple(prompt_ids(self.tokenizer, each)) for each in conversations]
        longest: dict[tuple[int, ...], int] = {}
        for index, (ids, limit) in enumerate(zip(asked, limits, strict=True)):
            self._check_length(len(ids) + limit, f"prompt {index} with its continuation")
            longest[ids] = max(longest.get(ids, 0), limit)
        written = self._written(longest)
        replies = []
        for ids, limit in zip(asked, limits, strict=True):
            kept = written[ids][:limit]
            text = self.tokenizer.decode(kept, skip_special_tokens=True)
            replies.append(Reply(text, is_cut=len(kept) == limit))
        return replies

    def _written(self, longest: dict[tuple[int, ...], int]) -> dict[tuple[int, ...], list[int]]:
        """Return the tokens written after each prompt, by prompt, up to its limit."""
        prompts, at_most, ends = list(map(list, longest)), list(longest.values()), self._end_ids()
        outputs: list[list[int]] = [[] for _ in prompts]
        with self.ready(), torch.inference_mode():
            if self.writer is not None:
                found = self.writer(self.model, self.tokenizer, ends, prompts, at_most)
                return dict(zip(longest, found, strict=True))
            for indices in batches_of_like_length(
                [len(ids) + longest[ids] for ids in longest], self._forced.capacity
            ):
                chosen = [prompts[at] for at in indices]
                found = greedy_ids(self.model, ends, chosen, [at_most[at] for at in indices])
                for at, ids in zip(indices, found, strict=True):
                    outputs[at] = ids
        return dict(zip(longest, outputs, strict=True))

    def completion_logps(
        self, rows: Sequence[tuple[Conversation, tuple[Conversation, ...]]]
    ) -> list[tuple[Logp, ...]]:
        """Return the log-probability of each completion of each row's prompt.

        Tokens are those that TRL's DPO trains on: messages go through the chat template, raw completions get the
        end-of-sequence token, and completions start where the tokens of prompt and prompt with completion diverge.

        Raises:
            ValueError: A completion has no tokens or does not fit the model.
        """
        sequences = [
            sequence
            for index, row in enumerate(rows)
            for sequence in completion_sequences(self.tokenizer, index, *row)
        ]
        found = iter(self._sequence_logps(sequences))
        return [tuple(next(found) for _ in completions) for _, completions in rows]

    def choice_logps(
        self, rows: Sequence[tuple[Conversation, tuple[str, ...]]]
    ) -> list[tuple[Logp, ...]]:
        """Return the log-probability of each choice as the continuation of each row's prompt.

        Tokens are those of lm-evaluation-harness; `tokens.choice_sequences` says which.

        Raises:
            ValueError: A choice has no tokens or does not fit the model.
        """
        sequences = [
            sequence
            for index, row in enumerate(rows)
            for sequence in choice_sequences(self.tokenizer, index, *row)
        ]
        found = iter(self._sequence_logps(sequences))
        return [tuple(next(found) for _ in choices) for _, choices in rows]

    def _sequence_logps(self, sequences: Sequence[TokenSequence]) -> list[Logp]:
        for sequence in sequences:
            self._check_length(len(sequence.ids), f"row {sequence.owner}")
        sums = self._summed(sequences, self._forced.logps)[:, 0]
        return [
            Logp(float(total), len(sequence.ids) - sequence.first)
            for total, sequence in zip(sums, sequences, strict=True)
        ]

    def text_nats(self, texts: Sequence[str], max_tokens: int) -> list[TextNats]:
        """Return the negative log-likelihood of each text, all its tokens counted once, in windows of `max_tokens`.

        `tokens.text_windows` says how a window starts.
        """
        windows = self._windows(texts, max_tokens)
        nats = by_text(-self._summed(windows, self._forced.logps), windows, len(texts))[:, 0]
        return [
            TextNats(float(total), n_tokens, len(text.encode()))
            for total, n_tokens, text in zip(
                nats, n_tokens_by_text(windows, len(texts)), texts, strict=True
            )
        ]

    def text_hidden(self, texts: Sequence[str], max_tokens: int) -> TextHidden:
        """Return what `text_changes` needs of a base.

        Raises:
            ValueError: The base's head is not a plain linear layer.
        """
        windows = self._windows(texts, max_tokens)
        hidden: list[Tensor] = [torch.empty(0)] * len(windows)
        with self.ready(), torch.inference_mode():
            head = self.model.get_output_embeddings()
            if type(head) is not nn.Linear:
                raise ValueError(
                    f"the base's head is {type(head).__name__}; only a plain linear head works"
                )
            for batch in self._forced.scored(windows):
                parts = torch.split(batch.hidden.cpu(), batch.counts)
                for index, part in zip(batch.indices, parts, strict=True):
                    hidden[index] = part.clone()
            bias = None if head.bias is None else head.bias.detach().to("cpu", copy=True)
            return TextHidden(tuple(hidden), head.weight.detach().to("cpu", copy=True), bias)

    def text_changes(
        self, texts: Sequence[str], max_tokens: int, base: TextHidden
    ) -> list[TextChange]:
        """Return each text's likelihood under this model and the base, and the KL divergence from the base.

        Args:
            texts: The texts that `base` was made of.
            max_tokens: As there.
            base: What `text_hidden` of the base returned.
        """
        windows = self._windows(texts, max_tokens)
        head_weight = base.head_weight.to(self.device)
        head_bias = None if base.head_bias is None else base.head_bias.to(self.device)

        def changes(batch: Batch) -> Tensor:
            base_NH = torch.cat([base.hidden[index] for index in batch.indices]).to(self.device)
            return self._forced.changes(batch, base_NH, head_weight, head_bias)

        sums = by_text(self._summed(windows, changes), windows, len(texts)).tolist()
        return [
            TextChange(nats, base_nats, kl_nats, n_tokens, len(text.encode()))
            for (nats, base_nats, kl_nats), n_tokens, text in zip(
                sums, n_tokens_by_text(windows, len(texts)), texts, strict=True
            )
        ]

    def _summed(
        self, sequences: Sequence[TokenSequence], values: Callable[[Batch], Tensor]
    ) -> NDArray[np.float64]:
        with self.ready(), torch.inference_mode():
            return self._forced.summed(sequences, values)

    def _windows(self, texts: Sequence[str], max_tokens: int) -> list[TokenSequence]:
        self._check_length(max_tokens, "a window")
        return text_windows(self.tokenizer, texts, max_tokens)

    def _check_length(self, n_tokens: int, what: str) -> None:
        longest = getattr(self.model.config, "max_position_embeddings", None)
        if longest is not None and n_tokens > longest:
            raise ValueError(
                f"{what} has {n_tokens} tokens and the model reads {longest}; shorten it"
            )

    def _end_ids(self) -> set[int]:
        ends = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        listed = ends if isinstance(ends, list) else [ends]
        return {int(end) for end in [*listed, self.tokenizer.eos_token_id] if end is not None}
