"""Run recipes: stages one after the other, the suite after each, everything recorded. No Ray, so a test can call it.

lab = Lab.load(spec, root)            # once per process: base model, sources, suites, what the base scores
run = TrialRun(lab, folder, proposal)
while not run.step():                 # one stage, or the base's evaluation for the empty recipe
    ...
run.record                            # a TrialRecord, also in trial.json
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluators.models import LoadedModel
from evaluators.scores import Score
from evaluators.suite import Reference, Suite
from search.errors import ApportionError, StageError
from search.folders import TrialFolder, utc_now
from search.recipe_file import RecipeFile, digest_context, recipe_text
from search.records import Boundary, Proposal, Seconds, StageRecord, TrialRecord
from search.sources import Source, read_source
from search.spec import StudySpec, TrainingSpec
from search.stages.base_model import ResidentBase
from search.stages.device import device_name, pick_device
from search.stages.model_ref import ModelRef
from search.stages.run import STAGE_VERSION, run_stage
from search.stages.save import save_model
from spaces.recipe import Stage


@dataclass
class Lab:
    """What trials in one process share, loaded once: base model, sources, suites and the base's reference values."""

    spec: StudySpec
    root: Path
    base: ResidentBase
    sources: Mapping[str, Source]
    suite: Suite
    holdout: Suite
    references: tuple[Reference, Reference]
    load_seconds: float

    @classmethod
    def load(cls, spec: StudySpec, root: Path) -> Lab:
        """Load everything.

        Raises:
            ApportionError: The base or a source cannot be read.
        """
        started = time.monotonic()
        device = pick_device(spec.compute.device)
        precision = spec.training.precision
        base = ResidentBase.load(spec.base, root, device, precision, spec.compute.threads_per_trial)
        sources = {name: read_source(name, source, root) for name, source in spec.sources.items()}
        rows = {name: source.rows for name, source in sources.items()}
        suite = Suite(spec.full_suite, rows, root)
        holdout = Suite(spec.holdout, rows, root)
        loaded = loaded_model(base.fresh(), precision)
        references = (suite.reference(loaded), holdout.reference(loaded))
        return cls(
            spec, root, base, sources, suite, holdout, references, time.monotonic() - started
        )


