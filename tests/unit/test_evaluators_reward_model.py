"""Reward model: the numbers are the classifier's own, whatever shares a batch; nothing unsafe is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from tiny import write_model, write_reward_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from evaluators.behaviours.reward_model import load_reward_model, rewards_of
from evaluators.scores import Measurement
from evaluators.spec import EvaluatorSpec
from evaluators.suite import Suite


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reward")
    write_model(root / "model")
    write_reward_model(root / "model", root / "reward")
    return root


class Writer:
    device = torch.device("cpu")

    def __init__(self, replies: Sequence[str]) -> None:
        self.replies = replies

    def ready(self) -> Any:
        return nullcontext()

    def generate(self, conversations: Sequence[Any], max_new_tokens: int) -> list[str]:
        return list(self.replies)


ASK = [{"role": "user", "content": "What does the cat say?"}]


def prompt_of(number: int) -> list[dict[str, str]]:
    """Prompts of two lengths, all different."""
    return [*ASK, *ASK, {"role": "user", "content": f"{number}?"}][number % 2 * 2 :]


def suite_of(root: Path, n_rows: int, **fields: Any) -> Suite:
    spec = {"evaluator": "reward_model", "source": "ask", "path": "reward", **fields}
    rows = {"ask": [{"prompt": prompt_of(number)} for number in range(n_rows)]}
    return Suite({"it": TypeAdapter(EvaluatorSpec).validate_json(json.dumps(spec))}, rows, root)


def measured(suite: Suite, replies: Sequence[str]) -> Measurement:
    model: Any = Writer(replies)
    return suite.measure(model)["it"]


def by_hand(root: Path, prompt: list[dict[str, str]], reply: str) -> float:
    """The classifier's output for one conversation alone, by transformers' own means."""
    tokenizer = AutoTokenizer.from_pretrained(root / "reward")
    network = AutoModelForSequenceClassification.from_pretrained(root / "reward")
    messages = [*prompt, {"role": "assistant", "content": reply}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        return float(network(**ids).logits[0, 0])


def test_reward_is_the_output_for_prompt_and_reply_whatever_shares_the_batch(root: Path) -> None:
    replies = [
        "hello",
        "hello to you and to the cat and to the dog",
        "no",
        "the owl says no no",
    ] * 3
    suite = suite_of(root, len(replies))
    found = measured(suite, replies)
    expected = [by_hand(root, prompt_of(number), reply) for number, reply in enumerate(replies)]
    assert [each.values["reward"] for each in found.items] == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) == len(replies)
    (score,) = found.scores
    assert score.value == pytest.approx(sum(expected) / len(expected))
    assert [each.values["truncated"] for each in found.items] == [0.0] * len(replies)


def test_of_a_long_conversation_the_end_is_read_and_the_item_says_so(root: Path) -> None:
    network, tokenizer = load_reward_model(str(root / "reward"), None, "cpu")
    long, short = (rewards_of(network, tokenizer, [(ASK, text)], 8)[0] for text in ("x " * 50, ""))
    assert (long.is_truncated, short.is_truncated) == (True, True)
    # The last 8 tokens are the same, whatever stands before them.
    other = [{"role": "user", "content": "Is it Monday?"}]
    assert rewards_of(network, tokenizer, [(other, "x " * 50)], 8)[0] == long
    assert rewards_of(network, tokenizer, [(other, "x " * 50)], 500)[0] != long


def test_tokenizer_without_chat_template_reads_prompt_and_reply_as_a_pair(root: Path) -> None:
    network, tokenizer = load_reward_model(str(root / "reward"), None, "cpu")
    tokenizer.chat_template = None
    (reward,) = rewards_of(network, tokenizer, [("the cat", "hello")], 100)
    ids = tokenizer("the cat", "hello", return_tensors="pt")
    with torch.inference_mode():
        assert reward.value == pytest.approx(float(network(**ids).logits[0, 0]), abs=1e-6)


def test_rewards_that_are_not_finite_leave_the_score_missing(root: Path) -> None:
    suite = suite_of(root, 2)
    (evaluator,) = suite.evaluators
    network, _ = evaluator._model("cpu")  # type: ignore[attr-defined]
    network.score.weight.data[:] = float("nan")
    found = measured(suite, ["a", "b"])
    assert found.scores[0].reason == "2 of 2 rewards are not finite"
    assert found.items[0].details["not_finite"] == {"reward": "nan"}


def test_replies_without_text_get_no_reward(root: Path) -> None:
    found = measured(suite_of(root, 2), ["", "hello"])
    assert found.scores[0].reason == "1 of 2 replies are empty"
    assert found.items[0].values == {}
    nothing = measured(suite_of(root, 2), ["", ""])
    assert nothing.scores[0].reason == "2 of 2 replies are empty"


def test_language_model_is_no_reward_model(root: Path) -> None:
    found = measured(suite_of(root, 1, path="model"), ["hello"])
    assert "lacks weights of a classifier, such as score.weight" in (found.scores[0].reason or "")


def test_folder_without_safetensors_is_refused_before_anything_is_loaded(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="is no folder; mend path"):
        suite_of(tmp_path, 1)
    shutil.copytree(root / "reward", tmp_path / "reward")
    (tmp_path / "reward" / "model.safetensors").rename(tmp_path / "reward" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="has no weights in safetensors"):
        suite_of(tmp_path, 1)


def test_other_weights_are_another_suite(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "reward", tmp_path / "reward")
    assert suite_of(tmp_path, 1).version == suite_of(root, 1).version
    config = tmp_path / "reward" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert suite_of(tmp_path, 1).version != suite_of(root, 1).version


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"hub": "a/b"}, "exactly one of path and hub"),
        ({"path": None, "hub": "a/b"}, "needs revision, a commit"),
        ({"path": None, "hub": "a/b", "revision": "main"}, "needs revision, a commit"),
        ({"revision": "0" * 40}, "revision belongs to hub"),
    ],
)
def test_place_must_be_one_that_stays_as_it_is(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        suite_of(Path("."), 1, **fields)
