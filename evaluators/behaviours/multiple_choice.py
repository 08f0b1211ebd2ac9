"""Multiple choice: is the right one of several given answers the likeliest?

Claim    `<name>.acc` is the share of questions whose right choice has the highest log-probability given the prompt;
         `<name>.acc_norm` the same per character, so that long choices are not at a loss. On raw text both equal
         `acc` and `acc_norm` of a multiple-choice task of lm-evaluation-harness with the same prompts, no examples
         and its default delimiter, a space before each choice; on messages those with its chat template and no
         delimiter.
Data     A source of format `prompt` whose rows also have `choices`, two texts or more, and `answer`, the index of the
         right one from 0, or its text.
Values   `nats_<i>`: log-probability of choice i, summed over its tokens; `characters_<i>`; `answer`: index of the
         right one. acc = share of rows whose highest nats_<i> is that of the answer, acc_norm of nats_<i> /
         characters_<i>; of equal ones the first counts as the highest. Standard errors: `stats.share_estimate`.
Version  1
Limits   Likelihood of given answers is not what a model writes. A model that knows nothing has about 1 / (number of
         choices), more where choices give themselves away: compare with the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evaluators.base import (
    Conversation,
    Evaluator,
    Row,
    conversation_of,
    first_rows,
    hash_of,
    item,
    score,
    shown,
)
from evaluators.scores import Measurement, Score, ScoreInfo
from evaluators.spec import MultipleChoiceSpec
from evaluators.stats import share_estimate
from evaluators.tokens import Logp

if TYPE_CHECKING:
    from evaluators.models import LoadedModel


class MultipleChoice(Evaluator):
    """Accuracy over given choices, by likelihood and by likelihood per character."""

    version: ClassVar[int] = 1

    def __init__(self, name: str, spec: MultipleChoiceSpec, rows: Sequence[Row]) -> None:
        super().__init__(name, spec.infos(name))
        self.spec = spec
        self.rows = first_rows(name, spec.source, rows, spec.limit)
        self.questions: list[tuple[Conversation, tuple[str, ...]]] = []
        self.answers: list[int] = []
        for index, row in enumerate(self.rows):
            choices = _choices(f"evaluator {name}: row {index}", row)
            self.questions.append((conversation_of(name, index, row, "prompt"), choices))
            self.answers.append(_answer(f"evaluator {name}: row {index}", row, choices))

    def fingerprint(self) -> str:
        """Return a hash of version, spec and rows."""
        return hash_of(self.version, self.spec, self.rows)

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return both accuracies."""
        logps = model.choice_logps(self.questions)
        items, by_sum, by_character = [], [], []
        for index, (prompt, choices) in enumerate(self.questions):
            nats = np.array([each.nats for each in logps[index]])
            lengths = np.array([len(choice) for choice in choices])
            answer = self.answers[index]
            by_sum.append(_hit(nats, answer))
            by_character.append(_hit(nats / lengths, answer))
            values = {f"nats_{at}": float(each) for at, each in enumerate(nats)}
            values |= {f"characters_{at}": int(each) for at, each in enumerate(lengths)}
            kind = None if self.rows[index].get("kind") is None else str(self.rows[index]["kind"])
            details = {"choices": list(choices)}
            items.append(
                item(
                    self.name,
                    index,
                    {**values, "answer": answer},
                    kind=kind,
                    prompt=shown(prompt),
                    details=details,
                )
            )
        scores = [
            _score(info, hits, logps)
            for info, hits in zip(self.infos, (by_sum, by_character), strict=True)
        ]
        return Measurement(scores=tuple(scores), items=tuple(items))


def _hit(worth_C: NDArray[np.float64], answer: int) -> float:
    return float(int(np.argmax(worth_C)) == answer)


def _score(info: ScoreInfo, hits: Sequence[float], logps: Sequence[tuple[Logp, ...]]) -> Score:
    n_bad = sum(not np.isfinite([each.nats for each in row]).all() for row in logps)
    if n_bad:  # of several NaN the first would win
        return Score.missing(
            info, f"log-probabilities of {n_bad} of {len(logps)} questions are not finite"
        )
    return score(info, share_estimate(hits), len(hits))


def _choices(place: str, row: Row) -> tuple[str, ...]:
    choices = row.get("choices")
    if not isinstance(choices, list | tuple) or len(choices) < 2:
        raise ValueError(f"{place}: choices is {choices!r:.60}; give a list of two texts or more")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError(f"{place}: choices holds other things than texts; give texts")
    if len(set(choices)) < len(choices):
        raise ValueError(f"{place}: choices holds one text twice; remove one")
    return tuple(choices)


def _answer(place: str, row: Row, choices: tuple[str, ...]) -> int:
    answer = row.get("answer")
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    raise ValueError(
        f"{place}: answer is {answer!r:.60}; give the index of the right choice, 0 to "
        f"{len(choices) - 1}, or its text"
    )
