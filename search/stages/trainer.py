"""TRL's trainers, fed with a stage's own batches: what TRL computes stays TRL's, on what it trains is ours.

A trainer lives for one stage. It differs from TRL's in four points: batches come tokenised and in plan order; the
vocabulary head sees only scored tokens (`head.py`); one `training_step` is a whole optimizer step, whose loss is the
mean over all its loss tokens (pairs) however it is split; and it is split further when memory runs out.

A stage with several losses has a trainer for each; the first runs the loop, and `joint.py` makes one gradient of all.

Why TRL's trainers and not a loop of our own: results/notes_trainer.md and tests/benchmarks/bench_stages.py.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from evaluators.pulse import beat
from search.errors import Diverged, MemoryShortage
from search.spec import TrainingSpec
from search.stages.head import install_head
from search.stages.model_ref import ModelRef
from search.stages.tokens import IGNORED, TokenRow

Batch = Sequence[TokenRow]
Result = TypeVar("Result")


@dataclass
class Memory:
    """How many rows fit into one forward pass; shared by all passes of a stage."""

    micro_batch_rows: int
    """Rows per forward pass now."""
    n_oom_halvings: int = 0
    """How often memory ran out."""

    def halve(self) -> None:
        """Go on with half the rows.

        Raises:
            MemoryShortage: One row is too much already.
        """
        if self.micro_batch_rows == 1:
            raise MemoryShortage(
                "memory ran out with one row per forward pass; lower max_length, set "
                "gradient_checkpointing, or train fewer weights"
            )
        self.micro_batch_rows //= 2
        self.n_oom_halvings += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def retried(self, attempt: Callable[[], Result], undo: Callable[[], None]) -> Result:
        """Return what `attempt` returns, tried again with fewer rows each time memory runs out.

        Args:
            attempt: Does the work in passes of `micro_batch_rows`.
            undo: Brings everything back to where `attempt` began.
        """
        while True:
            try:
                return attempt()
            except torch.OutOfMemoryError:
                pass  # Only outside this block are the frames gone that hold the tensors.
            undo()
            self.halve()


class StageTrainer:
    """What the SFT and the DPO trainer have in common; goes before TRL's class in the bases."""

    def start(self, batches: Sequence[Batch], memory: Memory, has_layer_dropout: bool) -> None:
        """Set what TRL's constructor does not take; call once after it.

        Args:
            batches: Tokenised rows, one batch per optimizer step.
            memory: Rows per forward pass.
            has_layer_dropout: Whether the model's own dropout is on; an adapter's always is.
        """
        self.batches: Sequence[Any] = batches
        self.memory = memory
        self.has_layer_dropout = has_layer_dropout
        self.losses: list[float] = []
        self.n_steps = len(batches)
        self.before_step: Callable[[], None] = lambda: None
        """Called when all of the step before is done."""
        self.step_gradient: Callable[[Any, Any], Tensor] = self.accumulate
        """Makes the gradient of one step and returns its loss; a joint stage puts its own here."""
        trainer: Any = self
        self.stage_model: Any = trainer.model
        # On GPUs TRL's head is as frugal and needs less memory, but it does not see adapters on the head.
        has_adapter = hasattr(self.stage_model.get_output_embeddings(), "lora_A")
        if trainer.args.device.type == "cpu" or has_adapter:
            install_head(self.stage_model)
        # It collects garbage, which takes half a second in a process with all libraries loaded; a new trainer has none.
        trainer.accelerator.free_memory = lambda *objects: objects

    def add_reference(self) -> None:
        """Add to the rows what the loss needs of the model as it is now; most losses need nothing."""

    def get_train_dataloader(self) -> Sequence[Batch]:
        """Return the batches; the Trainer only iterates over them."""
        return self.batches

    def get_batch_samples(
        self, batches: Iterator[Batch], n_batches: int, device: object
    ) -> tuple[list[Batch], None]:
        """Return the next batches; their loss tokens are counted in `training_step`."""
        return [next(batches) for _ in range(n_batches)], None

    def floating_point_ops(self, inputs: Batch) -> int:
        """Return 0: nobody reads the Trainer's estimate."""
        return 0

    def log(self, *args: object, **kwargs: object) -> None:
        """Write nothing; losses are in `losses`."""

    def training_step(self, model: Any, inputs: Any, *_: object, **__: object) -> Tensor:
        """Compute loss and gradients of one optimizer step.

        Raises:
            Diverged: The loss is not finite.
            MemoryShortage: Memory runs out with a single row.
        """
        self.before_step()
        randomness = _randomness()

        def undo() -> None:
            model.zero_grad(set_to_none=True)
            _restore_randomness(randomness)

        loss = self.memory.retried(lambda: self.step_gradient(model, inputs), undo)
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(
                f"the loss is {value} at step {len(self.losses) + 1} of {self.n_steps}; "
                "a lower learning rate may help"
            )
        self.losses.append(value)
        beat(step=len(self.losses), n_steps=self.n_steps, loss=value)
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip the gradients as TRL does, and look at their norm before the weights move.

        Raises:
            Diverged: It is not finite.
        """
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]  # of transformers' Trainer, the next base
        value = float(norm)
        if not math.isfinite(value):
            raise Diverged(
                f"the gradient's norm is {value} at step {len(self.losses)} of {self.n_steps}; "
                "a lower learning rate may help"
            )
        return norm

    def accumulate(self, model: Any, batch: Batch) -> Tensor:
        """Add the gradients of this loss on one batch to those that are there; return the loss, a scalar."""
        trainer: Any = self
        model.train()
        if not self.has_layer_dropout:
            stop_layer_dropout(model)
        self.prepare_batch(model, batch)
        total = torch.zeros((), device=trainer.args.device)
        for rows in parts(batch, self.memory.micro_batch_rows):
            loss = self.part_loss(model, rows, batch)
            trainer.accelerator.backward(loss)
            total += loss.detach()
            beat()
        return total

    def prepare_batch(self, model: Any, batch: Batch) -> None:
        """Compute what all parts of a batch need; most losses need nothing."""

    def part_loss(self, model: Any, rows: Batch, batch: Batch) -> Tensor:
        """Return what the rows, a part of the batch, add to the batch's loss, a scalar."""
        trainer: Any = self
        n_loss_tokens = sum(_n_loss_tokens(row) for row in batch)
        inputs = trainer._prepare_inputs(trainer.data_collator(rows))
        loss: Tensor = trainer.compute_loss(model, inputs, num_items_in_batch=n_loss_tokens)
        # SFT losses are sums over the part divided by the tokens of the batch; the others are means over the part.
        return loss if n_loss_tokens else loss * (len(rows) / len(batch))


