"""What a trial leaves behind, as frozen records: read by report, resume and scripts. No torch, no Ray, no Optuna.

A trial's folder is `results/<study>/trials/<number, four digits>/` and holds

    recipe.yaml                      the whole truth of the training; `apportion train` repeats it
    trial.json                       a TrialRecord, rewritten whole after every boundary
    log.jsonl                        what happened when: see search.trial_log
    traceback.txt, hang.txt          where an error came from; where a trial stood that made no progress
    boundaries/<n_stages>/items.jsonl    one Item a line, of the suite
    boundaries/<n_stages>/holdout.jsonl  one Item a line, of the holdout; at the last boundary only
    boundaries/<n_stages>/screening.jsonl  one Item a line, of the first items; where the study has a fidelity
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from evaluators.scores import Record, Score
from search.outcomes import Failure
from spaces.recipe import AnyStage, Merge, Parallel, Recipe, Stage

TrialState = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]


class StageRecord(Record):
    """What one stage consumed and did."""

    stage: AnyStage
    """The stage as decided."""
    digest: str
    """Name of the model after this stage."""
    seed: int
    """Seed of data order, adapter initialisation and dropout."""
    trained_tokens: int
    """Tokens consumed without padding: the dose rounded to whole optimizer steps."""
    n_steps: int
    """Optimizer steps."""
    n_rows: int
    """Rows (pairs, for DPO) consumed."""
    tokens_by_source: dict[str, int]
    """Tokens consumed per source."""
    passes_by_source: dict[str, float]
    """Tokens consumed per source divided by the tokens the source holds; above 1 it was oversampled."""
    n_dropped_rows: int = 0
    """Rows of the sources that no stage could use, such as those whose prompt alone fills `max_length`."""
    loss_by_step: tuple[float, ...]
    """Training loss of each optimizer step, mean over loss tokens (SFT) or pairs (DPO); of a joint stage the weighted
    sum of its losses."""
    conflict_by_step: dict[int, dict[str, float]] = Field(default={})
    """Of a joint stage: optimizer step (from 1) to the cosine between the gradients of each two losses, such as
    `sft/dpo`, at the first, middle and last step; a pair with a zero gradient is left out."""
    adapter_ranks: dict[str, int] = Field(default={})
    """Rank left in each module by AdaLoRA; empty for other adapters."""
    n_trainable: int
    """Parameters that moved."""
    micro_batch_rows: int | None
    """Rows per forward pass in the end, after any halving; None where nothing was trained."""
    n_oom_halvings: int = 0
    """How often memory ran out and the micro-batch was halved."""
    train_seconds: float
    """Wall seconds in the optimizer loop, reference log-probabilities included."""
    setup_seconds: float
    """Wall seconds of everything else in the stage: tokenising, building adapter and trainer, merging."""
    peak_memory_bytes: int | None = None
    """Peak device memory on CUDA; None on CPU, where it is not measured per stage."""
    branches: dict[str, tuple[StageRecord, ...]] = Field(default={})
    """Of a parallel stage: the stages of each branch. Tokens, rows and seconds of the whole stage are their sums."""
    is_stored: bool = False
    """Whether another trial trained it, and this one spent nothing on it."""

    @property
    def trainings(self) -> tuple[StageRecord, ...]:
        """Records of all that was trained: itself, the stages of all branches, or nothing."""
        if isinstance(self.stage, Stage):
            return (self,)
        return tuple(part for branch in self.branches.values() for part in branch)

    @property
    def spent_tokens(self) -> int:
        """Tokens trained for it in this trial; what came from the store cost none."""
        if self.is_stored:
            return 0
        if isinstance(self.stage, Stage):
            return self.trained_tokens
        return sum(part.spent_tokens for part in self.trainings)

    @property
    def spent_train_seconds(self) -> float:
        """Seconds in optimizer loops of this trial."""
        if self.is_stored:
            return 0.0
        if not self.branches:
            return self.train_seconds
        return sum(part.spent_train_seconds for branch in self.branches.values() for part in branch)

    @property
    def is_timed(self) -> bool:
        """Whether its seconds are those of training all of it in this trial."""
        is_trained = not self.is_stored
        if isinstance(self.stage, Stage):
            return is_trained
        return is_trained and all(part.is_timed for part in self.trainings)

    def renamed(self, stage: Stage | Parallel | Merge, names: Mapping[str, str]) -> StageRecord:
        """Return the record as that of an equal stage whose influence, sources and branches have other names.

        Args:
            stage: The equal stage.
            names: Name of a source here to its name there.

        Raises:
            ValueError: The stages are not alike.
        """
        branches: dict[str, tuple[StageRecord, ...]] = {}
        if isinstance(stage, Parallel):
            trained = {k: b for k, b in stage.branches.items() if b.is_active and b.stages}
            for name, branch, found in zip(
                trained, trained.values(), self.branches.values(), strict=True
            ):
                pairs = zip(branch.stages, found, strict=True)
                branches[name] = tuple(part.renamed(own, names) for own, part in pairs)
        return self.model_copy(
            update={
                "stage": stage,
                "tokens_by_source": {names[k]: n for k, n in self.tokens_by_source.items()},
                "passes_by_source": {names[k]: n for k, n in self.passes_by_source.items()},
                "branches": branches,
            }
        )


def summed(
    branches: Mapping[str, tuple[StageRecord, ...]], n_changed: int, seconds: float
) -> dict[str, Any]:
    """Return the fields of a StageRecord that follow from its branches; of a merge, which has none, all are 0.

    Args:
        branches: Name of a branch to the records of its stages.
        n_changed: Parameters of the result that differ from the base.
        seconds: Wall seconds of combining.
    """
    parts = [part for branch in branches.values() for part in branch]
    tokens: dict[str, int] = defaultdict(int)
    passes: dict[str, float] = defaultdict(float)
    for part in parts:
        for name in part.tokens_by_source:
            tokens[name] += part.tokens_by_source[name]
            passes[name] += part.passes_by_source[name]
    rows = [part.micro_batch_rows for part in parts if part.micro_batch_rows is not None]
    peaks = [part.peak_memory_bytes for part in parts if part.peak_memory_bytes is not None]
    return {
        "trained_tokens": sum(part.trained_tokens for part in parts),
        "n_steps": sum(part.n_steps for part in parts),
        "n_rows": sum(part.n_rows for part in parts),
        "tokens_by_source": dict(tokens),
        "passes_by_source": dict(passes),
        "n_dropped_rows": sum(part.n_dropped_rows for part in parts),
        "loss_by_step": (),
        "n_trainable": n_changed,
        "micro_batch_rows": min(rows, default=None),
        "n_oom_halvings": sum(part.n_oom_halvings for part in parts),
        "train_seconds": sum(part.train_seconds for part in parts),
        "setup_seconds": seconds + sum(part.setup_seconds for part in parts),
        "peak_memory_bytes": max(peaks, default=None),
        "branches": dict(branches),
    }


class Boundary(Record):
    """Scores of the model after `n_stages` stages."""

    n_stages: int
    """0 is the base."""
    digest: str
    """Name of the model."""
    scores: tuple[Score, ...]
    """Scores of the suite, retention included."""
    holdout: tuple[Score, ...] = ()
    """Scores of the holdout; empty unless this is the last boundary."""
    suite_version: str | None = None
    """What measured: equal versions measure the same; a changed suite or its data has another."""
    is_stored: bool = False
    """Whether the suite's scores came from the stage store."""
    evaluate_seconds: float
    """Wall seconds of suite and holdout in this trial."""
    store_seconds: float | None = None
    """Wall seconds of storing the stage beside the evaluation; None where none was trained to be stored. They are no
    part of the trial's wall time: see `Seconds`."""


