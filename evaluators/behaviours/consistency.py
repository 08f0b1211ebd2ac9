"""Consistency: does the model give one answer to prompts that mean the same?

Claim    `<name>.agreement` is the mean over groups of prompts of the share of pairs of replies within the group that
         give the same answer. `<name>.answered` is the share of replies that give one.
Data     A source of format `prompt` whose rows have a `group`, a text or a number; each group has two rows or more.
Values   `answered`: 1 if the reply has text and, where `answer` is given, matches it; `group`: number of the group,
         in order of appearance; `agree`: share of the other replies of the group with the same answer. A reply
         without answer agrees with none. agreement = mean over groups of the mean of `agree` within the group; its
         standard error is `stats.share_estimate` over groups, since the replies of one group depend on each other.
         answered = mean of `answered`; `stats.share_estimate`. `details.answer` is the answer as compared.
Version  1
Limits   Answers are compared as text, without case, surrounding punctuation and repeated white space: two ways to put
         one answer differ, so let prompts ask for short answers or extract them with `answer`. Consistent answers may
         be wrong, and a model that says one thing to everybody is consistent: look at `diversity` too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from evaluators.base import Row, score
from evaluators.replies import ReplyEvaluator
from evaluators.reply_specs import ConsistencySpec
from evaluators.scores import Measurement, Score
from evaluators.stats import share_estimate

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

_MARKS = " \t\r\n\"'.,;:!?()[]*_`"


class Consistency(ReplyEvaluator[ConsistencySpec]):
    """Agreement of answers within groups of prompts."""

    version: ClassVar[int] = 1

    def __init__(self, name: str, spec: ConsistencySpec, rows: Sequence[Row]) -> None:
        super().__init__(name, spec, rows)
        self.groups = [self._group(index, row) for index, row in enumerate(self.rows)]
        numbers: dict[str, int] = {}
        for group in self.groups:
            numbers.setdefault(group, len(numbers))
            if self.groups.count(group) < 2:
                raise ValueError(
                    f"evaluator {name}: group {group!r} has one row; give it another wording"
                )
        self.numbers = [numbers[group] for group in self.groups]

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return agreement and the share of replies with an answer."""
        answers = [self._answer(output) for output in outputs]
        items = []
        by_group: list[list[float]] = [[] for _ in set(self.numbers)]
        for index, (output, answer) in enumerate(zip(outputs, answers, strict=True)):
            number = self.numbers[index]
            others = [
                answers[at]
                for at, group in enumerate(self.numbers)
                if group == number and at != index
            ]
            agree = others.count(answer) / len(others) if answer is not None else 0.0
            by_group[number].append(agree)
            values = {"answered": float(answer is not None), "group": number, "agree": agree}
            details = {"group": self.groups[index], "answer": answer}
            items.append(self.reply_item(index, output, values, details))
        agreement, answered = self.infos
        shares = share_estimate([float(answer is not None) for answer in answers])
        if all(answer is None for answer in answers):
            agreed = Score.missing(agreement, f"none of {len(answers)} replies has an answer")
        else:
            means = [sum(group) / len(group) for group in by_group]
            agreed = score(agreement, share_estimate(means), len(items))
        return Measurement(scores=(agreed, score(answered, shares, len(items))), items=tuple(items))

    def _group(self, index: int, row: Row) -> str:
        group = row.get("group")
        if isinstance(group, bool) or not isinstance(group, str | int):
            raise ValueError(
                f"evaluator {self.name}: row {index}: group is {group!r:.60}; give text or a number that "
                "prompts of one meaning share"
            )
        return str(group)

    def _answer(self, output: str) -> str | None:
        """Return a reply's answer as compared, or None if it has none."""
        text: str | None = str(output)
        if self.spec.answer is not None:
            found = re.findall(self.spec.answer, output.strip())
            text = found[-1] if found else None
        if text is None:
            return None
        plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        return plain.strip(_MARKS) or None
