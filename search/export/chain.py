"""A recipe as a chain of runs of another trainer: the rows each run draws, in order, and the modules it adapts.

A run makes one pass over its rows without shuffling, `rows_per_step` of them a step: that is the dose, in whole steps,
as the trial consumed it. Mixes, curricula and repeats are in the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.base_files import resolve_base
from search.errors import SpecError, StageError
from search.export.folder import copy_model
from search.export.job import Job
from search.export.tool import Tool, checked_chain
from search.rows import Row
from search.stages.base_model import pretrained_place, skeleton
from search.stages.drawing import Drawing
from search.stages.going_on import Before
from search.stages.places import full_parameters, lora_modules
from search.stages.row_view import Reading
from search.stages.tokens import TokenRow
from spaces.adapter import Full
from spaces.stage import Stage

BASE = "base"


@dataclass(frozen=True)
class Run:
    """One stage as a run of another trainer."""

    number: int
    """From 1."""
    stage: Stage
    """The stage."""
    seed: int
    """Its own."""
    n_steps: int
    """Optimizer steps."""
    tokens: tuple[TokenRow, ...]
    """Rows in the order in which they are trained on, as token ids; a row may come again."""
    rows: tuple[Row, ...]
    """The same as their sources hold them."""
    formats: tuple[str, ...]
    """Of the sources of the rows."""
    modules: tuple[str, ...]
    """Names by which PEFT finds the modules of a LoRA adapter: the last part of their paths where that means them and
    no others, else whole paths. Empty for full weights."""
    parameters: tuple[str, ...]
    """Names of the parameters that move where full training is of a part of the weights; empty otherwise."""


@dataclass(frozen=True)
class Chain:
    """The runs of a recipe."""

    job: Job
    """What is exported."""
    runs: tuple[Run, ...]
    """First to last."""

    @property
    def base(self) -> str:
        """What the first run starts from: an id on the hub, or a folder beside the configurations."""
        spec = self.job.spec.base
        return spec.hub if spec.hub is not None and spec.gguf_file is None else BASE

    @property
    def revision(self) -> str:
        """Of the base on the hub."""
        return self.job.spec.base.revision or "main"

    def copy_base(self, folder: Path) -> None:
        """Copy a base that is not on the hub, as safetensors."""
        if self.base != BASE:
            return
        place, _ = pretrained_place(resolve_base(self.job.spec.base, self.job.root))
        copy_model(Path(place), folder / BASE)


def read_chain(job: Job, tool: Tool) -> Chain:
    """Return the runs that repeat a trial.

    Raises:
        SpecError: The tool cannot express the recipe, or the sources have changed since the trial.
        ApportionError: The base or a source cannot be read.
    """
    stages = checked_chain(job, tool)
    reading = Reading.load(job.spec.base, job.root, job.spec.training)
    drawing = Drawing(job.sources(), job.spec.training, reading.tokenizer, reading.hash)
    model = skeleton(job.spec.base, job.root)
    records = job.record.stages
    before = [Before(stage, record.seed) for stage, record in zip(stages, records, strict=True)]
    runs = []
    for number, (one, record, (rows, plan)) in enumerate(
        zip(before, records, drawing.plans(before), strict=True), 1
    ):
        if (plan.n_tokens, len(plan.steps)) != (record.trained_tokens, record.n_steps):
            raise SpecError(
                f"{job.name}: stages[{number - 1}]: its sources give {plan.n_tokens:,} tokens in {len(plan.steps)} "
                f"steps now, and the trial had {record.trained_tokens:,} in {record.n_steps}; restore the data it "
                "trained on"
            )
        (loss,) = rows
        drawn = [row for step in plan.steps for row in step.rows[loss]]
        runs.append(
            Run(
                number=number,
                stage=one.stage,
                seed=record.seed,
                n_steps=len(plan.steps),
                tokens=tuple(rows[loss][name].rows[at] for name, at in drawn),
                rows=tuple(
                    drawing.sources[name].rows[rows[loss][name].numbers[at]] for name, at in drawn
                ),
                formats=tuple(drawing.sources[name].format for name, _ in drawn),
                modules=_modules(job, model, one.stage),
                parameters=_parameters(job, model, one.stage),
            )
        )
    return Chain(job, tuple(runs))


def _modules(job: Job, model: Any, stage: Stage) -> tuple[str, ...]:
    if isinstance(stage.adapter, Full):
        return ()
    try:
        paths = set(lora_modules(model, stage.adapter))
    except StageError as error:
        raise SpecError(f"{job.name}: {stage.influence}: {error}") from error
    return peft_names(paths, [name for name, _ in model.named_modules()])


def _parameters(job: Job, model: Any, stage: Stage) -> tuple[str, ...]:
    adapter = stage.adapter
    if not isinstance(adapter, Full) or (adapter.targets, adapter.layers) == ("everything", "all"):
        return ()
    try:
        return tuple(full_parameters(model, adapter))
    except StageError as error:
        raise SpecError(f"{job.name}: {stage.influence}: {error}") from error


def peft_names(paths: set[str], modules: Sequence[str]) -> tuple[str, ...]:
    """Return names that PEFT's `target_modules` takes for exactly these modules.

    Args:
        paths: Of the modules that are meant.
        modules: Paths of all modules of the model.
    """
    ends = {path.rsplit(".", 1)[-1] for path in paths}
    meant = {path for path in modules if path.rsplit(".", 1)[-1] in ends}
    # A single name becomes a pattern for whole paths in some tools.
    return tuple(sorted(ends if meant == paths and len(ends) > 1 else paths))
