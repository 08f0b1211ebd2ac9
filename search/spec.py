"""StudySpec: study.yaml as frozen, strict models. Reading and checking it needs neither torch, Ray nor Optuna."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from evaluators.scores import Direction, ScoreInfo
from evaluators.spec import EvaluatorSpec, GenerationSpec, RetentionSpec
from search.callback_spec import CallbackSpec
from search.compute_spec import ComputeSpec
from search.data.spec import GeneralisationSpec, PartsSpec
from search.running_spec import StoppingSpec, StoreSpec, without_secret
from spaces.influence import AnyInfluence, InfluenceSpec
from spaces.order import OrderSpec
from spaces.spec import Spec

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Letters, digits, _ and -, at most 64; it becomes a folder and a parameter name."""
SourceFormat = Literal[
    "messages", "prompt-completion", "preference", "unpaired-preference", "prompt", "text"
]


class BaseSpec(Spec):
    """The model that every recipe starts from. Exactly one of `hub`, `path` and `package`."""

    hub: str | None = None
    """Model id on the Hugging Face hub."""
    path: str | None = None
    """Local folder, relative to the study file."""
    package: str | None = None
    """Installed Python package whose folder holds the model files; it is located, never imported."""
    gguf_file: str | None = None
    """File name of a GGUF checkpoint in that place; converted to safetensors once and kept in the user's cache."""
    revision: str | None = None
    """Hub revision: a commit, tag or branch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights in memory. Keep float32 for full SFT: small updates vanish in bfloat16 weights."""
    bits: Literal[4, 8] | None = None
    """Quantise the weights to 4 (NF4) or 8 bits (LLM.int8) with bitsandbytes, on CUDA only. They never change then: all
    stages train LoRA beside them and hand off with stack, detach or continue. Default: not quantised."""

    @model_validator(mode="after")
    def _check(self) -> BaseSpec:
        _exactly_one(hub=self.hub, path=self.path, package=self.package)
        if self.revision is not None and self.hub is None:
            raise ValueError("revision belongs to hub; remove it")
        return self


class SourceSpec(Spec):
    """One dataset. Exactly one of `path` and `hub`."""

    path: str | None = None
    """File (.jsonl, .json, .parquet) or folder written by `datasets.save_to_disk`, relative to the study file."""
    hub: str | None = None
    """Dataset id on the Hugging Face hub."""
    revision: str | None = None
    """Hub revision."""
    subset: str | None = None
    """Hub configuration name."""
    split: str | None = None
    """Split, for folders and hub ids that have several."""
    format: SourceFormat
    """TRL's formats, plus `prompt` (for evaluators that generate) and `text` (for likelihood)."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first rows."""
    parts: PartsSpec | None = None
    """Which rows are trained on, which the suite sees, and which the holdout. Default: all see all."""

    @model_validator(mode="after")
    def _check(self) -> SourceSpec:
        _exactly_one(path=self.path, hub=self.hub)
        if self.hub is None and (self.revision is not None or self.subset is not None):
            raise ValueError("revision and subset belong to hub; remove them")
        return self


