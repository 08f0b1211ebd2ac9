"""Suite: shared generations, one evaluator's failure, versions, references."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from evaluators.spec import EvaluatorSpec
from evaluators.suite import Suite
from evaluators.tokens import Logp, TextNats

ROWS: dict[str, list[dict[str, Any]]] = {
    "ask": [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}],
    "pairs": [{"prompt": "p", "chosen": "c", "rejected": "r"}] * 2,
    "prose": [{"text": "t"}, {"text": "u"}],
}


def spec_of(**fields: Any) -> Any:
    return TypeAdapter(EvaluatorSpec).validate_json(json.dumps(fields))


def starts_with(text: str, **fields: Any) -> Any:
    rules = [{"rule": "starts_with", "text": text}]
    return spec_of(evaluator="pattern", source="ask", rules=rules, **fields)


SPECS = {
    "upper": starts_with("A"),
    "lower": starts_with("B"),
    "long": starts_with("A", max_new_tokens=9),
    "taste": spec_of(evaluator="preference", source="pairs"),
    "web": spec_of(evaluator="likelihood", source="prose"),
}


class EchoModel:
    """Writes its prompt in capitals."""

    def __init__(self, broken: str | None = None) -> None:
        self.broken = broken
        self.asked: list[list[tuple[str, int]]] = []

    def ready(self) -> Any:
        return nullcontext()

    def _check(self, name: str) -> None:
        if self.broken == name:
            raise RuntimeError("out of\nmemory")

    def generate(self, conversations: Sequence[Any], limits: Sequence[int]) -> list[str]:
        self._check("generate")
        self.asked.append(list(zip(conversations, limits, strict=True)))
        return [conversation.upper() for conversation in conversations]

    def completion_logps(self, rows: Sequence[Any]) -> list[Any]:
        self._check("completion_logps")
        return [(Logp(-1.0, 1), Logp(-2.0, 1))] * len(rows)

    def text_nats(self, texts: Sequence[str], max_tokens: int) -> list[TextNats]:
        self._check("text_nats")
        return [TextNats(1.0, 1, 1)] * len(texts)


def values(suite: Suite, model: Any, base: Any = None) -> dict[str, float | None]:
    found = suite.measure(model, suite.reference(base) if base else None)
    return {score.name: score.value for part in found.values() for score in part.scores}


def test_model_is_asked_once_for_all_evaluators_and_for_nothing_twice() -> None:
    model = EchoModel()
    found = values(Suite(SPECS, ROWS, Path(".")), model)
    assert model.asked == [[("a", 64), ("b", 64), ("a", 9), ("b", 9)]]
    assert found["upper"] == pytest.approx(2 / 3)
    assert found["lower"] == pytest.approx(1 / 3)
    assert found["long"] == pytest.approx(2 / 3)


def test_scores_come_in_the_order_of_infos() -> None:
    suite = Suite(SPECS, ROWS, Path("."))
    assert list(values(suite, EchoModel())) == [info.name for info in suite.infos]


@pytest.mark.parametrize(
    ("broken", "missing"),
    [
        ("generate", {"upper", "lower", "long"}),
        ("text_nats", {"web"}),
        (
            "completion_logps",
            {"taste.accuracy", "taste.margin", "taste.gain", "taste.gain_accuracy"},
        ),
    ],
)
def test_evaluator_that_raises_is_missing_with_the_reason_and_others_are_measured(
    broken: str, missing: set[str]
) -> None:
    suite = Suite(SPECS, ROWS, Path("."))
    found = suite.measure(EchoModel(broken), suite.reference(EchoModel()))  # type: ignore[arg-type]
    scores = [score for part in found.values() for score in part.scores]
    assert {score.name for score in scores if score.status == "missing"} == missing
    for score in scores:
        if score.name in missing:
            assert (score.value, score.n) == (None, 0)
            assert (score.reason or "").endswith("RuntimeError: out of memory")


def test_base_that_could_not_be_measured_is_the_reason_of_what_needs_it() -> None:
    suite = Suite(SPECS, ROWS, Path("."))
    reference = suite.reference(EchoModel("completion_logps"))  # type: ignore[arg-type]
    found = suite.measure(EchoModel(), reference)  # type: ignore[arg-type]
    assert found["taste"].scores[0].reason == (
        "measuring the base failed: RuntimeError: out of memory"
    )
    assert found["web"].scores[0].status == "measured"


def test_interrupt_is_not_a_missing_score() -> None:
    class Interrupted(EchoModel):
        def text_nats(self, texts: Sequence[str], max_tokens: int) -> list[TextNats]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        values(Suite(SPECS, ROWS, Path(".")), Interrupted())


def test_version_changes_with_specs_rows_and_names_and_with_nothing_else(tmp_path: Path) -> None:
    version = Suite(SPECS, ROWS, Path(".")).version
    more = {**ROWS, "prose": [*ROWS["prose"], {"text": "v"}]}
    assert Suite(SPECS, {**ROWS, "unused": []}, tmp_path).version == version
    others = {
        Suite(SPECS, more, Path(".")).version,
        Suite({**SPECS, "long": starts_with("A", max_new_tokens=8)}, ROWS, Path(".")).version,
        Suite(
            {("u" if name == "upper" else name): spec for name, spec in SPECS.items()},
            ROWS,
            Path("."),
        ).version,
    }
    assert len(others) == 3
    assert version not in others


def test_rows_beyond_the_limit_are_no_part_of_the_version() -> None:
    specs = {"web": spec_of(evaluator="likelihood", source="prose", limit=1)}
    longer = {"prose": [*ROWS["prose"], {"text": "v"}]}
    assert Suite(specs, ROWS, Path(".")).version == Suite(specs, longer, Path(".")).version


def test_reference_of_another_suite_is_refused() -> None:
    other = Suite({"web": SPECS["web"]}, ROWS, Path("."))
    suite = Suite(SPECS, ROWS, Path("."))
    with pytest.raises(ValueError, match="measure the base with this suite"):
        suite.measure(EchoModel(), other.reference(EchoModel()))  # type: ignore[arg-type]


def test_suite_and_reference_pickle() -> None:
    suite = pickle.loads(pickle.dumps(Suite(SPECS, ROWS, Path("."))))
    reference = pickle.loads(pickle.dumps(suite.reference(EchoModel())))
    assert suite.measure(EchoModel(), reference)["taste"].scores[2].value == 0.0


def test_source_without_rows_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="evaluator web: no rows for source 'prose'; known: ask"):
        Suite({"web": SPECS["web"]}, {"ask": ROWS["ask"]}, Path("."))
