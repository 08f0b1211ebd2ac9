"""A loaded model that remembers what it was asked, so that no item is generated or read twice.

A model scored on its first items, and then on all of them, computes the rest alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from evaluators.base import Conversation, Reply
from evaluators.models import LoadedModel, Precision, TextHidden, Writer
from evaluators.tokens import Logp, TextChange, TextNats, limit_of_each

Asked = TypeVar("Asked")
Memory = dict[str, Any]
"""What a model answered, by question. Of one model alone: no key names it."""


class RememberingModel(LoadedModel):
    """Answers from memory what was asked before. All questions of one memory go to the same weights and base."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: str = "cpu",
        precision: Precision = "float32",
        memory: Memory | None = None,
        writer: Writer | None = None,
    ) -> None:
        super().__init__(model, tokenizer, device, precision, writer)
        self.memory: Memory = {} if memory is None else memory

    def generate(
        self, conversations: Sequence[Conversation], max_new_tokens: int | Sequence[int]
    ) -> list[Reply]:
        """Return the greedy continuation of each conversation; see `LoadedModel.generate`."""
        limits = limit_of_each(max_new_tokens, len(conversations))
        generate = super().generate
        return self._recalled(
            "generate",
            list(zip(conversations, limits, strict=True)),
            lambda new: generate([each for each, _ in new], [limit for _, limit in new]),
        )

    def completion_logps(
        self, rows: Sequence[tuple[Conversation, tuple[Conversation, ...]]]
    ) -> list[tuple[Logp, ...]]:
        """Return the log-probability of each completion of each row's prompt."""
        return self._recalled("completions", rows, super().completion_logps)

    def choice_logps(
        self, rows: Sequence[tuple[Conversation, tuple[str, ...]]]
    ) -> list[tuple[Logp, ...]]:
        """Return the log-probability of each choice as the continuation of each row's prompt."""
        return self._recalled("choices", rows, super().choice_logps)

    def text_nats(self, texts: Sequence[str], max_tokens: int) -> list[TextNats]:
        """Return the negative log-likelihood of each text."""
        text_nats = super().text_nats
        return self._recalled(f"nats {max_tokens}", texts, lambda new: text_nats(new, max_tokens))

    def text_changes(
        self, texts: Sequence[str], max_tokens: int, base: TextHidden
    ) -> list[TextChange]:
        """Return each text's likelihood under this model and the base, and the KL divergence from the base."""
        text_changes = super().text_changes

        def changes(new: Sequence[str]) -> list[TextChange]:
            wanted = set(new)
            hidden = tuple(
                hidden
                for window, hidden in zip(
                    self._windows(texts, max_tokens), base.hidden, strict=True
                )
                if texts[window.owner] in wanted
                and texts.index(texts[window.owner]) == window.owner
            )
            return text_changes(new, max_tokens, base._replace(hidden=hidden))

        return self._recalled(f"changes {max_tokens}", texts, changes)

    def _recalled(
        self,
        what: str,
        asked: Sequence[Asked],
        ask: Callable[[Sequence[Asked]], Sequence[Any]],
    ) -> list[Any]:
        """Return the answer to each question, those that are new asked together, in their order."""
        keys = [json.dumps([what, each], sort_keys=True) for each in asked]
        new = {key: each for key, each in zip(keys, asked, strict=True) if key not in self.memory}
        if new:
            self.memory.update(zip(new, ask(list(new.values())), strict=True))
        return [self.memory[key] for key in keys]
