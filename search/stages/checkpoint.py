"""A stage in its middle: all that its next steps depend on, as safetensors and JSON, and put back bit for bit.

Kept are the weights that train, AdamW's moments, rates and schedule, all random states, AdaLoRA's importances and
ranks, the losses so far, how many rows fit into memory, and what losses compare with: log-probabilities of the model
as received. The plan of rows is made anew, since it follows from the stage alone.

A stage that goes on is set up as one that begins, and becomes what it was just before its next step. On a CPU the
result is that of a stage that was never interrupted; on CUDA it is as near as two runs of one stage are.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluators.scores import Record
from search.stages import handoff
from search.stages.model_ref import ModelRef
from search.stages.trainer import Memory

FILE = "state.safetensors"
FORMAT = 1
"""Another content is another number; what an older version left is passed over."""
_REFERENCE = "reference"


class State(Record):
    """What a checkpoint says beside its tensors."""

    format: int
    n_steps: int
    """Steps done."""
    n_all_steps: int
    """Of the stage."""
    losses: tuple[float, ...]
    conflict_by_step: dict[int, dict[str, float]]
    micro_batch_rows: int
    n_oom_halvings: int
    rates: tuple[float, ...]
    """Of the optimizer's groups."""
    schedule: tuple[int, int]
    """Epoch and steps of the schedule."""
    train_seconds: float
    """Wall seconds in the optimizer loop so far."""
    python_random: tuple[int, float | None]
    """Version and kept normal number of Python's generator; its words are a tensor."""
    numpy_random: tuple[int, int, float]
    """Position, and kept normal number, of numpy's."""
    adalora_step: int | None
    adalora_ranks: dict[str, tuple[bool, ...]] | None


class Keeping(Protocol):
    """Where checkpoints of one stage go."""

    def put(self, write: Callable[[Path], dict[str, Any]]) -> None:
        """Keep what `write` writes into a folder, and the JSON that it returns, in place of what was kept before.

        Never raises: a full disk or a lost lease is no reason to stop training.
        """

    def get(self) -> tuple[Path, Mapping[str, Any]] | None:
        """Return the folder and the JSON that were kept last."""


@dataclass(frozen=True)
class Checkpoints:
    """How a stage is kept while it trains."""

    keeping: Keeping
    seconds: float
    """Between two checkpoints, and from the beginning of training to the first."""


