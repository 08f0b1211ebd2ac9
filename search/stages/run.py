"""Run one stage on a model: plan its rows, make weights trainable, train, hand off.

outcome = run_stage(ref, stage, sources, spec.training, seed)     # changes ref in place
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module

import torch

from search.errors import Diverged, MemoryShortage, StageError
from search.sources import Source
from search.spec import TrainingSpec
from search.stages import handoff
from search.stages.checkpoint import Checkpoints, Keeper
from search.stages.drawing import Drawing
from search.stages.going_on import Earlier
from search.stages.joint import LOSSES
from search.stages.mix import StagePlan, passes_conflict, steps_within
from search.stages.model_ref import ModelRef
from search.stages.pausing import PausableLoop, Presentable, Randomness
from search.stages.persist import Keep, StageWeights
from search.stages.schedule import make_optimizer
from search.stages.tokens import TokenRow, TokenRows
from search.stages.trainer import Batch, Memory, Setting, Step, Trained, scratch_folder
from spaces.recipe import Stage

STAGE_VERSION = "2"
"""Part of every digest; changes whenever the same stage would give other weights."""

METHODS = {**LOSSES, "joint": "search.stages.joint"}
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
    keep: Keep | None = None,
    earlier: Sequence[Earlier] = (),
    checkpoints: Checkpoints | None = None,
) -> StageOutcome:
    """Train one stage on the model in place.

    Args:
        ref: The model, as the stage before left it. After an error it is unusable: start from `ResidentBase.fresh`.
        stage: What to train.
        sources: All sources of its mix, by name.
        training: How all stages of the study train.
        seed: Of row order, adapter initialisation and dropout.
        keep: Is given what was trained, to be written for `persist.restore_stage`.
        earlier: What the recipe trained before this stage: the same loss on the same source goes on with the rows where
            that stopped.
        checkpoints: Where the stage is kept while it trains, and looked for when it begins.

    Raises:
        DataError: A source has the wrong format for the method, or no row that can be trained on.
        StageError: The stage cannot be trained on this model, its loss is not finite, or memory runs out.
    """
    with StageSession(ref, stage, sources, training, seed, earlier, checkpoints) as session:
        return session.finish(keep)


@dataclass(frozen=True)
class Rung:
    """A point inside a stage."""

    share: float
    """Of the dose, in (0, 1)."""
    n_steps: int
    """Optimizer steps done."""
    trained_tokens: int
    """Of the stage so far, without padding."""


class StageSession:
    """A stage that is trained in pieces. Between them the model can be evaluated, and the process goes its own way.

    with StageSession(ref, stage, sources, training, seed) as session:
        for rung in session.rungs((0.25, 0.5)):
            session.advance(rung.n_steps)
            ...                                   # evaluate ref, which is as it is after the piece
        outcome = session.finish()

    The result is that of `run_stage`, bit for bit. With a constant schedule, and weights and shares that do not move
    with the dose, the model at a rung is that of a stage with the smaller dose, but for the rounding of a merge, and
    not under AdaLoRA, whose ranks shrink over the whole dose. Left before its end, the model is unusable as after an
    error. A stage that pauses computes in a thread of its own.
    """

    def __init__(
        self,
        ref: ModelRef,
        stage: Stage,
        sources: Mapping[str, Source],
        training: TrainingSpec,
        seed: int,
        earlier: Sequence[Earlier] = (),
        checkpoints: Checkpoints | None = None,
    ) -> None:
        """Plan the rows and make weights trainable; arguments and errors as of `run_stage`."""
        started = time.monotonic()
        self._ref, self._stage = ref, stage
        drawing = Drawing(sources, training, ref.tokenizer, ref.tokenizer_hash)
        self._token_rows = drawing.rows(stage)
        places = drawing.places(stage, earlier)
        self._plan = plan = drawing.plan(stage, self._token_rows, seed, places)
        conflict = passes_conflict(plan, stage.dose_tokens, stage.max_passes)
        if conflict is not None:
            raise StageError(conflict)
        self._memory = Memory(training.micro_batch_rows or training.rows_per_step)
        self._scratch = ExitStack()
        self._loop: PausableLoop[Trained] | None = None
        self._trained: Trained | None = None
        self._train_seconds = 0.0
        if ref.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._randomness = Randomness(seed)
        with self._randomness():
            n_steps = len(plan.steps)
            self._parameters = handoff.begin(ref, stage, n_steps)
            ratios = handoff.rate_ratios(ref, stage)
            optimizers = make_optimizer(
                self._parameters, stage.learning_rate, n_steps, training, ratios
            )
            handoff.follow(ref, optimizers[0])
            batches = _batches(stage, plan, self._token_rows)
            folder = self._scratch.enter_context(scratch_folder())
            self._keeper = (
                None
                if checkpoints is None
                else Keeper(checkpoints, ref, self._parameters, optimizers, self._memory, n_steps)
            )
            self._setting = Setting(
                ref, training, batches, optimizers, self._memory, seed, folder, self._keeper
            )
        self._shown = Presentable(ref, training.gradient_checkpointing)
        self._setup_seconds = time.monotonic() - started

    def __enter__(self) -> StageSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rungs(self, shares: Sequence[float]) -> list[Rung]:
        """Return where shares of the dose end: after the steps that a dose of that size would buy.

        A share that ends at the same step as the one before it, or at the end of the stage, has no rung.
        """
        found: list[Rung] = []
        for share in shares:
            n_steps, n_tokens = steps_within(self._n_tokens_S, share * self._stage.dose_tokens)
            if n_steps < len(self._plan.steps) and (not found or n_steps > found[-1].n_steps):
                found.append(Rung(share, n_steps, n_tokens))
        if self._keeper is not None and found and found[0].n_steps <= self._keeper.start_step:
            self._keeper.forget()  # what came before cannot be shown any more, and is wanted
        return found

    def advance(self, until_step: int | None = None) -> None:
        """Train until so many steps of the stage are done, or to its end.

        Raises:
            StageError: The loss is not finite, or memory runs out.
        """
        n_steps = len(self._plan.steps)
        until = n_steps if until_step is None else until_step
        if self._trained is not None or (self._loop and until <= self._loop.n_steps):
            return
        started = time.monotonic()
        if self._keeper is not None:
            self._keeper.listen()
            self._train_seconds = self._train_seconds or self._keeper.earlier_seconds
        with self._randomness():
            with _quiet_renames():
                self._shown.hide()
            if self._loop is None and until >= n_steps:
                self._trained = _trained(self._setting, self._stage)
            else:
                self._trained = self._paused().advance(until if until < n_steps else None)
            if self._trained is None:
                with _quiet_renames():
                    self._shown.show()
        self._train_seconds += time.monotonic() - started
        if self._keeper is not None:
            self._keeper.leave()

    @property
    def train_seconds(self) -> float:
        """Wall seconds of the pieces so far."""
        return self._train_seconds

    def finish(self, keep: Keep | None = None) -> StageOutcome:
        """Train what is left, hand off, and return what the stage consumed and did.

        Args:
            keep: Is given what was trained, to be written for `persist.restore_stage`.

        Raises:
            StageError: The stage cannot be trained on.
        """
        self.advance()
        assert self._trained is not None
        started = time.monotonic()
        ref, stage, plan, trained = self._ref, self._stage, self._plan, self._trained
        with self._randomness():
            n_trainable = sum(parameter.numel() for parameter in self._parameters)
            adapter_ranks = handoff.ranks(ref, stage)
            _check_finite(self._parameters)
            if keep is not None:
                keep(StageWeights.of(ref, self._parameters))
            handoff.end(ref, stage)
        self.close()
        return StageOutcome(
            trained_tokens=plan.n_tokens,
            n_steps=len(plan.steps),
            n_rows=plan.n_rows,
            tokens_by_source=plan.tokens_by_source,
            passes_by_source=plan.passes_by_source,
            n_dropped_rows=_n_dropped(self._token_rows),
            loss_by_step=tuple(trained.losses),
            n_trainable=n_trainable,
            micro_batch_rows=self._memory.micro_batch_rows,
            n_oom_halvings=self._memory.n_oom_halvings,
            train_seconds=self._train_seconds,
            setup_seconds=self._setup_seconds + time.monotonic() - started,
            peak_memory_bytes=torch.cuda.max_memory_allocated() if ref.device == "cuda" else None,
            conflict_by_step=trained.conflict_by_step,
            adapter_ranks=adapter_ranks,
        )

    def close(self) -> None:
        """Let go of trainer, optimizer and scratch folder; the end of a stage that is not finished."""
        if self._keeper is not None:
            self._keeper.leave()
        if self._loop is not None:
            with self._randomness(), _quiet_renames():
                self._shown.hide()
                self._loop.cancel()
        self._scratch.close()

    def _paused(self) -> PausableLoop[Trained]:
        if self._loop is None:
            loop = PausableLoop(lambda: _trained(self._setting, self._stage))
            loop.n_steps = 0 if self._keeper is None else self._keeper.start_step
            # Hooks run in the order of registration: what the adapter does at a step is done when this one pauses.
            self._setting.optimizers[0].register_step_post_hook(lambda *_: loop.step_done())
            self._loop = loop
        return self._loop

    @property
    def _n_tokens_S(self) -> list[int]:  # noqa: N802 - a shape
        return [
            sum(
                self._token_rows[loss][name].n_tokens[at]
                for loss, batch in step.rows.items()
                for name, at in batch
            )
            for step in self._plan.steps
        ]


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
        raise MemoryShortage(
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
        if not all(_is_finite(parameter) for parameter in parameters):
            raise Diverged(
                "weights are not finite after the last step; a lower learning rate may help"
            )


def _is_finite(values: torch.Tensor) -> bool:
    # A finite sum has finite terms, and is had in a tenth of the time; that of large finite terms may not be finite.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


@contextmanager
def _quiet_renames() -> Iterator[None]:
    """Silence transformers about `gradient_checkpointing`, which it has renamed and TRL sets, asked or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
