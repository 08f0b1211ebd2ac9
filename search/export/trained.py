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
from spaces.recipe import Recipe


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
    recipe = job.record.recipe
    digest = job.digest if recipe.stages else None
    return recipe_model(job, resident_base(job, means), recipe, digest, means)


def resident_base(job: Job, means: Means) -> ResidentBase:
    """Return the base of a study, loaded.

    Raises:
        SpecError: It is not there or cannot be read.
    """
    spec = job.spec
    device, threads = pick_device(means.device), spec.compute.threads_per_trial
    return ResidentBase.load(spec.base, job.root, device, spec.training.precision, threads)


def recipe_model(
    job: Job, base: ResidentBase, recipe: Recipe, digest: str | None, means: Means
) -> TrainedModel:
    """Return the model of a recipe of the study: the trial's own, or a part of it. Earlier ones are stale.

    Args:
        job: What is exported.
        base: Of the study.
        recipe: Trains it; none where a model is in the stage store or is not to be had.
        digest: Its name in the stage store; None for the untouched base.
        means: Whether it may be trained.

    Raises:
        StudyError: The stage store lacks it, and training it was not asked for.
        ApportionError: A source cannot be read.
    """
    if digest is None:
        return TrainedModel(base.fresh(), "It is the untouched base.")
    store = job.store()
    if store is not None and _is_stored(store, digest):
        try:
            ref = stored_model(base, store, job.name, digest)
        except StageError as error:
            raise StudyError(str(error)) from error
        return TrainedModel(ref, "Its weights are those that the trial trained and scored.")
    told = f"{job.view.files.path}: the stage store does not hold {digest[:12]}, a model of {job.name}, any more"
    if not recipe.stages:
        raise StudyError(f"{told}; it comes from another recipe: train that one again")
    if not means.train:
        raise StudyError(
            f"{told}; add --train to train it again ({recipe_tokens(recipe):,} tokens at most)"
        )
    return _trained_again(job, base, recipe, digest, store, means)


def recipe_tokens(recipe: Recipe) -> int:
    """Return the doses of all stages."""
    return sum(stage.dose_tokens for stage in recipe.stages)


def _trained_again(
    job: Job,
    base: ResidentBase,
    recipe: Recipe,
    digest: str,
    store: StageStore | None,
    means: Means,
) -> TrainedModel:
    spec, stages = job.spec, recipe.stages
    threads = spec.compute.threads_per_trial
    prefixes, digests = recipe_prefixes(
        base, recipe, job.sources(), spec, job.record.seed, threads, store, "export"
    )
    try:
        for number, stage in enumerate(stages, 1):
            record = prefixes.stage(number)
            spent = "stored" if record.is_stored else f"{record.train_seconds:.1f} s"
            means.say(
                f"stage {number} of {len(stages)}: {stage.influence}, {record.trained_tokens:,} tokens, {spent}"
            )
        ref = prefixes.model(len(stages))
        prefixes.settle()
    except StageError as error:
        raise StudyError(f"{job.name}: {error}") from error
    if digests[-1] == digest:
        return TrainedModel(ref, "It was trained again from equal inputs, on equal settings.")
    return TrainedModel(
        ref,
        "It was trained again, and not from equal inputs: data, versions, threads or device differ from the trial's, "
        "so its scores may differ from those below.",
    )


def _is_stored(store: StageStore, digest: str) -> bool:
    try:
        entry = store.find(digest)
        return entry is not None and all(store.find(need) for need in entry.needs)
    except StoreError as error:
        raise SpecError(f"{error}") from error
