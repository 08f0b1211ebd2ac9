"""What items add to a score: found by the formula that gives the score back, and by no other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluators.scores import Item, Score
from evaluators.stats import ratio_estimate
from evaluators.stats.terms import Term, clustered, item_terms, linearised


def score(name: str, value: float | None, n: int) -> Score:
    return Score(
        name=name,
        value=value,
        n=n,
        unit="share",
        direction="maximise",
        status="measured" if value is not None else "missing",
        reason=None if value is not None else "away",
    )


def items(evaluator: str, values: list[dict[str, float]], **changes: object) -> list[Item]:
    return [
        Item(evaluator=evaluator, index=at, prompt=f"prompt {at}", values=each, **changes)  # type: ignore[arg-type]
        for at, each in enumerate(values)
    ]


def found(name: str, value: float, own: list[Item]) -> list[Term]:
    terms = item_terms(score(name, value, len(own)), own)
    assert terms is not None
    return list(terms.by_item.values())


def test_pattern_is_the_mean_of_passed() -> None:
    own = items("tone", [{"passed": 1.0, "rule_0": 1.0}, {"passed": 0.0, "rule_0": 1.0}])
    other = items("form", [{"passed": 1.0}] * 3)
    assert found("tone", 0.5, own) == [(1.0, 1.0), (0.0, 1.0)]
    terms = item_terms(score("tone", 0.5, 2), [*other, *own])
    assert terms is not None
    assert terms.clusters == {0: "prompt 0", 1: "prompt 1"}


def test_preference_has_four_scores() -> None:
    pair = {
        "chosen_nats": -6.0,
        "chosen_tokens": 3.0,
        "rejected_nats": -6.0,
        "rejected_tokens": 2.0,
    }
    pair |= {"base_chosen_nats": -8.0, "base_rejected_nats": -5.0}
    own = items("taste", [pair, pair | {"chosen_nats": -9.0}])
    # Margins -2 + 3 = 1 and -3 + 3 = 0; gains 2 + 1 = 3 and -1 + 1 = 0.
    assert found("taste.margin", 0.5, own) == [(1.0, 1.0), (0.0, 1.0)]
    assert found("taste.accuracy", 0.75, own) == [(1.0, 1.0), (0.5, 1.0)]
    assert found("taste.gain", 1.5, own) == [(3.0, 1.0), (0.0, 1.0)]
    assert found("taste.gain_accuracy", 0.75, own) == [(1.0, 1.0), (0.5, 1.0)]


def test_retention_and_likelihood_are_ratios() -> None:
    text = {"nats": 4.0, "base_nats": 2.0, "kl_nats": 1.0, "tokens": 2.0, "bytes": 8.0}
    own = items("retention", [text, text | {"kl_nats": 3.0}])
    assert found("retention.kl", 1.0, own) == [(1.0, 2.0), (3.0, 2.0)]
    bits = 2 / math.log(2)
    change = found("retention.bits_per_byte_change", bits / 8, own)
    assert change == [(pytest.approx(bits), 8.0)] * 2
    prose = items("prose", [{"nats": 4.0, "bytes": 8.0, "tokens": 2.0}])
    assert found("prose", 0.5 / math.log(2), prose) == [(pytest.approx(4 / math.log(2)), 8.0)]


def test_other_evaluators_are_means_of_the_value_that_gives_the_score() -> None:
    own = items("exam", [{"acc": 1.0}, {"acc": 0.0}], details={"task": "sums"})
    other = items("exam", [{"acc": 0.0}], details={"task": "words"})
    assert item_terms(score("exam.sums", 0.5, 2), [*own, *other]) is not None


def test_items_that_do_not_give_the_score_back_have_no_terms() -> None:
    own = items("tone", [{"passed": 1.0}, {"passed": 0.0}])
    assert item_terms(score("tone", 0.7, 2), own) is None
    assert item_terms(score("tone", 0.5, 3), own) is None  # an item is lost
    assert item_terms(score("tone", 0.5, 2), []) is None
    assert item_terms(score("tone", None, 0), own) is None


def test_linearised_values_have_the_mean_and_standard_error_of_the_ratio() -> None:
    y_N, x_N = [3.0, 1.0, 5.0], [1.0, 3.0, 2.0]
    terms = {at: Term(y, x) for at, (y, x) in enumerate(zip(y_N, x_N, strict=True))}
    values_N = linearised(terms)
    value, stderr = ratio_estimate(y_N, x_N)
    assert values_N.mean() == pytest.approx(value)
    assert values_N.std(ddof=1) / math.sqrt(3) == pytest.approx(stderr)


def test_items_with_one_prompt_become_one_column() -> None:
    values_SN = np.array([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 1.0, 1.0]])
    merged = clustered(values_SN, ["a", "a", "b", "b"])
    assert merged.tolist() == [[1.5, 4.5], [0.0, 1.0]]
    uneven = clustered(values_SN, ["a", "b", "b", "b"])
    assert uneven.mean(axis=1) == pytest.approx(values_SN.mean(axis=1))
    assert clustered(values_SN, list("abcd")) is values_SN