class Keeper:
    """Keeps one stage, or brings it to where it was kept; asked before each step."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        ref: ModelRef,
        parameters: Sequence[torch.nn.Parameter],
        optimizers: tuple[Any, Any],
        memory: Memory,
        n_steps: int,
    ) -> None:
        """Look for a checkpoint.

        Args:
            checkpoints: Where and how often.
            ref: The model, ready for training.
            parameters: What the stage trains.
            optimizers: Optimizer and schedule.
            memory: Of the stage.
            n_steps: Of the stage.
        """
        self._checkpoints = checkpoints
        self._ref = ref
        self._kept = [*parameters, *handoff.frozen_start(ref)]
        self._parameters = list(parameters)
        self._optimizer, self._schedule = optimizers
        self._memory = memory
        self._n_steps = n_steps
        self._references: dict[str, Tensor] = {}
        self._found: tuple[State, dict[str, Tensor]] | None = None
        with suppress(OSError, SafetensorError, ValidationError, RuntimeError):
            self._found = self._read()
        self._began = self._last = time.monotonic()
        self._is_leaving = self._may_leave = False
        self._old_handler: Any = None

    @property
    def start_step(self) -> int:
        """Steps that need not be trained again."""
        return self._found[0].n_steps if self._found is not None else 0

    def forget(self) -> None:
        """Begin anew, whatever was found."""
        self._found = None

    @property
    def earlier_seconds(self) -> float:
        """Wall seconds in the optimizer loop before this attempt."""
        return self._found[0].train_seconds if self._found is not None else 0.0

    def refer(self, loss: str, trainer: Any) -> None:
        """Give the rows of a loss what it compares with: as kept, or computed with the model as it is now."""
        rows = [row for batch in trainer.batches for row in batch]
        kept = {
            name.partition("/")[2].partition("/")[2]: values
            for name, values in (self._found[1] if self._found is not None else {}).items()
            if name.startswith(f"{_REFERENCE}/{loss}/")
        }
        if kept and all(len(values) == len(rows) for values in kept.values()):
            for name, values in kept.items():
                for row, value in zip(rows, values.tolist(), strict=True):
                    row[name] = value
        else:
            trainer.add_reference()
        names = sorted({name for row in rows for name in row if name.startswith("ref_")})
        for name in names:
            # float64 holds what any row holds, exactly.
            values = torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
            self._references[f"{_REFERENCE}/{loss}/{name}"] = values

    def before_step(self, trainer: Any, conflict_by_step: dict[int, dict[str, float]]) -> None:
        """Bring the stage to where it was kept, if this is its first step here; keep it, if it is time to."""
        if self._found is not None and not trainer.losses:
            self._restore(trainer, conflict_by_step, *self._found)
            return
        is_due = time.monotonic() - self._last >= self._checkpoints.seconds
        if trainer.losses and (is_due or self._is_leaving):
            self._checkpoints.keeping.put(
                lambda folder: self._write(folder, trainer, conflict_by_step)
            )
            self._last = time.monotonic()
        if self._is_leaving and not self._may_leave:
            self._may_leave = True
            signal.raise_signal(
                signal.SIGTERM
            )  # Python hears it in the main thread, whichever this one is

    def listen(self) -> None:
        """Let a SIGTERM wait for the end of the step, and for a checkpoint: the notice that a machine will go."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is None or self._old_handler is not None:
            return

        def leave(*_: object) -> None:
            self._is_leaving = True
            if self._may_leave:
                self.leave()

        self._old_handler = signal.signal(signal.SIGTERM, leave)

    def leave(self) -> None:
        """Give the signal back to whoever had it, and pass on one that came since. In the main thread."""
        if self._old_handler is not None:
            handler, self._old_handler = self._old_handler, None
            signal.signal(signal.SIGTERM, handler)
        if self._is_leaving:
            self._is_leaving = False
            signal.raise_signal(signal.SIGTERM)

    def _read(self) -> tuple[State, dict[str, Tensor]] | None:
        found = self._checkpoints.keeping.get()
        if found is None:
            return None
        folder, meta = found
        state = State.model_validate(dict(meta))
        tensors = load_file(folder / FILE)
        is_ours = (state.format, state.n_all_steps) == (FORMAT, self._n_steps)
        fits = all(
            (kept := tensors.get(f"weight/{at}")) is not None
            and (kept.shape, kept.dtype) == (parameter.shape, parameter.dtype)
            for at, parameter in enumerate(self._kept)
        )
        is_complete = {"random/torch", "random/python", "random/numpy"} <= set(tensors)
        is_inside = 0 < state.n_steps == len(state.losses) < self._n_steps
        return (state, tensors) if is_ours and fits and is_complete and is_inside else None

    def _write(
        self, folder: Path, trainer: Any, conflict_by_step: dict[int, dict[str, float]]
    ) -> dict[str, Any]:
        tensors = {f"weight/{at}": parameter.detach() for at, parameter in enumerate(self._kept)}
        for at, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{at}/{name}"] = value.detach()
        tensors |= self._references
        version, words, normal = random.getstate()
        tensors["random/python"] = torch.tensor(words, dtype=torch.int64)
        numbers: Any = np.random.get_state()
        tensors["random/numpy"] = torch.from_numpy(numbers[1].astype(np.int64))
        tensors["random/torch"] = torch.get_rng_state()
        if torch.cuda.is_available():
            for at, value in enumerate(torch.cuda.get_rng_state_all()):
                tensors[f"random/cuda/{at}"] = value
        allocation = self._allocation
        if allocation is not None:
            for name, value in allocation.importances().items():
                tensors[f"adalora/{name}"] = value
        save_file(
            {name: value.cpu().contiguous() for name, value in tensors.items()}, folder / FILE
        )
        state = State(
            format=FORMAT,
            n_steps=len(trainer.losses),
            n_all_steps=self._n_steps,
            losses=tuple(trainer.losses),
            conflict_by_step=conflict_by_step,
            micro_batch_rows=self._memory.micro_batch_rows,
            n_oom_halvings=self._memory.n_oom_halvings,
            rates=tuple(float(group["lr"]) for group in self._optimizer.param_groups),
            schedule=(self._schedule.last_epoch, self._schedule._step_count),
            train_seconds=self.earlier_seconds + time.monotonic() - self._began,
            python_random=(version, normal),
            numpy_random=(int(numbers[2]), int(numbers[3]), float(numbers[4])),
            adalora_step=None if allocation is None else allocation.step,
            adalora_ranks=None if allocation is None else allocation.rank_pattern,
        )
        return state.model_dump(mode="json")

    def _restore(
        self,
        trainer: Any,
        conflict_by_step: dict[int, dict[str, float]],
        state: State,
        tensors: dict[str, Tensor],
    ) -> None:
        with torch.no_grad():
            for at, parameter in enumerate(self._kept):
                parameter.copy_(tensors[f"weight/{at}"])
        for at, parameter in enumerate(self._parameters):
            start = f"optimizer/{at}/"
            own = {
                name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)
            }
            if own:
                self._optimizer.state[parameter] = {
                    name: value.to(parameter.device, copy=True) for name, value in own.items()
                }
        for group, rate in zip(self._optimizer.param_groups, state.rates, strict=True):
            group["lr"] = rate
        self._schedule.last_epoch, self._schedule._step_count = state.schedule
        self._schedule._last_lr = list(state.rates)
        self._memory.micro_batch_rows = state.micro_batch_rows
        self._memory.n_oom_halvings = state.n_oom_halvings
        trainer.losses[:] = state.losses
        conflict_by_step.update(state.conflict_by_step)
        if self._allocation is not None and state.adalora_step is not None:
            start = "adalora/"
            own = {
                name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)
            }
            self._allocation.resume(state.adalora_step, state.adalora_ranks, own)
        _restore_randomness(state, tensors)
        self._found = (state, {})
        self._began = self._last = time.monotonic()

    @property
    def _allocation(self) -> Any:
        return self._ref.adapters[-1].allocation if self._ref.adapters else None


def _restore_randomness(state: State, tensors: Mapping[str, Tensor]) -> None:
    version, normal = state.python_random
    random.setstate((version, tuple(tensors["random/python"].tolist()), normal))
    words = tensors["random/numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, *state.numpy_random))
    torch.set_rng_state(tensors["random/torch"])
    cuda = [name for name in tensors if name.startswith("random/cuda/")]
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([tensors[f"random/cuda/{at}"] for at in range(len(cuda))])
