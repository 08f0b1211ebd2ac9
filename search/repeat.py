"""Repeat one recipe outside its study, as `apportion train` does, and save the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from search.folders import store_place
from search.lab import recipe_prefixes
from search.recipe_file import RecipeFile
from search.records import StageRecord
from search.sources import read_source
from search.stages.base_model import ResidentBase
from search.stages.device import pick_device
from search.stages.save import save_model
from search.store import StageStore


def train_recipe(
    file: RecipeFile,
    root: Path,
    out: Path,
    form: Literal["auto", "adapter", "merged"],
    device: str,
    say: Callable[[str], None],
) -> list[StageRecord]:
    """Train the stages of a recipe file as its trial did, and save the model.

    Args:
        file: The recipe.
        root: Where its relative paths start.
        out: New folder for the model.
        form: See `search.stages.save.save_model`.
        device: `auto`, `cpu` or `cuda`.
        say: Is told a line per stage.

    Raises:
        ApportionError: The base or a source cannot be read.
        StageError: A stage cannot be trained.
    """
    precision = file.training.precision
    base = ResidentBase.load(file.base, root, pick_device(device), precision, file.threads)
    sources = {
        name: read_source(name, source, root, file.generalisation)
        for name, source in file.sources.items()
    }
    prefixes, _ = recipe_prefixes(
        base,
        file.recipe,
        sources,
        file,
        file.seed,
        file.threads,
        store=None,
        donors=_donors(file, root),
    )
    trained = []
    for number, stage in enumerate(file.stages, 1):
        record = prefixes.stage(number)
        say(
            f"stage {number} of {len(file.stages)}: {stage.influence}, "
            f"{record.trained_tokens:,} tokens, {record.train_seconds:.1f} s, {_losses(record)}"
        )
        trained.append(record)
    save_model(prefixes.model(len(file.stages)), out, form)
    return trained


def _donors(file: RecipeFile, root: Path) -> StageStore | None:
    if file.store is None:
        return None
    return StageStore(store_place(file.store, root))


def _losses(record: StageRecord) -> str:
    losses = [part.loss_by_step for part in record.trainings]
    if not losses:
        return "nothing trained"
    return "loss " + ", ".join(f"{steps[0]:.3f} to {steps[-1]:.3f}" for steps in losses)
