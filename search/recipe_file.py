"""recipe.yaml: the whole truth of one training, readable and runnable by `apportion train`. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from search.folders import to_json
from search.spec import BaseSpec, Name, SourceSpec, StudySpec, TrainingSpec
from search.yaml_file import dump_yaml, load_model
from spaces.recipe import Recipe, Stage
from spaces.spec import Spec

_HEADER = """\
# One recipe of the study {study!r}, as trial {number} trained it. Repeat it with
#   apportion train recipe.yaml --out DIR
# Paths are relative to this file. `seed` is the study's; each stage derives its own from it and from what came before.
"""


class RecipeFile(Spec):
    """A recipe with all that its training needs."""

    base: BaseSpec
    """The model it starts from."""
    sources: dict[Name, SourceSpec]
    """Datasets of its mixes."""
    training: TrainingSpec
    """How all stages train."""
    seed: int
    """The study's seed."""
    threads: int = Field(default=1, gt=0)
    """torch threads; equal counts are needed for equal results on CPU."""
    stages: tuple[Stage, ...]
    """The stages, first to last."""

    @property
    def recipe(self) -> Recipe:
        """The stages as a recipe."""
        return Recipe(stages=self.stages)


def read_recipe(path: Path) -> RecipeFile:
    """Read a recipe file.

    Raises:
        SpecError: It is missing or wrong; the message names file, line, place and remedy.
    """
    return load_model(path, RecipeFile)[0]


def recipe_text(spec: StudySpec, recipe: Recipe, number: int, root: Path, folder: Path) -> str:
    """Return recipe.yaml of one trial.

    Args:
        spec: The study.
        recipe: What the trial trains.
        number: The trial's.
        root: Where relative paths of the study start.
        folder: Where the text will be written; paths are made relative to it.
    """
    used = {name for stage in recipe.stages for name in stage.mix}
    file = RecipeFile(
        base=spec.base.model_copy(update={"path": _moved(spec.base.path, root, folder)}),
        sources={
            name: source.model_copy(update={"path": _moved(source.path, root, folder)})
            for name, source in spec.sources.items()
            if name in used
        },
        training=spec.training,
        seed=spec.sampler.seed,
        threads=spec.compute.threads_per_trial,
        stages=recipe.stages,
    )
    data = file.model_dump(mode="json", exclude_none=True)
    return _HEADER.format(study=spec.name, number=number) + dump_yaml(data)


def digest_context(
    base_fingerprint: str, training: TrainingSpec, dtype: str, seed: int, stage_version: str
) -> str:
    """Return the canonical text of what determines the models of a recipe beside its stages and sources."""
    return to_json(
        {
            "base": base_fingerprint,
            "training": training.model_dump(mode="json"),
            "dtype": dtype,
            "seed": seed,
            "stage_version": stage_version,
        }
    )


def _moved(path: str | None, root: Path, folder: Path) -> str | None:
    return None if path is None else os.path.relpath(root / path, folder)
