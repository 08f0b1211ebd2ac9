"""Training that stands still between two optimizer steps while others use the model.

TRL's loop has no way back into its middle. So it runs in a thread of its own, which waits: optimizer, schedule, the
loop's counters and whatever a method keeps stay as they are, and only one of the two threads ever runs.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from search.stages.adapters import activate, lora_layers
from search.stages.initial import begins_on_weights, start_name
from search.stages.model_ref import ModelRef

Result = TypeVar("Result")


class _Cancelled(BaseException):
    """Unwinds a loop that nobody wants any more; no `except Exception` may hold it up."""


class PausableLoop(Generic[Result]):
    """Work that calls `step_done` after each of its steps, run up to a step and later on."""

    def __init__(self, work: Callable[[], Result]) -> None:
        """Prepare; nothing runs yet."""
        self._work = work
        self.n_steps = 0
        """Steps done."""
        self._until: int | None = None
        self._is_cancelled = False
        self._result: list[Result] = []
        self._error: BaseException | None = None
        self._may_run = threading.Semaphore(0)
        self._has_paused = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)

    def advance(self, until: int | None) -> Result | None:
        """Run until so many steps are done in all, or to the end; return what the work returns, None before its end.

        Raises:
            Exception: What the work raises.
        """
        self._until = until
        if not self._thread.ident:
            self._thread.start()
        self._may_run.release()
        try:
            self._has_paused.acquire()
        except BaseException:
            # An interrupt reaches the caller alone; the work hears of it at its next step.
            self._is_cancelled = True
            raise
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._result[0] if self._result else None

    def step_done(self) -> None:
        """Take note of a step, in the work's thread; wait there if this is where to pause."""
        self.n_steps += 1
        if self.n_steps == self._until:
            self._has_paused.release()
            self._may_run.acquire()
        if self._is_cancelled:
            raise _Cancelled

    def cancel(self) -> None:
        """Let the work unwind, if it began and has not ended, and wait until it has."""
        self._is_cancelled = True
        self._may_run.release()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        self._may_run.acquire()
        try:
            if not self._is_cancelled:
                self._result.append(self._work())
        except _Cancelled:
            pass
        except BaseException as error:
            self._error = error
        self._has_paused.release()


class Randomness:
    """A stage's own random states, in force while the stage runs; the process has its own in between."""

    def __init__(self, seed: int) -> None:
        """Seed all generators once the stage runs first."""
        self._seed = seed
        self._states: tuple[Any, ...] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Put the stage's states in force, and give the process its own back afterwards."""
        python_state, numpy_state = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng():
                self._begin()
                try:
                    yield
                finally:
                    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
                    torch_state = torch.get_rng_state()
                    self._states = random.getstate(), np.random.get_state(), torch_state, cuda
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)

    def _begin(self) -> None:
        if self._states is None:
            random.seed(self._seed)
            np.random.seed(self._seed % 2**32)
            torch.manual_seed(self._seed)
            return
        python_state, numpy_state, torch_state, cuda = self._states
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


class Presentable:
    """Shows a model in the middle of a stage as it would be at the stage's end, and takes that back."""

    def __init__(self, ref: ModelRef, is_checkpointing: bool) -> None:
        """Take note of the model before a trainer has touched it.

        Args:
            ref: The model, ready for training.
            is_checkpointing: Whether activations are recomputed while it trains.
        """
        self._ref = ref
        self._is_checkpointing = is_checkpointing
        self._plain = self._attributes()
        self._undo: Callable[[], None] | None = None

    def show(self) -> None:
        """Make the model ready for evaluation: every adapter active, nothing of the trainer on it."""
        model = self._ref.model
        model.zero_grad(set_to_none=True)
        trained = self._attributes()
        training = {module: module.training for module in model.modules()}
        active = [(layer, list(layer.active_adapters)) for _, layer in lora_layers(model)]
        moving = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self._put(self._plain)
        if self._is_checkpointing:
            model.gradient_checkpointing_disable()
        model.eval()
        if self._ref.adapters:
            activate(model, self._active())
        for name, parameter in model.named_parameters():
            # As at a boundary: generation is slower with a frozen head.
            parameter.requires_grad_(".lora_" not in name and parameter.is_floating_point())

        def undo() -> None:
            if self._is_checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            for layer, names in active:
                layer.set_adapter(names, inference_mode=True)
            for parameter, was_moving in moving.items():
                parameter.requires_grad_(was_moving)
            self._put(trained)
            for module, was_training in training.items():
                module.training = was_training
            model.zero_grad(set_to_none=True)

        self._undo = undo

    def hide(self) -> None:
        """Put the model back to where `show` found it; nothing if it is not shown."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def _active(self) -> list[str]:
        names = []
        for adapter in self._ref.adapters:
            names.append(adapter.name)
            if adapter is self._ref.adapters[-1] and begins_on_weights(adapter.settings):
                names += self._start(adapter.name)
        return names

    def _start(self, name: str) -> list[str]:
        """Return the adapter that takes out what another one began with, while its stage trains."""
        start = start_name(name)
        is_there = any(start in layer.lora_A for _, layer in lora_layers(self._ref.model))
        return [start] if is_there else []

    def _holders(self) -> list[Any]:
        model = self._ref.model
        found = [model, model.config, model.generation_config]
        return [holder for holder in found if holder is not None]

    def _attributes(self) -> list[dict[str, Any]]:
        return [dict(vars(holder)) for holder in self._holders()]

    def _put(self, attributes: list[dict[str, Any]]) -> None:
        for holder, found in zip(self._holders(), attributes, strict=True):
            vars(holder).clear()
            vars(holder).update(found)