class Rung(Record):
    """Scores of the model in the middle of a stage, at a share of its dose. Only a stage that is trained has rungs.

    Early stopping alone looks at it. The sampler is told boundaries and not rungs: a share of a dose is seldom a dose
    that the space allows, and under a schedule that falls the model is not that of a smaller dose.
    """

    n_stages: int
    """Stages finished before; the rung is in the next one."""
    share: float
    """Of the dose, in (0, 1)."""
    trained_tokens: int
    """Of the stage so far, without padding."""
    scores: tuple[Score, ...]
    """Scores of the suite, retention included."""
    train_seconds: float
    """Wall seconds in the optimizer loop of the stage so far."""
    evaluate_seconds: float
    """Wall seconds of the suite."""


class Screening(Record):
    """Scores of the model after `n_stages` stages on the first items of each evaluator; each score says its share.

    At a recipe's last stage it decides whether the model is scored on all items. It never counts as the trial's scores.
    """

    n_stages: int
    """At least 1."""
    digest: str
    """Name of the model."""
    scores: tuple[Score, ...]
    """Scores of the suite, retention included."""
    suite_version: str
    """What measured: equal versions measure the same."""
    is_stored: bool = False
    """Whether the scores came from the stage store."""
    evaluate_seconds: float
    """Wall seconds in this trial."""
    store_seconds: float | None = None
    """As in `Boundary`, where the stage was stored beside this evaluation."""

    @property
    def fidelity(self) -> float:
        """The least share of items behind any of the scores."""
        return min((score.fidelity for score in self.scores), default=1.0)


class Seconds(Record):
    """Where the wall time of a trial went. Each second counts once, under what the trial itself did.

    A stage's result is stored in a thread beside the evaluation, which it slows down where no core is idle: that is in
    `evaluate`. In `rest` is what the trial waited for the thread when the evaluation was over.
    """

    load: float = 0.0
    """Loading base model and sources into the process (0 when resident), restoring the base between trials."""
    train: float = 0.0
    """Optimizer loops."""
    evaluate: float = 0.0
    """Suite and holdout, whatever ran beside them."""
    rest: float = 0.0
    """All else: set-up of stages, waiting until a stage is stored, records, Ray."""

    @property
    def total(self) -> float:
        """All of them: the compute that the trial took."""
        return self.load + self.train + self.evaluate + self.rest


