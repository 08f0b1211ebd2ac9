"""Multiple choice: by hand, and equal to lm-evaluation-harness on the same rows and model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from tiny import ANIMALS, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.models import LoadedModel
from evaluators.scores import Measurement
from evaluators.spec import EvaluatorSpec
from evaluators.stats import share_estimate
from evaluators.suite import Suite
from evaluators.tokens import Logp, choice_sequences

CHOICES = ["hi", "to you and to the fox", "says no"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("choice")
    write_model(root / "model")
    return root


def rows_of(n: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"the {animal}{' ' * (number % 2)}",
            "choices": CHOICES,
            "answer": int(number > 7),
        }
        for number, animal in enumerate(ANIMALS[:n])
    ]


def load(root: Path) -> LoadedModel:
    model = AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return LoadedModel(model, AutoTokenizer.from_pretrained(root / "model"))


def measured(rows: Sequence[dict[str, Any]], model: Any) -> Measurement:
    spec = {"evaluator": "multiple_choice", "source": "data"}
    whole = TypeAdapter(EvaluatorSpec).validate_json(json.dumps(spec))
    return Suite({"it": whole}, {"data": rows}, Path(".")).measure(model)["it"]


class Listed:
    def __init__(self, logps: Sequence[tuple[Logp, ...]]) -> None:
        self.logps = logps

    def ready(self) -> Any:
        return nullcontext()

    def choice_logps(self, rows: Sequence[Any]) -> list[tuple[Logp, ...]]:
        return list(self.logps)


def test_accuracy_is_of_the_likeliest_choice_and_acc_norm_of_the_likeliest_per_character() -> None:
    rows = [
        {"prompt": "a", "choices": ["yes", "certainly"], "answer": 0},
        {"prompt": "b", "choices": ["yes", "certainly"], "answer": "certainly"},
        {"prompt": "c", "choices": ["yes", "no!"], "answer": 1},
    ]
    logps = [
        (Logp(-3.0, 1), Logp(-4.0, 3)),  # sum: yes. per character: -1 < -4/9, certainly
        (Logp(-3.0, 1), Logp(-4.0, 3)),
        (Logp(-2.0, 1), Logp(-2.0, 1)),  # equal: the first counts
    ]
    found = measured(rows, Listed(logps))
    assert [score.value for score in found.scores] == pytest.approx([1 / 3, 1 / 3])
    assert found.items[1].values == {
        **{"nats_0": -3.0, "nats_1": -4.0, "characters_0": 3, "characters_1": 9},
        "answer": 1,
    }


def test_log_probabilities_that_are_not_finite_leave_both_scores_missing() -> None:
    rows = rows_of(2)
    good, bad = (Logp(-1.0, 1),) * 3, (Logp(float("nan"), 1),) * 3
    found = measured(rows, Listed([good, bad]))
    assert {score.reason for score in found.scores} == {
        "log-probabilities of 1 of 2 questions are not finite"
    }


TASK = """
task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


@pytest.mark.parametrize("is_chat", [False, True])
def test_both_accuracies_and_every_log_probability_equal_those_of_the_harness(
    is_chat: bool, root: Path
) -> None:
    folder = root / f"tasks_{is_chat}"
    folder.mkdir()
    (folder / "pick.yaml").write_text(TASK)
    rows = rows_of()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = load(root)
    theirs = {}
    for metric in ("acc", "acc_norm"):
        spec = {
            **{"evaluator": "harness", "tasks": ["pick"], "include_path": folder.name},
            **{"metric": f"{metric},none", "apply_chat_template": is_chat},
        }
        whole = TypeAdapter(EvaluatorSpec).validate_json(json.dumps(spec))
        theirs[metric] = Suite({"it": whole}, {}, root).measure(model)["it"]
    if is_chat:
        rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    ours = measured(rows, model)
    for score, metric in zip(ours.scores, ("acc", "acc_norm"), strict=True):
        assert score.value == theirs[metric].scores[0].value, metric
        passed = [each.values[metric] for each in theirs[metric].items]
        assert score.stderr == share_estimate(passed).stderr
    for own, other in zip(ours.items, theirs["acc"].items, strict=True):
        nats = [float(pair[0]) for pair in json.loads(other.details["answers"])]
        assert [own.values[f"nats_{at}"] for at in range(3)] == pytest.approx(nats, abs=1e-4)
    assert len({score.value for score in ours.scores}) == 2  # else one may pass for the other


def test_space_at_the_end_of_a_prompt_belongs_to_the_choice(root: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    (plain,) = choice_sequences(tokenizer, 0, "the cat", ("says",))
    assert tokenizer.decode(plain.ids[plain.first :]) == " says"
    (spaced,) = choice_sequences(tokenizer, 0, "the cat ", ("says",))
    assert tokenizer.decode(spaced.ids[spaced.first :]) == "  says"
    with pytest.raises(ValueError, match="row 4 has a prompt without tokens"):
        choice_sequences(tokenizer, 4, " ", ("says",))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"choices": ["a"], "answer": 0}, "give a list of two texts or more"),
        ({"answer": 0}, "choices is None"),
        ({"choices": ["a", 2], "answer": 0}, "choices holds other things than texts"),
        ({"choices": ["a", "a"], "answer": 0}, "holds one text twice"),
        (
            {"choices": ["a", "b"], "answer": 2},
            "answer is 2; give the index of the right choice, 0 to 1",
        ),
        ({"choices": ["a", "b"], "answer": True}, "answer is True"),
        ({"choices": ["a", "b"], "answer": "B"}, "answer is 'B'"),
    ],
)
def test_row_that_is_no_question_is_refused(row: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"evaluator it: row 0: .*{text}"):
        measured([{"prompt": "p", **row}], Listed([]))
