"""One spec of each evaluator with its rows, on a tiny random model: what tests over all evaluators share."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_stub import StubJudge, stub_judge
from pydantic import TypeAdapter
from tiny import ANIMALS, write_model, write_reward_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.models import LoadedModel
from evaluators.spec import EvaluatorSpec
from evaluators.suite import Suite

ASK = [[{"role": "user", "content": f"What does the {animal} say?"}] for animal in ANIMALS[:6]]
ROWS: dict[str, list[dict[str, Any]]] = {
    "ask": [{"prompt": ask} for ask in ASK],
    "say": [
        {
            "prompt": f"it is the {animal}",
            "kind": ("harmful", "harmless")[number % 2],
            "group": f"group {number // 2}",
            "choices": ["hello", "to you"],
            "answer": number % 2,
        }
        for number, animal in enumerate(ANIMALS[:6])
    ],
    "pairs": [
        {
            "prompt": ask,
            "chosen": [{"role": "assistant", "content": "hello to you"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for ask in ASK
    ],
    "prose": [{"text": f"the {animal} says hello to you"} for animal in ANIMALS[:6]],
    "loud": [{"text": f"HELLO {animal} {n}!!!"} for animal in ANIMALS for n in range(2)],
    "calm": [{"text": f"hello, dear {animal} {n}."} for animal in ANIMALS for n in range(2)],
}
SPECS: dict[str, dict[str, Any]] = {
    "pattern": {
        "source": "ask",
        "rules": [{"rule": "length", "unit": "characters", "at_most": 12}],
        "max_new_tokens": 6,
    },
    "diversity": {"source": "say", "repeated_words": 1, "max_new_tokens": 6},
    "consistency": {"source": "say", "max_new_tokens": 6},
    "refusal": {"source": "say", "max_new_tokens": 6},
    "style": {"source": "say", "more_like": "loud", "less_like": "calm", "max_new_tokens": 6},
    "reward_model": {"source": "say", "path": "reward", "max_new_tokens": 6},
    "judge": {
        "source": "say",
        "how": "rubric",
        "rubric": "Be kind.",
        "endpoint": {"url": "", "model": "judge"},
        "max_new_tokens": 6,
    },
    "preference": {"source": "pairs"},
    "multiple_choice": {"source": "say"},
    "likelihood": {"source": "prose", "max_tokens": 4},
    "retention": {"source": "prose", "max_tokens": 4},
    "cost": {},
    "harness": {"tasks": ["says"], "include_path": "tasks", "metric": "acc,none"},
}
TASK = """
task: says
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: [hello, to you]
doc_to_target: 0
"""


def write_all(root: Path) -> None:
    """Write the model, the reward model and the tasks that the specs name."""
    write_model(root / "model")
    write_reward_model(root / "model", root / "reward")
    (root / "tasks").mkdir()
    (root / "tasks" / "says.yaml").write_text(TASK)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS["prose"])
    (root / "tasks" / "rows.jsonl").write_text(lines)


@contextmanager
def judge_at_hand(cache: Path) -> Iterator[StubJudge]:
    """Let the spec of `judge` name a server on this machine."""
    with pytest.MonkeyPatch.context() as patch, stub_judge() as stub:
        patch.setenv("APPORTION_CACHE", str(cache))
        patch.setitem(SPECS["judge"]["endpoint"], "url", stub.url)
        yield stub


def load(root: Path, change: float = 0.0, precision: Any = "float32") -> LoadedModel:
    """Return a model of its own, which a test may change; its tokenizer is that of all."""
    untouched, tokenizer = _read(root)
    model = copy.deepcopy(untouched)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += change * torch.randn(parameter.shape, generator=generator)
    return LoadedModel(model, tokenizer, precision=precision)


@cache
def _read(root: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(root / "model")


def suite_of(kind: str, root: Path) -> Suite:
    spec = TypeAdapter(EvaluatorSpec).validate_json(json.dumps({"evaluator": kind, **SPECS[kind]}))
    return Suite({"it": spec}, ROWS, root)