class TrialRun:
    """One recipe in training. Whatever fails inside a stage or an evaluation fails the trial, with its reason."""

    def __init__(
        self, lab: Lab, folder: TrialFolder, proposal: Proposal, idle_seconds: float = 0
    ) -> None:
        """Prepare the first step; nothing is trained yet.

        Args:
            lab: What trials in this process share.
            folder: Of the trial; emptied.
            proposal: The recipe and its number.
            idle_seconds: Time this process spent between trials; counted as rest.
        """
        self._lab = lab
        self._folder = folder
        # Loading happened before the first trial in this process began; it is charged to that trial.
        self._load_seconds, lab.load_seconds = lab.load_seconds, 0.0
        self._started = time.monotonic() - idle_seconds - self._load_seconds
        self._ref: ModelRef | None = None
        spec = lab.spec
        recipe = proposal.recipe
        context = digest_context(
            lab.base.fingerprint, spec.training, spec.base.dtype, spec.sampler.seed, STAGE_VERSION
        )
        hashes = {name: source.content_hash for name, source in lab.sources.items()}
        self._digests = recipe.prefix_digests(context, hashes)
        self._seeds = recipe.stage_seeds(context, hashes)
        self.record = TrialRecord(
            number=proposal.number,
            state="RUNNING",
            params=proposal.params,
            recipe=recipe,
            baseline=proposal.baseline,
            seed=spec.sampler.seed,
            device=device_name(lab.base.device),
            started_at=utc_now(),
        )
        folder.clear()
        folder.recipe.write_text(recipe_text(spec, recipe, proposal.number, lab.root, folder.path))
        folder.write_record(self.record)

    def step(self) -> bool:
        """Train the next stage and score the model; the empty recipe is only scored.

        Returns True when the trial ended.
        """
        try:
            self._step()
        except (StageError, ApportionError, RuntimeError, ValueError, ArithmeticError) as error:
            self._folder.traceback.write_text(traceback.format_exc())
            self._end("FAIL", f"{type(error).__name__}: {error}")
        finally:
            self._folder.write_record(self.record)
        return self.record.state != "RUNNING"

    def _step(self) -> None:
        stages = self.record.recipe.stages
        n_done = len(self.record.stages)
        if self._ref is None:
            started = time.monotonic()
            self._ref = self._lab.base.fresh()
            self._load_seconds += time.monotonic() - started
        if stages:
            trained = train_stage(
                self._ref,
                stages[n_done],
                self._lab.sources,
                self._lab.spec.training,
                self._seeds[n_done],
                self._digests[n_done + 1],
            )
            n_done += 1
            self._update(stages=(*self.record.stages, trained))
        self._evaluate(self._ref, n_done, is_last=n_done == len(stages))
        if n_done == len(stages):
            self._end("COMPLETE", None)

    def _evaluate(self, ref: ModelRef, n_stages: int, is_last: bool) -> None:
        started = time.monotonic()
        loaded = loaded_model(ref, self._lab.spec.training.precision)
        scores: list[tuple[Score, ...]] = []
        for suite, reference, is_holdout in (
            (self._lab.suite, self._lab.references[0], False),
            (self._lab.holdout, self._lab.references[1], True),
        ):
            if is_holdout and not is_last:
                scores.append(())
                continue
            measured = suite.measure(loaded, reference).values()
            items = [item for measurement in measured for item in measurement.items]
            if items:
                self._folder.write_items(n_stages, is_holdout, items)
            scores.append(tuple(score for measurement in measured for score in measurement.scores))
        boundary = Boundary(
            n_stages=n_stages,
            digest=self._digests[n_stages],
            scores=scores[0],
            holdout=scores[1],
            suite_version=self._lab.suite.version,
            evaluate_seconds=round(time.monotonic() - started, 3),
        )
        self._update(boundaries=(*self.record.boundaries, boundary))

    def _end(self, state: str, reason: str | None) -> None:
        self._ref = None
        self._update(state=state, reason=reason, finished_at=utc_now())

    def _update(self, **changes: object) -> None:
        record = self.record.model_copy(update=changes)
        train = sum(stage.train_seconds for stage in record.stages)
        evaluate = sum(boundary.evaluate_seconds for boundary in record.boundaries)
        total = time.monotonic() - self._started
        rest = max(0.0, total - train - evaluate - self._load_seconds)
        seconds = Seconds(
            load=round(self._load_seconds, 3),
            train=round(train, 3),
            evaluate=round(evaluate, 3),
            rest=round(rest, 3),
        )
        self.record = record.model_copy(update={"seconds": seconds})


def train_stage(
    ref: ModelRef,
    stage: Stage,
    sources: Mapping[str, Source],
    training: TrainingSpec,
    seed: int,
    digest: str,
) -> StageRecord:
    """Train one stage on the model in place and return its record."""
    outcome = run_stage(ref, stage, sources, training, seed)
    return StageRecord(stage=stage, digest=digest, seed=seed, **vars(outcome))


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
    training = file.training
    base = ResidentBase.load(file.base, root, pick_device(device), training.precision, file.threads)
    sources = {name: read_source(name, source, root) for name, source in file.sources.items()}
    hashes = {name: source.content_hash for name, source in sources.items()}
    context = digest_context(base.fingerprint, training, file.base.dtype, file.seed, STAGE_VERSION)
    digests = file.recipe.prefix_digests(context, hashes)
    seeds = file.recipe.stage_seeds(context, hashes)
    ref = base.fresh()
    trained = []
    for number, stage in enumerate(file.stages):
        record = train_stage(ref, stage, sources, training, seeds[number], digests[number + 1])
        say(
            f"stage {number + 1} of {len(file.stages)}: {stage.influence}, {record.trained_tokens:,} tokens, "
            f"{record.train_seconds:.1f} s, loss {record.loss_by_step[0]:.3f} to {record.loss_by_step[-1]:.3f}"
        )
        trained.append(record)
    save_model(ref, out, form)
    return trained


def loaded_model(ref: ModelRef, precision: Literal["float32", "bfloat16"]) -> LoadedModel:
    """Return a model as evaluators see it."""
    return LoadedModel(ref.model, ref.tokenizer, ref.device, precision)
