"""The model of a trial: from the stage store by its digest, or trained again where that was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from search.errors import SpecError, StageError, StudyError
from search.export.job import Job, Means
from search.lab import recipe_prefixes
from search.stages.base_model import ResidentBase
from search.stages.device import pick_device
from search.stages.model_ref import ModelRef
from search.store import StageStore, StoreError
from search.stored_models import stored_model


@dataclass(frozen=True)
class TrainedModel:
    """A trial's model in memory."""

    ref: ModelRef
    """The model; to be saved and not to be changed."""
    origin: str
    """Where it came from, as a sentence for the card."""


def trained_model(job: Job, means: Means) -> TrainedModel:
    """Return the model of a trial.

    Raises:
        StudyError: The stage store lacks it, and training it was not asked for.
        ApportionError: The base or a source cannot be read.
    """
    spec, stages = job.spec, job.record.recipe.stages
    device = pick_device(means.device)
    if not stages:
        return TrainedModel(_base(job, device).fresh(), "It is the untouched base.")
    store = job.store()
    if store is not None and _is_stored(store, job.digest):
        base = _base(job, device)
        try:
            ref = stored_model(base, store, job.name, job.digest)
        except StageError as error:
            raise StudyError(f"{error}") from error
        return TrainedModel(ref, "Its weights are those that the trial trained and scored.")
    if not means.train:
        n_tokens = sum(stage.trained_tokens for stage in job.record.stages)
        seconds = sum(stage.train_seconds for stage in job.record.stages)
        raise StudyError(
            f"{job.view.files.path}: the stage store does not hold {job.name}'s model any more; add --train to train "
            f"it again ({n_tokens:,} tokens, {seconds:.0f} s when it was trained)"
        )
    base = _base(job, device)
    sources = job.sources()
    threads = spec.compute.threads_per_trial
    prefixes, digests = recipe_prefixes(
        base, job.record.recipe, sources, spec, job.record.seed, threads, store, "export"
    )
    try:
        for number, stage in enumerate(stages, 1):
            record = prefixes.stage(number)
            origin = "stored" if record.is_stored else f"{record.train_seconds:.1f} s"
            means.say(
                f"stage {number} of {len(stages)}: {stage.influence}, {record.trained_tokens:,} tokens, {origin}"
            )
        ref = prefixes.model(len(stages))
        prefixes.settle()
    except StageError as error:
        raise StudyError(f"{job.name}: {error}") from error
    if digests[-1] == job.digest:
        return TrainedModel(ref, "It was trained again from equal inputs, on equal settings.")
    return TrainedModel(
        ref,
        "It was trained again, and not from equal inputs: data, versions, threads or device differ from the trial's, "
        "so its scores may differ from those below.",
    )


def _base(job: Job, device: str) -> ResidentBase:
    spec = job.spec
    return ResidentBase.load(
        spec.base, job.root, device, spec.training.precision, spec.compute.threads_per_trial
    )


def _is_stored(store: StageStore, digest: str) -> bool:
    try:
        entry = store.find(digest)
        return entry is not None and all(store.find(need) for need in entry.needs)
    except StoreError as error:
        raise SpecError(f"{error}") from error
