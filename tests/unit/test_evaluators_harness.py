"""The harness evaluator against lm-evaluation-harness's own evaluation of local tasks."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.models import LoadedModel
from evaluators.spec import HarnessSpec
from evaluators.stats import ratio_estimate, share_estimate
from evaluators.suite import Suite

HEAD = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: rows.jsonl}}}}
test_split: test
"""
CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
"""
TASKS = {
    "shades": CHOICE + "num_fewshot: 0\nfewshot_split: test\n",
    "colours": """
output_type: multiple_choice
fewshot_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
""",
    "writing": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("harness")
    write_model(root / "model")
    (root / "tasks").mkdir()
    rows = [
        {"question": f"the {animal} says", "choices": ["hello", "you to"], "gold": index % 2}
        for index, animal in enumerate(("cat", "dog", "cow", "hen", "fox"))
    ]
    (root / "tasks" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (root / "tasks" / f"{name}.yaml").write_text(HEAD.format(name=name) + text)
    (root / "tasks" / "both.yaml").write_text(
        "group: both\ntask: [colours, shades]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: false}]\n"
    )
    (root / "tasks" / "loose.yaml").write_text("group: loose\ntask: [colours, shades]\n")
    return root


@pytest.fixture(scope="module")
def model(root: Path) -> LoadedModel:
    loaded = AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
    return LoadedModel(loaded, AutoTokenizer.from_pretrained(root / "model"))


def suite_of(root: Path, **fields: Any) -> Suite:
    text = json.dumps({"evaluator": "harness", "include_path": "tasks", **fields})
    return Suite({"exam": HarnessSpec.model_validate_json(text)}, {}, root)


def theirs(root: Path, model: LoadedModel, task: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(root / "tasks")
    manager = TaskManager(include_path=str(root / "tasks"), include_defaults=False)
    lm = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=1)
    return evaluate(lm=lm, task_dict=manager.load([task]), bootstrap_iters=0)["results"][task]


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("colours", "acc,none"),
        ("colours", "acc_norm,none"),
        ("writing", "exact_match,none"),
        ("rolling", "word_perplexity,none"),
        ("rolling", "bits_per_byte,none"),
    ],
)
def test_score_is_that_of_the_harness_itself(
    root: Path, model: LoadedModel, task: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (score,) = suite_of(root, tasks=[task], metric=metric).measure(model)["exam"].scores
    assert score.reason is None
    assert score.name == f"exam.{task}"
    assert score.value == pytest.approx(float(theirs(root, model, task, monkeypatch)[metric]))
    assert score.n == 5


@pytest.mark.parametrize("task", ["colours", "writing"])
def test_item_whose_answer_is_not_a_number_is_no_hit_and_no_miss(
    task: str, root: Path, model: LoadedModel
) -> None:
    inner = copy.deepcopy(model.model)
    inner.config.tie_word_embeddings = False
    inner.lm_head.weight = torch.nn.Parameter(inner.lm_head.weight.detach().clone())
    (token,) = model.tokenizer(" hen")["input_ids"]
    inner.get_input_embeddings().weight.data[token] = float("nan")
    ruined = LoadedModel(inner, model.tokenizer)
    (score,) = suite_of(root, tasks=[task]).measure(ruined)["exam"].scores
    assert score.value is None
    assert (score.reason or "").endswith(
        {
            "colours": "log-probabilities of 1 of 5 items are not finite",
            "writing": "FloatingPointError: the model's logits are not finite",
        }[task]
    )
    assert inner._forward_hooks == {}


def test_standard_errors_come_from_the_items(root: Path, model: LoadedModel) -> None:
    found = suite_of(root, tasks=["colours"], metric="acc,none").measure(model)["exam"]
    passed = [each.values["acc"] for each in found.items]
    assert found.scores[0].value == sum(passed) / 5
    assert 0 < sum(passed) < 5
    share = sum(passed) / 5
    assert found.scores[0].stderr == pytest.approx(math.sqrt(share * (1 - share) / 4))

    found = suite_of(root, tasks=["writing"]).measure(model)["exam"]
    assert [each.values["exact_match"] for each in found.items] == [0.0] * 5
    assert found.scores[0].stderr == share_estimate([0.0] * 5).stderr  # 0 would claim certainty

    found = suite_of(root, tasks=["rolling"], metric="word_perplexity,none").measure(model)["exam"]
    ratio = ratio_estimate(
        [each.values["word_perplexity_0"] for each in found.items],
        [each.values["word_perplexity_1"] for each in found.items],
    )
    assert ratio.stderr is not None
    assert found.scores[0].value == pytest.approx(math.exp(-ratio.value))
    assert found.scores[0].stderr == pytest.approx(math.exp(-ratio.value) * ratio.stderr)

    found = suite_of(root, tasks=["rolling"], metric="bits_per_byte,none").measure(model)["exam"]
    ratio = ratio_estimate(
        [each.values["bits_per_byte_0"] for each in found.items],
        [each.values["bits_per_byte_1"] for each in found.items],
    )
    assert ratio.stderr is not None
    assert found.scores[0].stderr == pytest.approx(ratio.stderr / math.log(2))


def test_default_metric_is_the_first_of_the_task_and_items_name_their_task(
    root: Path, model: LoadedModel
) -> None:
    found = suite_of(root, tasks=["colours", "writing"], limit=2).measure(model)["exam"]
    assert [score.name for score in found.scores] == ["exam.colours", "exam.writing"]
    assert [each.details["task"] for each in found.items] == ["colours"] * 2 + ["writing"] * 2
    assert [each.index for each in found.items] == [0, 1, 2, 3]
    assert "acc" in found.items[0].values
    assert found.items[2].output is not None


def test_direction_that_the_harness_denies_is_missing_with_the_remedy(
    root: Path, model: LoadedModel
) -> None:
    (score,) = suite_of(root, tasks=["rolling"]).measure(model)["exam"].scores
    assert score.reason == "rolling minimises word_perplexity,none; set direction: minimise"
    (score,) = suite_of(root, tasks=["rolling"], direction="minimise").measure(model)["exam"].scores
    assert score.status == "measured"


def test_unknown_metric_is_missing_with_the_known_ones(root: Path, model: LoadedModel) -> None:
    (score,) = suite_of(root, tasks=["colours"], metric="f1,none").measure(model)["exam"].scores
    assert score.reason == "colours has no metric f1,none; known: acc,none, acc_norm,none"


def test_few_shot_examples_and_chat_template_reach_the_prompt(
    root: Path, model: LoadedModel
) -> None:
    found = suite_of(
        root, tasks=["colours"], num_fewshot=1, apply_chat_template=True, limit=1
    ).measure(model)["exam"]
    assert (found.items[0].prompt or "").count("<|im_start|>user") == 2


def test_task_that_says_it_has_no_examples_gets_none(root: Path, model: LoadedModel) -> None:
    one, other = (
        suite_of(root, tasks=["shades"], num_fewshot=n, limit=1).measure(model)["exam"].items[0]
        for n in (0, 2)
    )
    assert one.prompt == other.prompt == "the cat says"


def test_group_is_the_mean_of_its_tasks_with_their_items(root: Path, model: LoadedModel) -> None:
    metric = "acc,none"
    both = suite_of(root, tasks=["both"], metric=metric).measure(model)["exam"]
    parts = [
        suite_of(root, tasks=[task], metric=metric).measure(model)["exam"].scores[0]
        for task in ("colours", "shades")
    ]
    values = [part.value or 0.0 for part in parts]
    stderrs = [part.stderr or 0.0 for part in parts]
    assert both.scores[0].name == "exam.both"
    assert both.scores[0].value == pytest.approx(sum(values) / 2)
    assert both.scores[0].stderr == pytest.approx(math.hypot(*stderrs) / 2)
    assert both.scores[0].n == 10
    assert [each.details["task"] for each in both.items] == ["colours"] * 5 + ["shades"] * 5

    (score,) = suite_of(root, tasks=["loose"]).measure(model)["exam"].scores
    assert (score.reason or "").endswith("'loose' has no score of its own; name its tasks")


def test_random_states_tokenizer_and_model_are_left_alone(root: Path, model: LoadedModel) -> None:
    model.tokenizer.pad_token = None
    model.model.train()

    def state() -> list[Any]:
        numpy_state: Any = np.random.get_state()
        return [
            random.getstate(),
            numpy_state[1].tolist(),
            torch.get_rng_state().tolist(),
            model.tokenizer.pad_token,
            model.tokenizer.padding_side,
            model.model.training,
        ]

    before = state()
    first = suite_of(root, tasks=["colours", "writing"], num_fewshot=1).measure(model)
    assert state() == before
    random.random()
    torch.rand(1)
    assert suite_of(root, tasks=["colours", "writing"], num_fewshot=1).measure(model) == first


def test_unknown_task_and_missing_folder_are_refused_before_anything_runs(root: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"task 'colour' is not in .*; known: both, colours, loose, rolling, shades, writing",
    ):
        suite_of(root, tasks=["colour"])
    with pytest.raises(ValueError, match="is no folder; mend the path"):
        suite_of(root, tasks=["colours"], include_path="elsewhere")


def test_version_follows_the_task_files(root: Path) -> None:
    version = suite_of(root, tasks=["colours"]).version
    assert suite_of(root, tasks=["colours"]).version == version
    note = root / "tasks" / "note.txt"
    note.write_text("changed")
    try:
        assert suite_of(root, tasks=["colours"]).version != version
    finally:
        note.unlink()
