"""A tiny resident base and stages for it, for the tests of search.stages."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tiny import ANIMALS, write_model

from search.sources import Source
from search.spec import BaseSpec, TrainingSpec
from search.stages.base_model import ResidentBase
from search.stages.persist import StageWeights
from search.stages.run import StageOutcome, run_stage
from spaces.recipe import Full, Lora, Stage

TRAINING = TrainingSpec(rows_per_step=4, max_length=64, warmup_steps=1)


@cache
def model_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-model-")) / "model"
    write_model(folder)
    return folder


@cache
def resident(precision: str = "float32", dtype: str = "float32") -> ResidentBase:
    spec = BaseSpec(path=str(model_folder()), dtype=dtype)
    return ResidentBase.load(spec, Path(), "cpu", precision, 1)


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def sources() -> dict[str, Source]:
    chat = [
        {"messages": [turn("user", f"the {a}?"), turn("assistant", "hello " * (1 + i % 3))]}
        for i, a in enumerate(ANIMALS)
    ]
    done = [{"prompt": f"the {a} ", "completion": "says hello to you"} for a in ANIMALS]
    pairs = [
        {
            "prompt": [turn("user", f"the {a}?")],
            "chosen": [turn("assistant", "hello to you")],
            "rejected": [turn("assistant", f"the {a}" + " no" * (i % 3))],
        }
        for i, a in enumerate(ANIMALS)
    ]
    return {
        "chat": Source("chat", "messages", chat, "chat"),
        "done": Source("done", "prompt-completion", done, "done"),
        "pairs": Source("pairs", "preference", pairs, "pairs"),
    }


def lora(**settings: Any) -> Lora:
    return Lora(**{"rank": 2, "alpha": 4.0, **settings})


def stage(method: str = "sft", **changes: Any) -> Stage:
    values: dict[str, Any] = {
        "influence": "tone",
        "method": method,
        "adapter": lora(),
        "mix": {"pairs" if method == "dpo" else "chat": 1.0},
        "dose_tokens": 200,
        "learning_rate": 1e-2,
        "beta": 0.1 if method == "dpo" else None,
    }
    return Stage(**{**values, **changes})


def run(ref: Any, this: Stage, training: TrainingSpec = TRAINING, seed: int = 3) -> StageOutcome:
    return run_stage(ref, this, sources(), training, seed)


def written_to(folder: Path) -> Callable[[StageWeights], None]:
    """Return what `run_stage` calls to keep what it trained."""
    return lambda kept: kept.write(folder)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(12)[None]).logits


def full(**settings: Any) -> Full:
    return Full(**settings)
