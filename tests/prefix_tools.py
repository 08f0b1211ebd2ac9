"""Models of a recipe, with or without a stage store, for tests of prefixes."""

from __future__ import annotations

from typing import Any

import torch
from stage_tools import TRAINING, resident, sources

from search.naming import Naming
from search.prefixes import Prefixes
from search.store import StageStore
from spaces.recipe import Recipe, Stage

Bits = dict[str, torch.Tensor]


def sft_stage(adapter: Any, influence: str = "tone", source: str = "chat") -> Stage:
    return Stage(
        influence=influence,
        method="sft",
        adapter=adapter,
        mix={source: 1.0},
        dose_tokens=120,
        learning_rate=0.01,
    )


def prefixes(
    recipe: Recipe,
    store: StageStore | None,
    trainer: str = "",
    checkpoint_seconds: float | None = None,
) -> Prefixes:
    hashes = {name: source.content_hash for name, source in sources().items()}
    return Prefixes(
        resident(),
        recipe,
        Naming("context", "context", hashes),
        sources(),
        TRAINING,
        store,
        trainer,
        checkpoint_seconds=checkpoint_seconds,
    )


def train_all(recipe: Recipe, store: StageStore | None, trainer: str = "") -> tuple[Prefixes, Bits]:
    walk = prefixes(recipe, store, trainer)
    for number in range(1, len(recipe.stages) + 1):
        walk.stage(number)
    trained = bits(walk.model(len(recipe.stages)).model)
    walk.close()
    return walk, trained


def bits(model: torch.nn.Module) -> Bits:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def equal(one: Bits, other: Bits) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
