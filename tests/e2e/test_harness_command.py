"""The harness evaluator gives, to the last digit, what lm-evaluation-harness's own command does for a saved model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import environment, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.contract.tiny import ANIMALS
from evaluators.harness import BATCH_ROWS
from evaluators.models import LoadedModel
from evaluators.scores import Score
from evaluators.spec import HarnessSpec
from evaluators.stats import share_estimate
from evaluators.suite import Suite

HEAD = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}.jsonl, train: examples.jsonl}}}}
test_split: test
fewshot_split: train
"""
CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TASKS = {
    "colours": ("rows", CHOICE),
    "shades": ("fewer", CHOICE),
    "hues": ("rows", CHOICE),
    "tints": ("fewer", CHOICE),
    "says": (
        "rows",
        """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[gold]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
    ),
    "rolling": (
        "rows",
        """
output_type: loglikelihood_rolling
num_fewshot: 0
doc_to_text: ""
doc_to_target: "{{question}} and to you"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    ),
    "writing": (
        "rows",
        """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{written}}"
generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    ),
}
GROUP = """
group: {name}
task: [{tasks}]
aggregate_metric_list: [{{metric: acc, weight_by_size: {weighted}}}]
"""
GROUPS = {"weighted": ("colours, shades", "true"), "even": ("hues, tints", "false")}
METRICS = {
    "colours": ("acc,none", "acc_norm,none"),
    "says": ("perplexity,none",),
    "rolling": ("word_perplexity,none", "byte_perplexity,none", "bits_per_byte,none"),
    "writing": ("exact_match,none",),
    "weighted": ("acc,none",),
    "even": ("acc,none",),
}
"""Task or group to the metrics that are compared."""
SETTINGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "plain": ({}, []),
    "few_shot": ({"num_fewshot": 2}, ["--num_fewshot", "2"]),
    "chat": (
        {"num_fewshot": 2, "apply_chat_template": True, "limit": 9},
        ["--num_fewshot", "2", "--apply_chat_template", "--limit", "9"],
    ),
}
"""Fields of the spec, and the same as words of the command."""


def write_tasks(folder: Path, written: Iterable[str] = ()) -> None:
    """Write rows, examples, tasks and groups; what was `written` is right for every other row."""
    folder.mkdir(exist_ok=True)
    answers = dict(enumerate(written))
    rows = [
        {
            "question": f"the {animal} says {word}",
            "choices": ["hello", "you to", f"the {animal}"],
            "gold": (at + len(animal)) % 3,
            "written": answers.get(at, "") if at % 2 else "something else",
        }
        for at, (animal, word) in enumerate(zip(ANIMALS, [*"abcdefghijkl"], strict=True))
    ]
    examples = [{**row, "question": f"{row['question']} twice", "written": "hello"} for row in rows]
    for name, lines in {"rows": rows, "fewer": rows[:5], "examples": examples}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, (source, text) in TASKS.items():
        (folder / f"{name}.yaml").write_text(HEAD.format(name=name, rows=source) + text)
    for name, (tasks, weighted) in GROUPS.items():
        text = GROUP.format(name=name, tasks=tasks, weighted=weighted)
        (folder / f"{name}.yaml").write_text(text)


def command_results(root: Path, words: list[str]) -> dict[str, dict[str, Any]]:
    """Return what the command writes."""
    output = root / "output"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"),
            *("--model_args", f"pretrained={root / 'model'},dtype=float32"),
            *("--tasks", "weighted,even,says,rolling,writing"),
            *("--include_path", str(root / "tasks"), "--output_path", str(output)),
            *("--batch_size", str(BATCH_ROWS), *words),
        ],
        cwd=root / "tasks",
        env={
            **environment(),
            "HF_DATASETS_CACHE": str(root / "cache"),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = output.rglob("results_*.json")
    results: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"]
    return results


def measured(
    root: Path, model: LoadedModel, fields: dict[str, Any], metrics: dict[str, tuple[str, ...]]
) -> tuple[dict[tuple[str, str], Score], list[str]]:
    """Return our scores by task and metric, and what the last evaluator's model wrote."""
    scores: dict[tuple[str, str], Score] = {}
    outputs: list[str] = []
    for task, keys in metrics.items():
        for key in keys:
            metric = key.split(",")[0]
            more = {"direction": "minimise"} if "per" in metric and task != "colours" else {}
            text = json.dumps(
                {"evaluator": "harness", "include_path": "tasks", "tasks": [task], "metric": key}
                | fields
                | more
            )
            suite = Suite({"exam": HarnessSpec.model_validate_json(text)}, {}, root)
            found = suite.measure(model)["exam"]
            scores[task, key] = found.scores[0]
            outputs = [each.output or "" for each in found.items]
    return scores, outputs


@pytest.mark.slow
@pytest.mark.timeout(900)  # the command indexes all its own tasks first
@pytest.mark.parametrize("setting", SETTINGS)
def test_scores_are_those_of_the_command_to_the_last_digit(tmp_path: Path, setting: str) -> None:
    fields, words = SETTINGS[setting]
    write_model(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    model = LoadedModel(loaded, AutoTokenizer.from_pretrained(tmp_path / "model"))
    write_tasks(tmp_path / "tasks")
    _, written = measured(tmp_path, model, fields, {"writing": METRICS["writing"]})
    write_tasks(tmp_path / "tasks", written)

    theirs = command_results(tmp_path, words)
    ours, _ = measured(tmp_path, model, fields, METRICS)

    for (task, key), score in ours.items():
        assert score.value == theirs[task][key], (task, key)
        stderr = theirs[task][key.replace(",", "_stderr,")]
        if task == "rolling":
            assert stderr == "N/A"  # the command has none for ratios
            assert score.stderr is not None
        elif task == "says":
            # The command draws a bootstrap, which is of no use where a few rows make the perplexity.
            assert stderr > 0
            assert score.stderr is not None
        elif stderr == 0.0:
            column = [score.value] * score.n
            assert score.stderr == share_estimate(column).stderr
        else:
            assert score.stderr == stderr, (task, key)
    assert 0 < ours["writing", "exact_match,none"].value < 1
    assert 0 < ours["colours", "acc,none"].value < 1
