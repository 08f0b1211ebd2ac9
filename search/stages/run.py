"""Run one stage on a model: plan its rows, make weights trainable, train, hand off.

outcome = run_stage(ref, stage, sources, spec.training, seed)     # changes ref in place
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from search.errors import DataError, StageError
from search.sources import Source
from search.spec import TrainingSpec
from search.stages import handoff
from search.stages.mix import StagePlan, passes_conflict, plan_stage
from search.stages.model_ref import ModelRef
from search.stages.persist import write_trained
from search.stages.schedule import make_optimizer
from search.stages.tokens import TokenRow, TokenRows, tokenise, unpaired
from search.stages.trainer import Batch, Memory, Setting, Step, Trained, scratch_folder
from spaces.loss import mix_sources
from spaces.recipe import Stage

STAGE_VERSION = "2"
"""Part of every digest; changes whenever the same stage would give other weights."""

METHODS = {
    name: f"search.stages.{name}" for name in ("sft", "dpo", "ipo", "orpo", "kto", "simpo", "joint")
}
"""Method to module. A module has `train(setting, stage) -> Trained`; all but `joint` have FORMATS."""


@dataclass(frozen=True)
class StageOutcome:
    """What a stage consumed and did; fields as in `search.records.StageRecord`."""

    trained_tokens: int
    n_steps: int
    n_rows: int
    tokens_by_source: dict[str, int]
    passes_by_source: dict[str, float]
    n_dropped_rows: int
    loss_by_step: tuple[float, ...]
    n_trainable: int
    micro_batch_rows: int
    n_oom_halvings: int
    train_seconds: float
    setup_seconds: float
    peak_memory_bytes: int | None
    conflict_by_step: dict[int, dict[str, float]]
    adapter_ranks: dict[str, int]


def run_stage(
    ref: ModelRef,
    stage: Stage,
    sources: Mapping[str, Source],
    training: TrainingSpec,
    seed: int,
    keep_in: Path | None = None,
) -> StageOutcome:
    """Train one stage on the model in place.

    Args:
        ref: The model, as the stage before left it. After an error it is unusable: start from `ResidentBase.fresh`.
        stage: What to train.
        sources: All sources of its mix, by name.
        training: How all stages of the study train.
        seed: Of row order, adapter initialisation and dropout.
        keep_in: Folder for what was trained, for `persist.restore_stage`; default: it is not kept.

    Raises:
        DataError: A source has the wrong format for the method, or no row that can be trained on.
        StageError: The stage cannot be trained on this model, its loss is not finite, or memory runs out.
    """
    started = time.monotonic()
    token_rows = _token_rows(ref, stage, sources, training)
    plan = _plan(stage, token_rows, sources, training, seed)
    memory = Memory(training.micro_batch_rows or training.rows_per_step)
    if ref.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with _own_randomness(seed), scratch_folder() as folder:
        n_steps = len(plan.steps)
        parameters = handoff.begin(ref, stage, n_steps)
        ratios = handoff.rate_ratios(ref, stage)
        optimizers = make_optimizer(parameters, stage.learning_rate, n_steps, training, ratios)
        handoff.follow(ref, optimizers[0])
        batches = _batches(stage, plan, token_rows)
        setting = Setting(ref, training, batches, optimizers, memory, seed, folder)
        training_started = time.monotonic()
        trained = _trained(setting, stage)
        train_seconds = time.monotonic() - training_started
        n_trainable = sum(parameter.numel() for parameter in parameters)
        adapter_ranks = handoff.ranks(ref, stage)
        _check_finite(parameters)
        if keep_in is not None:
            # A full disk must not cost what was trained; the caller sees that nothing was written.
            with suppress(OSError, SafetensorError):
                write_trained(ref, parameters, keep_in)
        handoff.end(ref, stage)
    return StageOutcome(
        trained_tokens=plan.n_tokens,
        n_steps=n_steps,
        n_rows=plan.n_rows,
        tokens_by_source=plan.tokens_by_source,
        passes_by_source=plan.passes_by_source,
        n_dropped_rows=_n_dropped(token_rows),
        loss_by_step=tuple(trained.losses),
        n_trainable=n_trainable,
        micro_batch_rows=memory.micro_batch_rows,
        n_oom_halvings=memory.n_oom_halvings,
        train_seconds=train_seconds,
        setup_seconds=time.monotonic() - started - train_seconds,
        peak_memory_bytes=torch.cuda.max_memory_allocated() if ref.device == "cuda" else None,
        conflict_by_step=trained.conflict_by_step,
        adapter_ranks=adapter_ranks,
    )


def _token_rows(
    ref: ModelRef, stage: Stage, sources: Mapping[str, Source], training: TrainingSpec
) -> dict[str, dict[str, TokenRows]]:
    """Return the tokenised sources of each loss that has a weight at any time."""
    found: dict[str, dict[str, TokenRows]] = {}
    for loss, term in stage.losses.items():
        if loss == "kl" or not term.is_active:
            continue
        formats = import_module(METHODS[loss]).FORMATS
        found[loss] = {}
        for name in mix_sources(term):
            source = sources[name]
            if source.format not in formats:
                raise DataError(
                    f"source {name}: {loss} cannot train on format {source.format}; "
                    f"it takes {', '.join(formats)}"
                )
            tokens = tokenise(
                source, ref.tokenizer, ref.tokenizer_hash, training.max_length, training.loss_on
            )
            found[loss][name] = unpaired(tokens) if loss == "kto" else tokens
    return found


def _plan(
    stage: Stage,
    token_rows: Mapping[str, Mapping[str, TokenRows]],
    sources: Mapping[str, Source],
    training: TrainingSpec,
    seed: int,
) -> StagePlan:
    counts = {
        loss: {name: tokens.n_tokens for name, tokens in rows.items()}
        for loss, rows in token_rows.items()
    }
    hashes = {name: source.content_hash for name, source in sources.items()}
    plan = plan_stage(stage.losses, counts, seed, stage.dose_tokens, training.rows_per_step, hashes)
    conflict = passes_conflict(plan, stage.dose_tokens, stage.max_passes)
    if conflict is not None:
        raise StageError(conflict)
    return plan


def _batches(
    stage: Stage, plan: StagePlan, token_rows: Mapping[str, Mapping[str, TokenRows]]
) -> list[Batch] | list[Step]:
    """Return the rows of each step; a row that comes twice is the same object, and none is the cache's."""
    own: dict[tuple[str, str, int], TokenRow] = {}

    def row(loss: str, name: str, at: int) -> TokenRow:
        key = (loss, name, at)
        if key not in own:
            own[key] = dict(token_rows[loss][name].rows[at])
        return own[key]

    steps = [
        Step(
            {
                loss: [row(loss, name, at) for name, at in batch]
                for loss, batch in planned.rows.items()
            },
            planned.weights,
        )
        for planned in plan.steps
    ]
    return steps if stage.method == "joint" else [step.rows[stage.method] for step in steps]


