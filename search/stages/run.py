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
from types import ModuleType

import numpy as np
import torch
from safetensors import SafetensorError

from search.errors import DataError, StageError
from search.sources import Source
from search.spec import TrainingSpec
from search.stages import handoff
from search.stages.mix import RowPlan, plan_rows
from search.stages.model_ref import ModelRef
from search.stages.persist import write_trained
from search.stages.schedule import make_optimizer
from search.stages.tokens import TokenRows, tokenise
from search.stages.trainer import Batch, Memory, Setting, scratch_folder
from spaces.recipe import Stage

STAGE_VERSION = "2"
"""Part of every digest; changes whenever the same stage would give other weights."""

METHODS = {"sft": "search.stages.sft", "dpo": "search.stages.dpo"}
"""Method to module. A module has FORMATS and `train(setting, stage) -> list[float]`, the loss of each step."""


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
    method = import_module(METHODS[stage.method])
    token_rows = _token_rows(ref, stage, sources, training, method)
    n_tokens = {name: rows.n_tokens for name, rows in token_rows.items()}
    hashes = {name: sources[name].content_hash for name in stage.mix}
    plan = plan_rows(n_tokens, stage.mix, seed, stage.dose_tokens, training.rows_per_step, hashes)
    memory = Memory(training.micro_batch_rows or training.rows_per_step)
    if ref.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with _own_randomness(seed), scratch_folder() as folder:
        parameters = handoff.begin(ref, stage)
        optimizers = make_optimizer(parameters, stage.learning_rate, len(plan.batches), training)
        setting = Setting(
            ref, training, _batches(plan, token_rows), optimizers, memory, seed, folder
        )
        training_started = time.monotonic()
        losses = _trained(setting, stage, method.train)
        train_seconds = time.monotonic() - training_started
        n_trainable = sum(parameter.numel() for parameter in parameters)
        _check_finite(parameters)
        if keep_in is not None:
            # A full disk must not cost what was trained; the caller sees that nothing was written.
            with suppress(OSError, SafetensorError):
                write_trained(ref, parameters, keep_in)
        handoff.end(ref, stage)
    return StageOutcome(
        trained_tokens=plan.n_tokens,
        n_steps=len(plan.batches),
        n_rows=plan.n_rows,
        tokens_by_source=plan.tokens_by_source,
        passes_by_source=plan.passes_by_source,
        n_dropped_rows=sum(rows.n_dropped for rows in token_rows.values()),
        loss_by_step=tuple(losses),
        n_trainable=n_trainable,
        micro_batch_rows=memory.micro_batch_rows,
        n_oom_halvings=memory.n_oom_halvings,
        train_seconds=train_seconds,
        setup_seconds=time.monotonic() - started - train_seconds,
        peak_memory_bytes=torch.cuda.max_memory_allocated() if ref.device == "cuda" else None,
    )


def _token_rows(
    ref: ModelRef,
    stage: Stage,
    sources: Mapping[str, Source],
    training: TrainingSpec,
    method: ModuleType,
) -> dict[str, TokenRows]:
    found = {}
    for name in stage.mix:
        source = sources[name]
        if source.format not in method.FORMATS:
            raise DataError(
                f"source {name}: {stage.method} cannot train on format {source.format}; "
                f"it takes {', '.join(method.FORMATS)}"
            )
        found[name] = tokenise(
            source, ref.tokenizer, ref.tokenizer_hash, training.max_length, training.loss_on
        )
    return found


def _batches(plan: RowPlan, token_rows: Mapping[str, TokenRows]) -> list[Batch]:
    """Return the rows of each step; a row that comes twice is the same object, and none is the cache's."""
    used = {row_id for batch in plan.batches for row_id in batch}
    rows = {(name, at): dict(token_rows[name].rows[at]) for name, at in used}
    return [[rows[row_id] for row_id in batch] for batch in plan.batches]


def _trained(
    setting: Setting, stage: Stage, train: Callable[[Setting, Stage], list[float]]
) -> list[float]:
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
