"""Scores of every evaluator of ours, by hand, on a model that answers from a list."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from evaluators.behaviours.retention import prose_passages
from evaluators.scores import Measurement
from evaluators.spec import EvaluatorSpec
from evaluators.suite import Reference, Suite
from evaluators.tokens import Logp, TextChange, TextNats


class ListedModel:
    """A stand-in for LoadedModel whose answers are given."""

    def __init__(
        self,
        outputs: Sequence[str] = (),
        logps: Sequence[tuple[Logp, Logp]] = (),
        nats: Sequence[TextNats] = (),
        changes: Sequence[TextChange] = (),
    ) -> None:
        self.outputs, self.logps, self.nats, self.changes = outputs, logps, nats, changes
        self.asked: list[Any] = []

    def ready(self) -> Any:
        return nullcontext()

    def generate(self, conversations: Sequence[Any], limits: Sequence[int]) -> list[str]:
        self.asked += zip(conversations, limits, strict=True)
        return list(self.outputs[: len(conversations)])

    def completion_logps(self, rows: Sequence[Any]) -> list[Any]:
        return list(self.logps)

    def text_nats(self, texts: Sequence[str], max_tokens: int) -> list[TextNats]:
        return list(self.nats)

    def text_hidden(self, texts: Sequence[str], max_tokens: int) -> str:
        return "hidden"

    def text_changes(self, texts: Sequence[str], max_tokens: int, base: Any) -> list[TextChange]:
        assert base == "hidden"
        return list(self.changes)


def suite_of(rows: Sequence[dict[str, Any]], **fields: Any) -> Suite:
    spec = TypeAdapter(EvaluatorSpec).validate_json(json.dumps(fields))
    return Suite({"it": spec}, {"data": rows}, Path("."))


def measured(suite: Suite, model: Any, base: Any = None) -> Measurement:
    reference: Reference | None = None if base is None else suite.reference(base)
    return suite.measure(model, reference)["it"]


RULES = [{"rule": "starts_with", "text": "A"}, {"rule": "ends_with", "text": "Z"}]


def test_pattern_is_the_share_of_outputs_that_satisfy_all_rules() -> None:
    rows = [{"prompt": f"p{index}", "kind": "odd"} for index in range(4)]
    suite = suite_of(rows, evaluator="pattern", source="data", rules=RULES)
    found = measured(suite, ListedModel(outputs=["AZ", "AY", "BZ", "BY"]))
    (share,) = found.scores
    assert (share.name, share.value, share.n) == ("it", 0.25, 4)
    # n' = 8, p' = (1 + 2) / 8
    assert share.stderr == pytest.approx(math.sqrt(3 / 8 * 5 / 8 / 8))
    assert [each.values["passed"] for each in found.items] == [1, 0, 0, 0]
    assert found.items[1].values == {"passed": 0, "empty": 0, "rule_0": 1, "rule_1": 0}
    assert found.items[3].details == {"failed": ["0: starts_with", "1: ends_with"]}
    assert (found.items[2].prompt, found.items[2].output, found.items[2].kind) == (
        "p2",
        "BZ",
        "odd",
    )


def test_pattern_looks_for_the_gold_answer_of_each_row() -> None:
    rows = [{"prompt": "a", "gold": "1"}, {"prompt": "b", "gold": "2"}]
    rules = [{"rule": "contains", "field": "gold"}]
    suite = suite_of(rows, evaluator="pattern", source="data", rules=rules)
    found = measured(suite, ListedModel(outputs=["it is 2", "it is 2"]))
    assert [each.values["passed"] for each in found.items] == [0, 1]


def test_pattern_puts_the_system_prompt_before_messages_that_have_none() -> None:
    own = [{"role": "system", "content": "mine"}, {"role": "user", "content": "b"}]
    rows = [{"prompt": [{"role": "user", "content": "a"}]}, {"prompt": own}]
    suite = suite_of(
        rows, evaluator="pattern", source="data", rules=RULES, system="be brief", max_new_tokens=7
    )
    model = ListedModel(outputs=["", ""])
    measured(suite, model)
    brief = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]
    assert model.asked == [(brief, 7), (own, 7)]


def test_preference_compares_per_token_and_gains_are_sums_over_the_base() -> None:
    rows = [{"prompt": "p", "chosen": "c", "rejected": "r"}] * 4
    suite = suite_of(rows, evaluator="preference", source="data")
    # per token: -1 > -2, -3 < -2, -1 = -1, -1 > -4; the first has the lower sum and still wins
    model = ListedModel(
        logps=[
            (Logp(-8.0, 8), Logp(-4.0, 2)),
            (Logp(-6.0, 2), Logp(-4.0, 2)),
            (Logp(-3.0, 3), Logp(-1.0, 1)),
            (Logp(-2.0, 2), Logp(-8.0, 2)),
        ]
    )
    base = ListedModel(
        logps=[
            (Logp(-10.0, 8), Logp(-4.0, 2)),  # gain (-8 + 10) - 0 = 2
            (Logp(-6.0, 2), Logp(-5.0, 2)),  # gain 0 - 1 = -1
            (Logp(-4.0, 3), Logp(-2.0, 1)),  # gain 1 - 1 = 0
            (Logp(-2.0, 2), Logp(-1.0, 2)),  # gain 0 - -7 = 7
        ]
    )
    scores = {score.name: score for score in measured(suite, model, base).scores}
    assert scores["it.accuracy"].value == (1 + 0 + 0.5 + 1) / 4
    assert scores["it.margin"].value == pytest.approx((1 - 1 + 0 + 3) / 4)
    # deviations from 0.75: .25, -1.75, -.75, 2.25; squares sum to 8.75; / 3 / 4
    assert scores["it.margin"].stderr == pytest.approx(math.sqrt(8.75 / 12))
    assert scores["it.gain"].value == (2 - 1 + 0 + 7) / 4
    # deviations from 2: 0, -3, -2, 5; squares sum to 38
    assert scores["it.gain"].stderr == pytest.approx(math.sqrt(38 / 12))
    assert scores["it.gain_accuracy"].value == (1 + 0 + 0.5 + 1) / 4
    assert {score.n for score in scores.values()} == {4}


def test_preference_without_a_reference_has_accuracy_and_lacks_gains() -> None:
    rows = [{"prompt": "p", "chosen": "c", "rejected": "r"}] * 2
    suite = suite_of(rows, evaluator="preference", source="data")
    found = measured(suite, ListedModel(logps=[(Logp(-1.0, 1), Logp(-2.0, 1))] * 2))
    assert [score.status for score in found.scores] == [
        "measured",
        "measured",
        "missing",
        "missing",
    ]
    assert "measure the suite's reference first" in (found.scores[2].reason or "")


def test_likelihood_is_bits_over_bytes_of_all_rows_together() -> None:
    suite = suite_of([{"text": "ab"}, {"text": "abcdef"}], evaluator="likelihood", source="data")
    two, six = TextNats(3 * math.log(2), 2, 2), TextNats(5 * math.log(2), 4, 6)
    found = measured(suite, ListedModel(nats=[two, six]))
    (bits,) = found.scores
    # R = 8 / 8 = 1, not the mean of 3 / 2 and 5 / 6; residuals 1 and -1; var = 2 / 1 / 2; stderr = 1 / mean(2, 6)
    assert bits.value == pytest.approx(1.0)
    assert bits.stderr == pytest.approx(1 / 4)
    assert found.items[1].values == {"nats": 5 * math.log(2), "bytes": 6, "tokens": 4}


def test_retention_is_the_change_in_bits_and_the_divergence_per_token() -> None:
    suite = suite_of([{"text": "ab"}, {"text": "abcdef"}], evaluator="retention", source="data")
    ln2 = math.log(2)
    changes = [
        TextChange(nats=4 * ln2, base_nats=2 * ln2, kl_nats=0.3, n_tokens=1, n_bytes=2),
        TextChange(nats=8 * ln2, base_nats=6 * ln2, kl_nats=0.1, n_tokens=3, n_bytes=6),
    ]
    found = measured(suite, ListedModel(changes=changes), ListedModel())
    change, kl = found.scores
    assert change.value == pytest.approx((2 + 2) / (2 + 6))
    # residuals 2 - .5 * 2 = 1 and 2 - .5 * 6 = -1; var = 2 / 1 / 2; / mean(2, 6)
    assert change.stderr == pytest.approx(1 / 4)
    assert kl.value == pytest.approx(0.4 / 4)
    # residuals .3 - .1 = .2 and .1 - .3 = -.2; var = .08 / 1 / 2; / mean(1, 3)
    assert kl.stderr == pytest.approx(math.sqrt(0.04) / 2)


def test_retention_without_a_reference_is_missing() -> None:
    found = measured(
        suite_of([{"text": "ab"}], evaluator="retention", source="data"), ListedModel()
    )
    assert [score.value for score in found.scores] == [None, None]
    assert found.items == ()


def test_default_passages_are_distinct_prose() -> None:
    passages = prose_passages()
    assert len(passages) >= 64
    assert len(set(passages)) == len(passages)
    assert all(300 <= len(passage) <= 900 and "\n" not in passage for passage in passages)
    assert not any("::=" in passage or ">>>" in passage for passage in passages)


NAN = float("nan")


@pytest.mark.parametrize(
    ("fields", "row", "model"),
    [
        (
            {"evaluator": "preference"},
            {"prompt": "p", "chosen": "c", "rejected": "r"},
            ListedModel(logps=[(Logp(NAN, 1), Logp(-1.0, 1)), (Logp(-1.0, 1), Logp(-2.0, 1))]),
        ),
        (
            {"evaluator": "likelihood"},
            {"text": "t"},
            ListedModel(nats=[TextNats(NAN, 1, 1), TextNats(1.0, 1, 1)]),
        ),
        (
            {"evaluator": "retention"},
            {"text": "t"},
            ListedModel(changes=[TextChange(NAN, 1.0, NAN, 1, 1), TextChange(1.0, 1.0, 0.0, 1, 1)]),
        ),
    ],
)
def test_one_item_that_is_not_finite_makes_the_score_missing_and_shows_itself(
    fields: dict[str, Any], row: dict[str, Any], model: ListedModel
) -> None:
    good = (Logp(-1.0, 1), Logp(-1.0, 1))
    suite = suite_of([row, row], source="data", **fields)
    found = measured(suite, model, ListedModel(logps=[good, good]))
    assert {score.status for score in found.scores} == {"missing"}
    assert all("not finite" in (score.reason or "") for score in found.scores)
    assert "nan" in found.items[0].details["not_finite"].values()
    assert "not_finite" not in found.items[1].details


@pytest.mark.parametrize(
    ("fields", "row", "message"),
    [
        ({"evaluator": "pattern", "rules": RULES}, {"prompt": 3}, "row 1: prompt is 3"),
        (
            {"evaluator": "pattern", "rules": RULES},
            {"prompt": [{"role": "user"}]},
            "list of messages",
        ),
        (
            {"evaluator": "pattern", "rules": RULES, "system": "s"},
            {"prompt": "raw"},
            "takes no system prompt",
        ),
        (
            {"evaluator": "pattern", "rules": [{"rule": "contains", "field": "gold"}]},
            {"prompt": "p"},
            "row 1: field 'gold' holds no text; the row has prompt",
        ),
        ({"evaluator": "preference"}, {"prompt": "p", "chosen": "c"}, "row 1: rejected is None"),
        (
            {"evaluator": "preference"},
            {"prompt": "p", "chosen": "c", "rejected": [{"role": "assistant", "content": "r"}]},
            "row 1 mixes raw text and messages",
        ),
        ({"evaluator": "likelihood"}, {"text": "  "}, "row 1: text is '  '"),
        ({"evaluator": "retention"}, {}, "row 1: text is None"),
    ],
)
def test_row_of_the_wrong_shape_is_refused_with_evaluator_and_place(
    fields: dict[str, Any], row: dict[str, Any], message: str
) -> None:
    good = {
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": "c"}],
        "rejected": [{"role": "assistant", "content": "r"}],
        "text": "t",
        "gold": "g",
    }
    with pytest.raises(ValueError, match=message) as caught:
        suite_of([good, row], source="data", **fields)
    assert str(caught.value).startswith("evaluator it: ")
    assert "\n" not in str(caught.value)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="source data has no rows"):
        suite_of([], evaluator="likelihood", source="data")


def test_limit_uses_the_first_rows() -> None:
    suite = suite_of([{"text": "a"}, {"text": ""}], evaluator="likelihood", source="data", limit=1)
    found = measured(suite, ListedModel(nats=[TextNats(1.0, 1, 1)]))
    assert len(found.items) == 1
    assert found.scores[0].stderr is None