def _n_dropped(token_rows: Mapping[str, Mapping[str, TokenRows]]) -> int:
    by_source = {name: tokens for rows in token_rows.values() for name, tokens in rows.items()}
    return sum(tokens.n_dropped for tokens in by_source.values())


def _trained(setting: Setting, stage: Stage) -> Trained:
    train: Callable[[Setting, Stage], Trained] = import_module(METHODS[stage.method]).train
    model = setting.ref.model
    try:
        with _quiet_renames():
            if setting.training.gradient_checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            return train(setting, stage)
    except torch.OutOfMemoryError as error:
        raise StageError(
            f"memory ran out outside the forward and backward passes ({error}); train fewer weights"
        ) from None
    finally:
        if setting.training.gradient_checkpointing:
            with _quiet_renames():
                model.gradient_checkpointing_disable()
        model.zero_grad(set_to_none=True)
        model.eval()


def _check_finite(parameters: list[torch.nn.Parameter]) -> None:
    with torch.no_grad():
        if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
            raise StageError(
                "weights are not finite after the last step; a lower learning rate may help"
            )


@contextmanager
def _quiet_renames() -> Iterator[None]:
    """Silence transformers about `gradient_checkpointing`, which it has renamed and TRL sets, asked or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed all generators for the stage and give the process its own states back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
