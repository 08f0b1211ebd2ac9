"""ReplyEvaluator: what evaluators that let the model write have in common. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from evaluators.base import (
    Conversation,
    Evaluator,
    Prompt,
    Row,
    conversation_of,
    first_rows,
    hash_of,
    item,
    shown,
)
from evaluators.reply_specs import ReplySpec
from evaluators.scores import Item

AnySpec = TypeVar("AnySpec", bound=ReplySpec)
MAX_EMPTY_SHARE = 0.1
"""Where more replies than this are empty, a mean over the others would praise a model for saying nothing."""


class ReplyEvaluator(Evaluator, Generic[AnySpec]):
    """Asks a model the prompts of a source."""

    def __init__(self, name: str, spec: AnySpec, rows: Sequence[Row]) -> None:
        """Take the rows.

        Raises:
            ValueError: There are none, or a row's prompt is none.
        """
        super().__init__(name, spec.infos(name))
        self.spec = spec
        self.rows = first_rows(name, spec.source, rows, spec.limit)
        self.conversations = tuple(
            self._conversation(index, row) for index, row in enumerate(self.rows)
        )

    def fingerprint(self) -> str:
        """Return a hash of version, spec and rows."""
        return hash_of(self.version, self.spec, self.rows)

    def prompts(self) -> tuple[Prompt, ...]:
        """Return one prompt per row."""
        return tuple(Prompt(each, self.spec.max_new_tokens) for each in self.conversations)

    def reply_item(
        self,
        index: int,
        output: str,
        values: Mapping[str, float],
        details: Mapping[str, Any] | None = None,
    ) -> Item:
        """Return an Item of one row with its kind, prompt and output."""
        kind = self.rows[index].get("kind")
        return item(
            self.name,
            index,
            values,
            kind=None if kind is None else str(kind),
            prompt=shown(self.conversations[index]),
            output=str(output),
            details=details,
        )

    def _conversation(self, index: int, row: Row) -> Conversation:
        conversation = conversation_of(self.name, index, row, "prompt")
        if self.spec.system is None:
            return conversation
        if isinstance(conversation, str):
            raise ValueError(
                f"evaluator {self.name}: row {index}: prompt is raw text and takes no system prompt; "
                "give messages, or drop system"
            )
        if conversation[0]["role"] == "system":
            return conversation
        return [{"role": "system", "content": self.spec.system}, *conversation]


def is_empty(output: str) -> bool:
    """Return whether a reply says nothing."""
    return not output.strip()


def empty_fault(outputs: Sequence[str]) -> str | None:
    """Return why a mean over the replies that say something would mislead, or None if it would not."""
    n_empty = sum(map(is_empty, outputs))
    if n_empty > MAX_EMPTY_SHARE * len(outputs):
        return f"{n_empty} of {len(outputs)} replies are empty"
    return None
