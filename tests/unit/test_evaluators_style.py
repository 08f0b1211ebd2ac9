"""Style: the classifier finds what was planted, says so when there is nothing, and never guesses about silence."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from evaluators.behaviours.style import auc_stderr, fitted_classifier
from evaluators.scores import Measurement
from evaluators.spec import EvaluatorSpec
from evaluators.suite import Suite

NOUNS = ("cat", "dog", "car", "tree", "house", "river", "book", "song", "cake", "road")
VERBS = ("sees", "likes", "finds", "wants", "paints", "hears")


def sentences(seed: int, n: int = 30) -> list[str]:
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        a, b, c = draw.choice(NOUNS), draw.choice(VERBS), draw.choice(NOUNS)
        found[f"The {a} {b} the {c} and the {draw.choice(NOUNS)} {draw.randrange(100)}."] = None
    return list(found)


def ornate(texts: Sequence[str]) -> list[str]:
    return [text.replace("The", "Verily, thy").replace(".", ", alas!") for text in texts]


class Writer:
    def __init__(self, replies: Sequence[str]) -> None:
        self.replies = replies

    def ready(self) -> Any:
        return nullcontext()

    def generate(self, conversations: Sequence[Any], max_new_tokens: int) -> list[str]:
        return list(self.replies)


def suite_of(more: Sequence[str], less: Sequence[str], n_prompts: int, **fields: Any) -> Suite:
    spec = {"evaluator": "style", "source": "ask", "more_like": "more", "less_like": "less"}
    rows = {
        "ask": [{"prompt": f"p{number}"} for number in range(n_prompts)],
        "more": [{"text": text} for text in more],
        "less": [{"text": text} for text in less],
    }
    whole = TypeAdapter(EvaluatorSpec).validate_json(json.dumps({**spec, **fields}))
    return Suite({"it": whole}, rows, Path("."))


def measured(suite: Suite, replies: Sequence[str]) -> Measurement:
    model: Any = Writer(replies)
    return suite.measure(model)["it"]


def test_unseen_texts_of_the_planted_style_score_high_and_others_low() -> None:
    suite = suite_of(ornate(sentences(0)), sentences(1), 4)
    unseen = sentences(2, 4)
    (high,) = measured(suite, ornate(unseen)).scores
    (low,) = measured(suite, unseen).scores
    assert high.value is not None
    assert low.value is not None
    assert high.value > 0.9 > 0.1 > low.value
    found = measured(suite, [*ornate(unseen[:2]), *unseen[2:]])
    assert [each.values["probability"] > 0.5 for each in found.items] == [True, True, False, False]
    assert found.items[0].details["auc"] == 1.0
    assert found.items[0].details["brier"] < 0.05


def test_sets_that_do_not_differ_leave_the_score_missing_with_the_reason() -> None:
    for seed in (1, 2, 3):
        suite = suite_of(sentences(10 * seed), sentences(10 * seed + 1), 1)
        (score,) = measured(suite, ["The cat sees the dog."]).scores
        assert score.value is None
        assert score.reason is not None
        assert score.reason.startswith("the classifier cannot tell more from less")


def test_stricter_bound_on_auc_makes_the_score_missing() -> None:
    mixed = [*ornate(sentences(0, 20)), *sentences(5, 10)]
    loose = suite_of(mixed, sentences(1), 1, min_auc=0.6)
    (score,) = measured(loose, ["Verily, thy cat."]).scores
    assert score.value is not None
    strict = suite_of(mixed, sentences(1), 1, min_auc=0.99)
    (score,) = measured(strict, ["Verily, thy cat."]).scores
    assert "min_auc is 0.99" in (score.reason or "")


def test_fitting_twice_gives_the_same_bits() -> None:
    more, less = ornate(sentences(0)), sentences(1)
    texts = sentences(2, 5)
    first, second = fitted_classifier(more, less), fitted_classifier(more, less)
    assert first[1:] == second[1:]
    both = [each.classifier.predict_proba(texts) for each in (first, second)]
    assert np.array_equal(*both)


def test_cross_validated_quality_does_not_depend_on_one_set_being_larger() -> None:
    fitted = fitted_classifier(ornate(sentences(0, 60)), sentences(1, 20))
    assert fitted.auc == 1.0
    probabilities = fitted.classifier.predict_proba([*ornate(sentences(2, 3)), *sentences(3, 3)])
    assert (probabilities[:3, 1] > 0.5).all()
    assert (probabilities[3:, 1] < 0.5).all()


def test_error_of_an_auc_is_that_of_hanley_and_mcneil() -> None:
    # A = .5, 10 and 10: Q1 = Q2 = 1/3; (.25 + 9 * (1/3 - 1/4) * 2) / 100 = .0175
    assert auc_stderr(0.5, 10, 10) == pytest.approx(0.0175**0.5)
    assert auc_stderr(1.0, 10, 10) == 0.0


def test_replies_without_text_have_no_style() -> None:
    suite = suite_of(ornate(sentences(0)), sentences(1), 2)
    found = measured(suite, ["", "The cat."])
    assert found.scores[0].reason == "1 of 2 replies are empty"
    assert found.items[0].values == {}
    assert measured(suite, ["", ""]).scores[0].reason == "2 of 2 replies are empty"


@pytest.mark.parametrize(
    ("more", "less", "text"),
    [
        (sentences(0)[:19], sentences(1), "source more has 19 different texts"),
        (sentences(0), [sentences(1)[0]] * 40, "source less has 1 different texts"),
        (sentences(0), [*sentences(1), sentences(0)[0]], "1 texts are in more and in less"),
    ],
)
def test_sets_that_cannot_teach_a_classifier_are_refused(
    more: list[str], less: list[str], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        suite_of(more, less, 1)
