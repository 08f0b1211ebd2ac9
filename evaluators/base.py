"""Evaluator: what every evaluator offers to the suite, and how it builds scores and items. No torch."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from evaluators.facts import Facts
from evaluators.scores import Item, Measurement, Score, ScoreInfo
from evaluators.spec_base import Spec
from evaluators.stats import Estimate

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

Conversation = str | list[dict[str, str]]
"""Raw text, or messages with `role` and `content` that go through the chat template."""
Row = Mapping[str, Any]

PROMPT_CHARACTERS = 200
"""How much of a text an Item shows as its prompt."""


class Reply(str):
    """What a model wrote: text that also knows whether it was cut at the limit."""

    is_cut: bool | None
    """True: the model had not ended when the limit was reached. None: nobody knows."""

    def __new__(cls, text: str, is_cut: bool | None = None) -> Reply:
        """Return the text, marked."""
        reply = super().__new__(cls, text)
        reply.is_cut = is_cut
        return reply


class Prompt(NamedTuple):
    """What a model is asked to continue."""

    conversation: Conversation
    max_new_tokens: int


class Evaluator(ABC):
    """Measures one behaviour of a loaded model.

    Subclasses open with a card (claim, data, version, limits) that gives the keys of `Item.values` and the formula from
    them to each score, so that a script can recompute every score.
    """

    spec_class: ClassVar[type[Spec]]
    """What study.yaml may say about it; only evaluators outside this package need it."""
    version: ClassVar[int]
    """Raise it when the same model and data would give other numbers."""
    needs_reference: ClassVar[bool] = False
    """True: `reference` measures something of the base."""
    needs_facts: ClassVar[bool] = False
    """True: `account` has the scores, and no model is needed for them."""

    def __init__(self, name: str, infos: Sequence[ScoreInfo]) -> None:
        self.name = name
        self.infos = tuple(infos)

    @abstractmethod
    def fingerprint(self) -> str:
        """Return text that changes whenever the same model could get other scores."""

    def prompts(self) -> tuple[Prompt, ...]:
        """Return the prompts whose outputs `measure` wants, in order; the suite generates them."""
        return ()

    def reference(self, base: LoadedModel) -> Any:
        """Return what `measure` needs to know of the base; measured once, kept in memory, picklable."""
        return None

    def write_reference(self, reference: Any) -> bytes | None:
        """Return what `reference` returned as bytes, for other processes; None if it cannot be kept."""
        return None

    def read_reference(self, data: bytes, base: LoadedModel) -> Any:
        """Return what `write_reference` was given, bit for bit.

        Args:
            data: Not to be trusted: it comes from a store that others write.
            base: The base it was measured on.

        Raises:
            ValueError: It is no reference of this evaluator and base.
        """
        raise ValueError(f"evaluator {self.name} keeps no reference")

    @abstractmethod
    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return scores and items of a model.

        Args:
            model: The model.
            reference: What `reference` returned for the base, or None if there is none.
            outputs: What the model wrote for `prompts`, in their order; of a real model each is a `Reply`.
        """

    def account(self, facts: Facts | None) -> Measurement:
        """Return scores that follow from how a model was made; None where its caller does not know."""
        raise NotImplementedError(f"evaluator {self.name} measures models")

    def measure_base(
        self, base: LoadedModel, reference: Any, outputs: Sequence[str]
    ) -> Measurement:
        """Return what `measure` returns for the base itself; override it where `reference` has the answer."""
        return self.measure(base, reference, outputs)


def score(info: ScoreInfo, estimate: Estimate, n: int) -> Score:
    """Return a measured score, or a missing one if the value is not finite."""
    if not math.isfinite(estimate.value):
        return Score.missing(
            info, f"the value is {estimate.value}: the model gave numbers that are not finite"
        )
    stderr = (
        estimate.stderr if estimate.stderr is not None and math.isfinite(estimate.stderr) else None
    )
    return Score(
        name=info.name,
        value=estimate.value,
        stderr=stderr,
        n=n,
        unit=info.unit,
        direction=info.direction,
    )


def item(
    evaluator: str,
    index: int,
    values: Mapping[str, float],
    *,
    kind: str | None = None,
    prompt: str | None = None,
    output: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Item:
    """Return an Item. Values that are not finite go into `details["not_finite"]` by name, as text."""
    finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
    more = dict(details or {})
    if len(finite) < len(values):
        more["not_finite"] = {key: str(values[key]) for key in values if key not in finite}
    return Item(
        evaluator=evaluator,
        index=index,
        kind=kind,
        prompt=prompt,
        output=output,
        values=finite,
        details=more,
    )


def hash_of(version: int, spec: Spec, data: Any) -> str:
    """Return a hex SHA-256 of an evaluator's version, spec and data."""
    text = json.dumps(
        [version, spec.model_dump(mode="json"), data],
        sort_keys=True,
        default=str,
        ensure_ascii=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def first_rows(name: str, source: str, rows: Sequence[Row], limit: int | None) -> tuple[Row, ...]:
    """Return the rows an evaluator uses.

    Raises:
        ValueError: There are none.
    """
    chosen = tuple(rows[:limit])
    if not chosen:
        raise ValueError(f"evaluator {name}: source {source} has no rows; give it at least one")
    return chosen


def text_of(name: str, index: int, row: Row, key: str) -> str:
    """Return the text under a key of a row.

    Raises:
        ValueError: There is none.
    """
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"evaluator {name}: row {index}: {key} is {_short(value)}; give text that is not empty"
        )
    return value


def conversation_of(name: str, index: int, row: Row, key: str) -> Conversation:
    """Return the raw text or the messages under a key of a row.

    Raises:
        ValueError: It is neither.
    """
    value = row.get(key)
    if isinstance(value, str):
        return text_of(name, index, row, key)
    if isinstance(value, Sequence) and value and all(_is_message(message) for message in value):
        return [{"role": message["role"], "content": message["content"]} for message in value]
    raise ValueError(
        f"evaluator {name}: row {index}: {key} is {_short(value)}; "
        "give text or a list of messages with role and content"
    )


def shown(conversation: Conversation) -> str:
    """Return a conversation as an Item shows it: the text, the only message, or one `role: content` a line."""
    if isinstance(conversation, str):
        return conversation
    if len(conversation) == 1:
        return conversation[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in conversation)


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