def _exactly_one(**places: str | None) -> None:
    given = [name for name, place in places.items() if place is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        raise ValueError(f"give exactly one of {', '.join(places)}; found {found}")


class TrainingSpec(Spec):
    """How all stages train, apart from what the influences say."""

    rows_per_step: int = Field(default=8, gt=0)
    """Rows (pairs, for DPO) per optimizer step; in a joint stage, of each loss."""
    micro_batch_rows: int | None = Field(default=None, gt=0)
    """Rows per forward pass; gradients accumulate up to `rows_per_step`. Default: all rows at once."""
    max_length: int = Field(default=1024, gt=1)
    """Longest row in tokens; a longer completion is cut, a row whose prompt alone is longer is dropped and counted."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Compute precision; bfloat16 is autocast over the weights' own dtype."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    warmup_steps: int = Field(default=2, ge=0)
    """Linear warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After warm-up. Constant makes a smaller dose a prefix of a larger one."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradient clipping by global norm."""
    loss_on: Literal["completion", "all"] = "completion"
    """SFT loss on completion (assistant) tokens alone, or on all tokens."""

    @model_validator(mode="after")
    def _check(self) -> TrainingSpec:
        micro = self.micro_batch_rows or self.rows_per_step
        if self.rows_per_step % micro:
            raise ValueError(
                f"micro_batch_rows {micro} does not divide rows_per_step {self.rows_per_step}; choose a divisor"
            )
        return self


class ObjectiveSpec(Spec):
    """A score the sampler improves."""

    score: str
    """Name of a score of the suite."""
    direction: Direction | None = None
    """Default: the score's own."""
    reference: float | None = None
    """Reference point of the hypervolume, the worst value of interest. Default: the score's worst possible value."""


class ConstraintSpec(Spec):
    """A score that must stay within a bound. Exactly one of `at_most` and `at_least`."""

    score: str
    """Name of a score of the suite."""
    at_most: float | None = None
    """Upper bound."""
    at_least: float | None = None
    """Lower bound."""

    @model_validator(mode="after")
    def _check(self) -> ConstraintSpec:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("give exactly one of at_most and at_least")
        return self

    def violation(self, value: float) -> float:
        """Return how far a value is outside the bound, at most 0 when it is inside (Optuna's sign)."""
        if self.at_most is not None:
            return value - self.at_most
        assert self.at_least is not None
        return self.at_least - value


class BaselineSpec(Spec):
    """A recipe that is always tried, before the sampler proposes any."""

    name: Name
    """Shown in the report."""
    order: tuple[str, ...]
    """Influences, first to last; empty is the untouched base."""
    values: dict[str, float | int | str | bool] = Field(default={})
    """Parameters by name, such as `tone.dose_tokens`. What is left out, the sampler draws."""


class SamplerSpec(Spec):
    """Who proposes recipes."""

    name: Literal["stagewise", "tpe", "nsga2", "nsga3", "gp", "random"] = "stagewise"
    """`stagewise` is our own: it learns from every boundary and asks what buys the most hypervolume per second. The
    others are Optuna's."""
    seed: int = Field(default=0, ge=0)
    """Seed of proposals and trainings."""
    cost: Literal["seconds", "tokens"] = "seconds"
    """What `stagewise` counts as cost: measured seconds, or tokens. Seconds differ from run to run, and so may what is
    proposed; with tokens the same study and seed try the same recipes wherever trainings repeat themselves."""
    startup_trials: int | None = Field(default=None, ge=0)
    """Random proposals before the model takes over (tpe, gp). Default: Optuna's."""
    population: int | None = Field(default=None, gt=1)
    """Population size (nsga2, nsga3). Default: Optuna's."""


class BudgetSpec(Spec):
    """What the study may spend; whichever ends first. At least one."""

    trials: int | None = Field(default=None, gt=0)
    """Finished trials, baselines and failed ones included."""
    train_tokens: int | None = Field(default=None, gt=0)
    """Tokens trained over all trials; no trial starts once they are spent."""
    compute_seconds: float | None = Field(default=None, gt=0)
    """Seconds that trials took, those side by side added up; no trial starts once they are spent."""
    wall_seconds: float | None = Field(default=None, gt=0)
    """Seconds over all launches of the study; no trial starts once they are spent."""
    failed_trials: int | None = Field(default=None, ge=0)
    """Failed trials to put up with; one more ends the study with exit code 1. Default: no limit."""

    @model_validator(mode="after")
    def _check(self) -> BudgetSpec:
        limits = (self.trials, self.train_tokens, self.compute_seconds, self.wall_seconds)
        if all(limit is None for limit in limits):
            raise ValueError("is empty; give trials, train_tokens, compute_seconds or wall_seconds")
        return self


class FidelitySpec(Spec):
    """Scoring models on part of the items first: inside stages, and at the end of a recipe.

    The model of a whole recipe is scored on the first items alone. Where it may be on the front even at the optimistic
    end of its intervals, and keep the constraints, it is scored on all; else the trial ends there, as one that was
    stopped early. What is already known of an item is not asked again. Baselines are always scored on all.
    """

    items: float = Field(gt=0, le=1)
    """Share of each evaluator's items, the first of a fixed order: kinds in proportion, groups whole, 8 at least. Tasks
    of the harness keep all of theirs."""
    evaluators: dict[Name, Annotated[float, Field(gt=0, le=1)]] = Field(default={})
    """Evaluators of the suite with a share of their own; 1 is all items."""
    boundaries: bool = False
    """True: also after stages that are not a recipe's last, a model is scored on the first items alone, unless all are
    known. That is cheap and tells samplers less: they learn from prefixes only what was measured on all items."""
    alpha: float = Field(default=0.05, gt=0, le=0.5)
    """Error rate: how often a model may be given up that all items would have put on the front."""
    seed: int = Field(default=0, ge=0)
    """Of the order of items."""

    def shares(self, names: Iterable[str]) -> dict[str, float]:
        """Return the share of items of each evaluator."""
        return {name: self.evaluators.get(name, self.items) for name in names}


class StudySpec(Spec):
    """One search: a space of recipes, objectives, and a budget."""

    name: Name
    """Also the folder under results/."""
    base: BaseSpec
    """The model that every recipe starts from."""
    sources: dict[Name, SourceSpec] = Field(min_length=1)
    """Datasets by name."""
    generalisation: GeneralisationSpec | None = None
    """Kinds of rows that the holdout alone sees. Default: none."""
    allow_leaks: tuple[tuple[str, str], ...] = ()
    """Pairs of sources that may share rows although one is trained on, or searched on, and the other measured. Write
    `retention` for the text that comes with that evaluator."""
    influences: dict[Name, AnyInfluence] = Field(min_length=1)
    """Named combinations of method, adapter, mix and dose."""
    order: OrderSpec = OrderSpec()
    """Which influences run, in what order, how often."""
    training: TrainingSpec = TrainingSpec()
    """How all stages train."""
    suite: dict[Name, EvaluatorSpec] = Field(min_length=1)
    """Evaluators by name; run after every stage."""
    holdout: dict[Name, EvaluatorSpec] = Field(default={})
    """Evaluators that are reported and never shown to the sampler; run after the last stage."""
    objectives: tuple[ObjectiveSpec, ...] = Field(min_length=1)
    """Scores the sampler improves."""
    constraints: tuple[ConstraintSpec, ...] = ()
    """Scores that must stay within a bound."""
    required: tuple[str, ...] = ()
    """Scores of suite or holdout without which a trial fails, as it always does without an objective or a constraint.
    Any other score may be missing: its trial goes on, and the report has the reason."""
    baselines: tuple[BaselineSpec, ...] = ()
    """Recipes that are always tried; the untouched base is one, listed or not."""
    sampler: SamplerSpec = SamplerSpec()
    """Who proposes recipes."""
    budget: BudgetSpec
    """What the study may spend."""
    compute: ComputeSpec = ComputeSpec()
    """Where trials run."""
    stopping: StoppingSpec = StoppingSpec()
    """Whether trials without prospects stop early."""
    generation: GenerationSpec = GenerationSpec()
    """What writes the replies that are scored."""
    fidelity: FidelitySpec | None = None
    """Whether models are scored on part of the items first. Default: always on all."""
    callbacks: tuple[CallbackSpec, ...] = ()
    """Tools that are told of trials, beside the files in results/."""
    store: StoreSpec = StoreSpec()
    """Where results of stages are kept."""
    storage: str | None = None
    """Optuna RDB url; `${NAME}` in it is that environment variable, and a password must be one. Default: SQLite in
    results/<study>/study.db."""

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, storage: str | None) -> str | None:
        return without_secret(storage)

    @property
    def training_influences(self) -> dict[str, InfluenceSpec]:
        """Influences that train, without those that combine models."""
        return {
            name: one for name, one in self.influences.items() if isinstance(one, InfluenceSpec)
        }

    @property
    def full_suite(self) -> dict[str, EvaluatorSpec]:
        """The suite with retention, which every study measures, asked for or not."""
        if any(isinstance(evaluator, RetentionSpec) for evaluator in self.suite.values()):
            return dict(self.suite)
        return {**self.suite, "retention": RetentionSpec(evaluator="retention")}

    @property
    def score_infos(self) -> dict[str, ScoreInfo]:
        """What is known about every score of the suite, by name."""
        return {
            info.name: info
            for name, evaluator in self.full_suite.items()
            for info in evaluator.infos(name)
        }

    def references(self) -> tuple[float | None, ...]:
        """Return the reference point of the hypervolume: what the study says, else a score's worst possible value."""
        infos = self.score_infos
        return tuple(
            infos[objective.score].worst if objective.reference is None else objective.reference
            for objective in self.objectives
        )

    def directions(self) -> tuple[Direction, ...]:
        """Return the direction of each objective, the score's own unless the study says otherwise."""
        infos = self.score_infos
        return tuple(
            objective.direction or infos[objective.score].direction for objective in self.objectives
        )
