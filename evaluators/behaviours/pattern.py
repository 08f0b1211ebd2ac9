"""Pattern: does the model write what the rules ask for?

Claim    `<name>` is the share of prompts whose greedy continuation satisfies all rules.
Data     A source of format `prompt`: `prompt` is raw text or messages; `kind` groups items in the report; `contains`
         rules may name further fields.
Values   `passed` is 1 if all rules hold and the output is neither empty nor degenerate, else 0; `rule_<i>` is 1 if
         rule i holds; `empty` is 1 for an output without text; `repetition` is the share of repeated 4-grams of
         words, absent below 4 words. passed = all rule_<i>, and not empty (unless `allow_empty`), and repetition <=
         `max_repetition`. score = mean of `passed`; its standard error is `stats.share_estimate`. `details.failed`
         names what failed.
Version  2
Limits   A rule sees form, not truth; outputs stop at `max_new_tokens`, which can cut a closing that a rule wants;
         greedy text says nothing about sampled text. Rules are like IFEval's instructions (Zhou et al. 2023, arXiv
         2311.07911) where they share a name, but stricter where those count an unreadable language, `---` as a bullet
         or NaN as JSON. `language` errs on single words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from evaluators.base import Row, score
from evaluators.replies import ReplyEvaluator, is_empty
from evaluators.reply_specs import PatternSpec
from evaluators.rule_specs import ContainsRule, flat
from evaluators.rules import field_texts, satisfies
from evaluators.scores import Item, Measurement
from evaluators.stats import share_estimate
from evaluators.texts import repetition, words_of

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

REPEATED_WORDS = 4


class Pattern(ReplyEvaluator[PatternSpec]):
    """Share of generations that satisfy all rules."""

    version: ClassVar[int] = 2

    def __init__(self, name: str, spec: PatternSpec, rows: Sequence[Row]) -> None:
        super().__init__(name, spec, rows)
        for index, row in enumerate(self.rows):
            for rule in flat(spec.rules):
                if isinstance(rule, ContainsRule) and rule.field is not None:
                    try:
                        field_texts(row, rule.field)
                    except ValueError as error:
                        raise ValueError(f"evaluator {name}: row {index}: {error}") from None

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return the share of outputs that satisfy all rules."""
        items = [self._item(index, output) for index, output in enumerate(outputs)]
        estimate = share_estimate([each.values["passed"] for each in items])
        return Measurement(scores=(score(self.infos[0], estimate, len(items)),), items=tuple(items))

    def _item(self, index: int, output: str) -> Item:
        spec = self.spec
        held = [satisfies(rule, output, self.rows[index]) for rule in spec.rules]
        repeated = repetition(words_of(output), REPEATED_WORDS)
        failed = [
            f"{at}: {rule.rule}"
            for at, (rule, holds) in enumerate(zip(spec.rules, held, strict=True))
            if not holds
        ]
        if is_empty(output) and not spec.allow_empty:
            failed.append("empty")
        if repeated is not None and repeated > spec.max_repetition:
            failed.append("repetition")
        values = {"passed": float(not failed), "empty": float(is_empty(output))}
        if repeated is not None:
            values["repetition"] = repeated
        values |= {f"rule_{at}": float(holds) for at, holds in enumerate(held)}
        return self.reply_item(index, output, values, {"failed": failed} if failed else None)