class StopDecision(Record):
    """What the stopping rule said of a trial at a rung, at a boundary that is not its last, or when it was screened."""

    n_stages: int
    """Stages done."""
    share: float = 0.0
    """At a rung, the share of the next stage's dose; 0 at a boundary."""
    outcome: Literal["go on", "stop", "audit"]
    """`audit`: the rule would have stopped the trial, and it ran on to see whether that would have been right."""
    bounds: dict[str, float]
    """Score to the best value that the last model may have; one of them is exceeded at the rule's error rate."""
    n_past: int
    """Past trials that the bounds rest on."""
    fidelity: float = 1.0
    """Below 1: the recipe's last model was screened on this share of the items. Then the bounds are of its scores on
    all items, from standard errors and no past trials."""
    reason: str | None = None
    """Why the trial cannot come to anything; None if it goes on."""


@dataclass(frozen=True)
class Proposal:
    """A recipe to be tried, under its trial number."""

    number: int
    """Number within the study, from 0."""
    params: dict[str, float | int | str | bool]
    """The values drawn, flat."""
    recipe: Recipe
    """The recipe they mean."""
    baseline: str | None
    """Name of the baseline, if it is one."""


class TrialRecord(Record):
    """One recipe, trained and scored."""

    number: int
    """Number within the study, from 0."""
    state: TrialState
    """As in Optuna; PRUNED was stopped early, at a stage boundary or at a rung."""
    reason: str | None = None
    """Why the trial failed or was stopped early."""
    failure: Failure | None = None
    """Of a failed trial: what kind of failure it was."""
    lost_attempts: tuple[Failure, ...] = ()
    """Failures of the machines after which the trial was tried again, in this launch."""
    params: dict[str, float | int | str | bool]
    """The values drawn, flat."""
    recipe: Recipe
    """The recipe they mean."""
    baseline: str | None = None
    """Name of the baseline, if it is one."""
    seed: int
    """Seed of the study; stages derive theirs from it."""
    stages: tuple[StageRecord, ...] = ()
    """Finished stages."""
    boundaries: tuple[Boundary, ...] = ()
    """Scores after each finished stage; the base trial has boundary 0 alone."""
    rungs: tuple[Rung, ...] = ()
    """Scores within stages, where the study has rungs and the stage was trained in this trial."""
    screenings: tuple[Screening, ...] = ()
    """Scores on the first items alone, where the study has a fidelity."""
    stopping: tuple[StopDecision, ...] = ()
    """What the stopping rule said at rungs and boundaries before the end, where enough was known to say anything."""
    seconds: Seconds = Seconds()
    """Split of the wall time."""
    device: str = Field(default="cpu")
    """Device and its name, such as `cuda: NVIDIA A100`."""
    started_at: str
    """UTC, ISO 8601."""
    finished_at: str | None = None
    """UTC, ISO 8601; None while running."""

    @property
    def trained_tokens(self) -> int:
        """Tokens trained in this trial; stages from the store cost none."""
        whole = sum(stage.spent_tokens for stage in self.stages)
        return whole + (self.open_rung.trained_tokens if self.open_rung else 0)

    @property
    def open_rung(self) -> Rung | None:
        """The last rung of a stage that is not finished; None between stages."""
        is_open = bool(self.rungs) and self.rungs[-1].n_stages == len(self.stages)
        return self.rungs[-1] if is_open else None

    @property
    def last_screening(self) -> Screening | None:
        """The screening of the recipe's last model; None if it was scored on all items at once, or not yet."""
        found = self.screenings[-1] if self.screenings else None
        return found if found is not None and found.n_stages == len(self.recipe.stages) else None

    @property
    def is_screened_out(self) -> bool:
        """Whether the trial ended when its last model was screened."""
        return self.state == "PRUNED" and self.last_screening is not None

    @property
    def saved_tokens(self) -> int:
        """Dose that an early stop left out; what the store holds of those stages would have cost nothing."""
        if self.state != "PRUNED" or not (self.boundaries or self.screenings or self.open_rung):
            return 0
        n_done = self.boundaries[-1].n_stages if self.boundaries else 0
        n_done = max([n_done, *(screening.n_stages for screening in self.screenings)])
        left = sum(stage.dose_tokens for stage in self.recipe.stages[n_done:])
        return left - (self.open_rung.trained_tokens if self.open_rung else 0)

    @property
    def final_scores(self) -> dict[str, Score]:
        """Scores of the suite at the last boundary by name; empty if there is none."""
        return (
            {score.name: score for score in self.boundaries[-1].scores} if self.boundaries else {}
        )
