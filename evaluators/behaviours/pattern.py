"""Pattern: does the model write what the rules ask for?

Claim    `<name>` is the share of prompts whose greedy continuation satisfies all rules.
Data     A source of format `prompt`: `prompt` is raw text or messages; `kind` groups items in the report; `contains`
         rules may name further fields.
Values   `passed` is 1 if all rules hold, else 0; `rule_<i>` is the same for rule i alone. score = mean of `passed`; its
         standard error is `stats.share_estimate`. `details.failed` names the broken rules.
Version  1
Limits   A rule sees form, not truth; outputs stop at `max_new_tokens`, which can cut a closing that a rule wants;
         greedy text says nothing about sampled text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from evaluators.base import (
    Conversation,
    Evaluator,
    Prompt,
    Row,
    conversation_of,
    first_rows,
    hash_of,
    item,
    score,
    shown,
)
from evaluators.rules import field_texts, satisfies
from evaluators.scores import Measurement
from evaluators.spec import ContainsRule, PatternSpec
from evaluators.stats import share_estimate

if TYPE_CHECKING:
    from evaluators.models import LoadedModel


class Pattern(Evaluator):
    """Share of generations that satisfy all rules."""

    version: ClassVar[int] = 1

    def __init__(self, name: str, spec: PatternSpec, rows: Sequence[Row]) -> None:
        super().__init__(name, spec.infos(name))
        self.spec = spec
        self.rows = first_rows(name, spec.source, rows, spec.limit)
        self.conversations = tuple(
            self._conversation(index, row) for index, row in enumerate(self.rows)
        )
        for index, row in enumerate(self.rows):
            for rule in spec.rules:
                if isinstance(rule, ContainsRule) and rule.field is not None:
                    try:
                        field_texts(row, rule.field)
                    except ValueError as error:
                        raise ValueError(f"evaluator {name}: row {index}: {error}") from None

    def fingerprint(self) -> str:
        """Return a hash of version, spec and rows."""
        return hash_of(self.version, self.spec, self.rows)

    def prompts(self) -> tuple[Prompt, ...]:
        """Return one prompt per row."""
        return tuple(Prompt(each, self.spec.max_new_tokens) for each in self.conversations)

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return the share of outputs that satisfy all rules."""
        items = []
        for index, (row, output) in enumerate(zip(self.rows, outputs, strict=True)):
            held = [satisfies(rule, output, row) for rule in self.spec.rules]
            values = {"passed": float(all(held))}
            values |= {f"rule_{at}": float(holds) for at, holds in enumerate(held)}
            failed = [
                f"{at}: {rule.rule}"
                for at, (rule, holds) in enumerate(zip(self.spec.rules, held, strict=True))
                if not holds
            ]
            items.append(
                item(
                    self.name,
                    index,
                    values,
                    kind=None if row.get("kind") is None else str(row["kind"]),
                    prompt=shown(self.conversations[index]),
                    output=output,
                    details={"failed": failed} if failed else None,
                )
            )
        estimate = share_estimate([each.values["passed"] for each in items])
        return Measurement(scores=(score(self.infos[0], estimate, len(items)),), items=tuple(items))

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
