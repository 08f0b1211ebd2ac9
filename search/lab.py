"""Lab: what all trials in one process share, loaded once: base model, sources, suites, base references, stage store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evaluators.facts import Facts
from evaluators.models import LoadedModel
from evaluators.remembering import Memory, RememberingModel
from evaluators.scores import Item, Score
from evaluators.spec import GenerationSpec
from evaluators.suite import Reference, Suite
from evaluators.vllm_writer import VllmWriter
from search.costs import with_costs
from search.errors import DataError
from search.naming import Naming
from search.prefixes import Prefixes
from search.recipe_file import RecipeFile, digest_context
from search.scoring import SuiteResult, base_reference, read_result, write_result
from search.sources import Source, read_source
from search.spec import StudySpec
from search.stages.base_model import ResidentBase
from search.stages.device import arithmetic, pick_device
from search.stages.model_ref import ModelRef
from search.stages.run import STAGE_VERSION
from search.store import StageStore
from spaces.recipe import Recipe

Precision = Literal["float32", "bfloat16"]


@dataclass
class Exam:
    """A suite with what its evaluators know of the base."""

    suite: Suite
    reference: Reference
    version: str
    """Equal versions measure the same."""


@dataclass
class Lab:
    """What all trials in one process share."""

    spec: StudySpec
    root: Path
    base: ResidentBase
    sources: Mapping[str, Source]
    exam: Exam
    holdout: Exam
    store: StageStore | None
    load_seconds: float
    """Wall seconds that loading took; the first trial takes them over."""
    screen: Exam | None = None
    """The suite on the first items of each evaluator, where the study has a fidelity."""
    _memory: tuple[str, Memory] | None = field(default=None, repr=False)
    """Digest of the model that was screened last, and what it answered."""

    @classmethod
    def load(cls, spec: StudySpec, root: Path, store: StageStore | None) -> Lab:
        """Load everything; what another process has measured of the base comes from the store.

        Args:
            spec: The study.
            root: Where its relative paths start.
            store: Where stage results are shared; None keeps none.

        Raises:
            ApportionError: The base or a source cannot be read.
        """
        started = time.monotonic()
        precision = spec.training.precision
        base = ResidentBase.load(
            spec.base,
            root,
            pick_device(spec.compute.device),
            precision,
            spec.compute.threads_per_trial,
        )
        sources = {
            name: read_source(name, source, root, spec.generalisation)
            for name, source in spec.sources.items()
        }
        searched = {name: source.seen_by("search") for name, source in sources.items()}
        held_out = {name: source.seen_by("holdout") for name, source in sources.items()}
        try:
            suites = [Suite(spec.full_suite, searched, root), Suite(spec.holdout, held_out, root)]
            if spec.fidelity is not None:
                shares = spec.fidelity.shares(spec.full_suite)
                suites.append(Suite(spec.full_suite, searched, root, shares, spec.fidelity.seed))
        except ValueError as error:
            raise DataError(str(error)) from error
        loaded = loaded_model(base.fresh(), precision, spec.generation)
        exams = [exam_of(suite, spec, base, loaded, store) for suite in suites]
        screen = exams[2] if len(exams) > 2 else None
        if screen is not None:
            # Items that are asked in two parts meet other batches, which shows in the last bits.
            exams[0].version += f"-{screen.version[:12]}"
        seconds = time.monotonic() - started
        return cls(spec, root, base, sources, exams[0], exams[1], store, seconds, screen)

    def prefixes(self, recipe: Recipe, trainer: str) -> tuple[Prefixes, tuple[str, ...]]:
        """Return the models of a recipe, and the digests of its prefixes from the base on."""
        spec = self.spec
        threads = spec.compute.threads_per_trial
        return recipe_prefixes(
            self.base, recipe, self.sources, spec, spec.sampler.seed, threads, self.store, trainer
        )

    def measure(
        self,
        exam: Exam,
        prefixes: Prefixes,
        n_stages: int,
        digest: str,
        facts: Facts | None = None,
    ) -> SuiteResult:
        """Return what an exam says of the model after `n_stages` stages, from the store where it is kept.

        Args:
            exam: The exam.
            prefixes: The recipe's models.
            n_stages: Stages done.
            digest: Of that prefix.
            facts: What the stages took; without it, scores of cost are missing.

        Raises:
            StageError: The model is needed and cannot be had.
        """
        result = read_result(self.store, digest, exam.version)
        if result is None:
            result = self._measured(exam, prefixes.model(n_stages), n_stages == 0, digest)
            write_result(self.store, digest, exam.version, result)
        return with_costs(result, exam.suite, facts)

    def is_known(self, digest: str) -> bool:
        """Return whether the store has what the suite says of a model on all items."""
        return read_result(self.store, digest, self.exam.version) is not None

    def measure_model(self, exam: Exam, ref: ModelRef, facts: Facts | None = None) -> SuiteResult:
        """Return what an exam says of a trained model in memory; see `measure`."""
        return with_costs(self._measured(exam, ref, is_base=False), exam.suite, facts)

    def _measured(
        self, exam: Exam, ref: ModelRef, is_base: bool, digest: str | None = None
    ) -> SuiteResult:
        loaded = loaded_model(ref, self.spec.training.precision, self.spec.generation)
        limit = self.spec.compute.evaluator_seconds
        if self.screen is not None and digest is not None and exam is not self.holdout:
            loaded = self._remembering(loaded, digest)
            if exam is self.exam:
                # First its first items, whether or not they were asked before: so its bits are always the same.
                self.screen.suite.measure(loaded, self.screen.reference, is_base, limit)
        measured = exam.suite.measure(loaded, exam.reference, is_base, limit).values()
        scores: list[Score] = [score for found in measured for score in found.scores]
        items: list[Item] = [item for found in measured for item in found.items]
        return SuiteResult(scores=tuple(scores), items=tuple(items), is_stored=False)

    def _remembering(self, loaded: LoadedModel, digest: str) -> LoadedModel:
        """Return a model that remembers what it was asked when it was screened."""
        if self._memory is None or self._memory[0] != digest:
            self._memory = (digest, {})
        model, tokenizer, device = loaded.model, loaded.tokenizer, str(loaded.device)
        return RememberingModel(
            model, tokenizer, device, loaded.precision, self._memory[1], loaded.writer
        )


def exam_of(
    suite: Suite,
    spec: StudySpec,
    base: ResidentBase,
    loaded: LoadedModel,
    store: StageStore | None,
) -> Exam:
    """Return a suite with what its evaluators know of the base, of which `loaded` is a fresh copy."""
    version = exam_version(suite, spec.training.precision, spec.generation)
    origin = f"{base.fingerprint} {arithmetic(base.device, spec.compute.threads_per_trial)}"
    limit = spec.compute.evaluator_seconds
    return Exam(suite, base_reference(suite, version, loaded, origin, store, limit), version)


def recipe_prefixes(
    base: ResidentBase,
    recipe: Recipe,
    sources: Mapping[str, Source],
    spec: StudySpec | RecipeFile,
    seed: int,
    threads: int,
    store: StageStore | None,
    trainer: str = "",
    donors: StageStore | None = None,
) -> tuple[Prefixes, tuple[str, ...]]:
    """Return the models of a recipe, and the digests of its prefixes from the base on.

    Seeds depend on what is trained alone, so a recipe meets its data in the same order on any machine. Digests also
    name what changes the bits of a result: device, number of threads on a CPU, torch.
    """
    context = digest_context(base.fingerprint, spec.training, spec.base.dtype, seed, STAGE_VERSION)
    hashes = {name: source.content_hash for name, source in sources.items()}
    naming = Naming(context + arithmetic(base.device, threads), context, hashes)
    every = spec.store.checkpoint_seconds if isinstance(spec, StudySpec) else None
    prefixes = Prefixes(base, recipe, naming, sources, spec.training, store, trainer, donors, every)
    return prefixes, naming.digests(recipe)


def exam_version(
    suite: Suite, precision: Precision, generation: GenerationSpec | None = None
) -> str:
    """Return the name under which the store keeps what a suite says in a precision, by a backend of generation."""
    backend = "" if generation is None or generation.backend == "transformers" else "-vllm"
    return f"{suite.version[:40]}-{precision}{backend}"


def loaded_model(
    ref: ModelRef, precision: Precision, generation: GenerationSpec | None = None
) -> LoadedModel:
    """Return a model as evaluators see it."""
    writer = None
    if generation is not None and generation.backend == "vllm":
        writer = VllmWriter(generation.memory_share, precision)
    return LoadedModel(ref.model, ref.tokenizer, ref.device, precision, writer)