@dataclass(frozen=True)
class Setting:
    """All that a trainer is built from."""

    ref: ModelRef
    training: TrainingSpec
    batches: Sequence[Any]
    """One Batch per optimizer step; in a joint stage one Step."""
    optimizers: tuple[Any, Any]
    memory: Memory
    seed: int
    folder: Path
    """TRL demands one; nothing is written into it."""
    keeper: Any = None
    """The stage's `checkpoint.Keeper`, if it has one."""


@dataclass(frozen=True)
class Step:
    """One optimizer step of a joint stage."""

    rows: dict[str, Batch]
    """Rows by loss."""
    weights: dict[str, float]
    """Weights above 0 by loss."""


@dataclass(frozen=True)
class Trained:
    """What training tells beside the weights."""

    losses: list[float]
    """Of each optimizer step."""
    conflict_by_step: dict[int, dict[str, float]] = field(default_factory=dict)
    """Optimizer step (from 1) to the cosine between the gradients of each two losses, such as `sft/dpo`."""


def refer(setting: Setting, loss: str, trainer: Any) -> None:
    """Give the rows of a loss what it compares with, from a checkpoint where there is one."""
    if setting.keeper is None:
        trainer.add_reference()
    else:
        setting.keeper.refer(loss, trainer)


def go_on(
    setting: Setting, trainer: Any, conflict_by_step: dict[int, dict[str, float]] | None = None
) -> None:
    """Let a trainer that is ready go on from the stage's checkpoint, and keep it now and then."""
    keeper = setting.keeper
    if keeper is None:
        return
    conflicts = {} if conflict_by_step is None else conflict_by_step
    trainer.before_step = lambda: keeper.before_step(trainer, conflicts)
    trainer.batches = trainer.batches[keeper.start_step :]
    trainer.args.max_steps = len(trainer.batches)


def train_built(setting: Setting, build: Callable[[], Any]) -> Trained:
    """Build a trainer, train the model in place, and leave nothing of the trainer behind.

    Raises:
        StageError: The loss is not finite, or memory runs out with a single row.
    """
    with untouched(setting.ref.model):
        trainer = build()
        try:
            refer(setting, "own", trainer)
            go_on(setting, trainer)
            trainer.train()
        finally:
            release(trainer)
    return Trained(trainer.losses)


def trainer_arguments(config: Any, setting: Setting, **more: object) -> Any:
    """Return TRL's arguments (an SFTConfig or DPOConfig) for a stage."""
    arguments = _config(config, setting, more)
    # A stage owns one device; with several visible the Trainer would copy the model to all.
    if arguments.device.type == "cuda":
        arguments._n_gpu = 1
    return arguments


def _config(config: Any, setting: Setting, more: dict[str, object]) -> Any:
    return config(
        output_dir=str(setting.folder),
        use_cpu=setting.ref.device == "cpu",
        bf16=setting.ref.precision == "bfloat16",
        per_device_train_batch_size=setting.training.rows_per_step,
        max_steps=len(setting.batches),
        max_grad_norm=setting.training.max_grad_norm,
        seed=setting.seed,
        max_length=None,
        # Switched on by hand around the stage, so that it is off again afterwards.
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **more,
    )


@contextmanager
def untouched(model: PreTrainedModel) -> Iterator[None]:
    """Undo what trainers leave on a model: patched forwards, tags, and settings in its configurations."""
    holders = [model, model.config, model.generation_config]
    before = [dict(vars(holder)) for holder in holders if holder is not None]
    try:
        yield
    finally:
        for holder, attributes in zip(holders, before, strict=False):
            vars(holder).clear()
            vars(holder).update(attributes)


def release(trainer: Any) -> None:
    """Free the optimizer's memory now; the traceback of an error would hold the trainer while it is handled."""
    trainer.optimizer.state.clear()
    trainer.optimizer.param_groups.clear()


def stop_layer_dropout(model: Any) -> None:
    """Switch the model's own dropout off; an adapter's stays."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and ".lora_dropout" not in name:
            module.eval()


def _n_loss_tokens(row: TokenRow) -> int:
    """Return the tokens of an SFT row that enter the loss; the first is never predicted. 0 for preferences."""
    return sum(label != IGNORED for label in row.get("labels", ())[1:])


def parts(rows: Batch, n_rows: int) -> Iterator[Batch]:
    """Yield the rows, `n_rows` at a time."""
    for start in range(0, len(rows), n_rows):
        yield rows[start : start + n_rows]


def _randomness() -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), cuda


def _restore_randomness(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="apportion-") as folder:
        yield Path(folder)
