"""recipe.yaml: the whole truth of one training, readable and runnable by `apportion train`. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from search.check_adapters import adapter_findings
from search.check_combining import COMBINING_CONFLICT
from search.check_methods import stage_source_problem
from search.check_values import base_config
from search.data.spec import GeneralisationSpec
from search.errors import SpecError
from search.folders import to_json
from search.messages import KeyPath
from search.spec import BaseSpec, Name, SourceSpec, StudySpec, TrainingSpec
from search.yaml_file import dump_yaml, load_model, summary
from spaces.adapter import quantised_conflict
from spaces.recipe import AnyStage, Merge, Parallel, Recipe, Stage
from spaces.spec import Spec

_HEADER = """\
# One recipe of the study {study!r}, {trainer}. Repeat it with
#   apportion train recipe.yaml --out DIR
# Paths are relative to this file. `seed` is the study's; each stage derives its own from it and from what came before.
"""


def _check_stage(stage: Stage | Parallel | Merge, info: ValidationInfo) -> Stage | Parallel | Merge:
    """Refuse sources that the file does not have or the method does not read, and what the base cannot do."""
    sources: dict[str, SourceSpec] = info.data.get("sources", {})
    # Sources that are wrong themselves are not in the data, and are reported on their own.
    if "sources" in info.data:
        formats: dict[str, str] = {name: source.format for name, source in sources.items()}
        for training in stage.trainings:
            problem = stage_source_problem(training, formats)
            if problem is not None:
                raise ValueError(problem)
    base: BaseSpec | None = info.data.get("base")
    if base is not None and base.bits is not None:
        if not isinstance(stage, Stage):
            raise ValueError(COMBINING_CONFLICT)
        conflict = quantised_conflict(stage.adapter, stage.handoff)
        if conflict is not None:
            raise ValueError(conflict)
    return stage


class RecipeFile(Spec):
    """A recipe with all that its training needs."""

    base: BaseSpec
    """The model it starts from."""
    sources: dict[Name, SourceSpec]
    """Datasets of its mixes."""
    generalisation: GeneralisationSpec | None = None
    """Kinds of rows that the study held out, and that are not trained on here either."""
    training: TrainingSpec
    """How all stages train."""
    seed: int
    """The study's seed."""
    threads: int = Field(default=1, gt=0)
    """torch threads; equal counts are needed for equal results on CPU."""
    store: str | None = None
    """Folder or url of the stage store that merges take models from."""
    stages: tuple[Annotated[AnyStage, AfterValidator(_check_stage)], ...]
    """The stages, first to last."""

    @field_validator("stages")
    @classmethod
    def _check(
        cls, stages: tuple[Stage | Parallel | Merge, ...]
    ) -> tuple[Stage | Parallel | Merge, ...]:
        try:
            Recipe(stages=stages)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return stages

    @property
    def recipe(self) -> Recipe:
        """The stages as a recipe."""
        return Recipe(stages=self.stages)


def read_recipe(path: Path) -> RecipeFile:
    """Read a recipe file.

    Raises:
        SpecError: It is missing or wrong, or places in the model are not in a base that is here; the message names
            file, line, place and remedy.
    """
    file, located = load_model(path, RecipeFile)
    config = base_config(file.base, path.absolute().parent)
    problems = [
        located.problem(finding.place, finding.text)
        for place, stage in _trainings(file)
        for finding in adapter_findings(stage.adapter, (*place, "adapter"), config)
        if not finding.is_warning
    ]
    if problems:
        raise SpecError(summary(problems))
    return file


def _trainings(file: RecipeFile) -> Iterator[tuple[KeyPath, Stage]]:
    """Yield every stage that is trained, with its place in the file."""
    for index, stage in enumerate(file.stages):
        place: KeyPath = ("stages", index)
        if isinstance(stage, Stage):
            yield place, stage
        elif isinstance(stage, Parallel):
            for name, branch in stage.branches.items():
                for at, training in enumerate(branch.stages):
                    yield (*place, "branches", name, "stages", at), training


def recipe_text(spec: StudySpec, recipe: Recipe, number: int, root: Path, folder: Path) -> str:
    """Return recipe.yaml of one trial.

    Args:
        spec: The study.
        recipe: What the trial trains.
        number: The trial's; below 0 it is no trial of the search.
        root: Where relative paths of the study start.
        folder: Where the text will be written; paths are made relative to it.
    """
    used = {name for stage in recipe.stages for name in stage.sources}
    has_merge = any(isinstance(stage, Merge) for stage in recipe.stages)
    file = RecipeFile(
        base=spec.base.model_copy(update={"path": _moved(spec.base.path, root, folder)}),
        sources={
            name: source.model_copy(update={"path": _moved(source.path, root, folder)})
            for name, source in spec.sources.items()
            if name in used
        },
        generalisation=spec.generalisation,
        training=spec.training,
        seed=spec.sampler.seed,
        threads=spec.compute.threads_per_trial,
        store=_moved(spec.store.path, root, folder) if has_merge else None,
        stages=recipe.stages,
    )
    data = file.model_dump(mode="json", exclude_none=True)
    trainer = f"as trial {number} trained it" if number >= 0 else "trained outside the search"
    return _HEADER.format(study=spec.name, trainer=trainer) + dump_yaml(data)


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
    if path is None or "://" in path or "${" in path:
        return path
    return os.path.relpath(root / path, folder)
