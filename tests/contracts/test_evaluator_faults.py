"""What goes wrong while a model is measured is a missing score with its reason, for every evaluator, and never a 0."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluator_kinds import SPECS, judge_at_hand, load, suite_of, write_all
from judge_stub import StubJudge

from evaluators.base import Reply
from evaluators.models import LoadedModel
from evaluators.scores import Measurement
from evaluators.suite import EVALUATORS, Suite

WRITING = ("pattern", "diversity", "consistency", "refusal", "style", "reward_model", "judge")
MODELLED = sorted(set(EVALUATORS) - {"cost"})
"""`cost` looks at no model."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, StubJudge]]:
    root = tmp_path_factory.mktemp("faults")
    write_all(root)
    with judge_at_hand(tmp_path_factory.mktemp("cache")) as judge:
        yield root, judge


@pytest.fixture(scope="module")
def root(place: tuple[Path, StubJudge]) -> Path:
    return place[0]


def reasons(found: Measurement) -> set[str]:
    """Return why scores are missing, none of which has a value."""
    assert [(score.value, score.n, score.status) for score in found.scores] == [
        (None, 0, "missing")
    ] * len(found.scores)
    return {score.reason or "" for score in found.scores}


def broken(model: LoadedModel, act: Any) -> LoadedModel:
    """Return a model of which every forward pass does something first."""
    model.model.register_forward_pre_hook(act)
    model.model.base_model.register_forward_pre_hook(act)
    return model


@pytest.mark.parametrize("kind", MODELLED)
def test_exception_is_the_reason(kind: str, root: Path) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("out of\nmemory")

    suite = suite_of(kind, root)
    reference = suite.reference(load(root))
    found = suite.measure(broken(load(root), fail), reference)["it"]
    assert all("RuntimeError: out of memory" in reason for reason in reasons(found))


@pytest.mark.parametrize("kind", MODELLED)
def test_measurement_without_end_is_ended_and_says_after_how_long(kind: str, root: Path) -> None:
    suite = suite_of(kind, root)
    reference = suite.reference(load(root))
    model = broken(load(root), lambda *args: time.sleep(60))
    model.model.train()
    started = time.monotonic()
    found = suite.measure(model, reference, limit_seconds=0.2)["it"]
    assert time.monotonic() - started < 30
    assert all(
        "TimeoutError: it took longer than 0.2 seconds" in reason for reason in reasons(found)
    )
    assert model.model.training, "it was not put back as it was found"
    assert suite.measure(load(root), reference)["it"].scores[0].status == "measured"


def test_base_that_takes_too_long_is_the_reason_of_what_needs_it(root: Path) -> None:
    suite = suite_of("retention", root)
    slow = broken(load(root), lambda *args: time.sleep(60))
    found = suite.measure(load(root), suite.reference(slow, limit_seconds=0.2))["it"]
    (reason,) = reasons(found)
    assert reason == "measuring the base failed: TimeoutError: it took longer than 0.2 seconds"


class Silent(LoadedModel):
    """Ends every reply at once, or after white space."""

    def generate(self, conversations: Sequence[Any], max_new_tokens: Any) -> list[Reply]:
        return [Reply(" \n" * (at % 2), is_cut=False) for at in range(len(conversations))]


NOTHING_SAID = {
    # A rule is not satisfied by nothing: 0 of 6 passed is what was measured, and each item says that it was empty.
    "pattern": {"it": 0.0},
    "diversity": {"it.empty": 1.0, "it.cut": 0.0},
    "consistency": {"it.answered": 0.0},
    "refusal": {},
    "style": {},
    "reward_model": {},
    # A judge is asked about empty replies too: with points by length, the stub gives them 2 and 4.
    "judge": {"it": 3.0},
}
"""What each evaluator that reads replies may still say when all are empty; everything else is missing."""


@pytest.mark.parametrize("kind", WRITING)
def test_empty_replies_are_named_and_no_number_comes_of_them_by_accident(
    kind: str, root: Path
) -> None:
    suite, model = suite_of(kind, root), load(root)
    silent = Silent(model.model, model.tokenizer)
    found = suite.measure(silent, suite.reference(load(root)))["it"]
    measured = {each.name: each.value for each in found.scores if each.value is not None}
    assert measured == NOTHING_SAID[kind]
    for score in found.scores:
        if score.value is None:
            assert re.search(
                r"empty|has text|have text|has \d+ words|has an answer", score.reason or ""
            )
    assert [item.output for item in found.items if item.output and item.output.strip()] == []
    if kind == "pattern":
        assert all(item.values["empty"] == 1 for item in found.items)


def test_every_evaluator_that_reads_replies_is_among_those_asked_about_silence(root: Path) -> None:
    asking = {kind for kind in EVALUATORS if suite_of(kind, root).evaluators[0].prompts()}
    assert asking == set(WRITING)
    assert set(MODELLED) == set(SPECS) - {"cost"}


def test_endpoint_that_is_down_is_the_reason_and_other_evaluators_are_measured(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPORTION_CACHE", str(tmp_path))
    monkeypatch.setitem(SPECS["judge"]["endpoint"], "url", "http://127.0.0.1:9/v1")
    monkeypatch.setitem(SPECS["judge"]["endpoint"], "retries", 0)
    judge, pattern = (suite_of(kind, root).evaluators[0] for kind in ("judge", "pattern"))
    suite = Suite({}, {}, root)
    pattern.name = "other"
    suite.evaluators = (judge, pattern)
    found = suite.measure(load(root))
    assert reasons(found["it"]) == {"canary 1 of 2 has no verdict: no connection (ConnectError)"}
    assert found["other"].scores[0].status == "measured"


@pytest.mark.parametrize("kind", MODELLED)
def test_one_item_that_the_model_has_no_finite_number_for_leaves_the_score_missing(
    kind: str, root: Path
) -> None:
    suite, model = suite_of(kind, root), load(root)
    inner, (token,) = model.model, model.tokenizer(" cat")["input_ids"]
    inner.config.tie_word_embeddings = False
    inner.lm_head.weight = torch.nn.Parameter(inner.lm_head.weight.detach().clone())
    # Only what reads the token is ruined: one item of six.
    inner.get_input_embeddings().weight.data[token] = float("nan")
    found = suite.measure(model, suite.reference(load(root)))["it"]
    assert all("finite" in reason for reason in reasons(found))
