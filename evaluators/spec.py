"""EvaluatorSpec: what an evaluator of study.yaml may say, as frozen, strict models. No torch.

Each evaluator names its sources (`sources`) and its scores (`infos`) before any model is loaded. Those that let the
model write are in `evaluators.reply_specs`, their rules in `evaluators.rule_specs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from evaluators.custom import CustomSpec, entry_points
from evaluators.judging.spec import JudgeSpec
from evaluators.reply_specs import (
    ConsistencySpec,
    DiversitySpec,
    PatternSpec,
    RefusalSpec,
    RewardModelSpec,
    StyleSpec,
)
from evaluators.scores import Direction, ScoreInfo
from evaluators.spec_base import Sources, Spec, infos_of

_MINIMISED_METRICS = frozenset(
    {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"}
)
_SHARE_METRICS = frozenset(
    {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "exact_match", "f1"}
)


class PreferenceSpec(Spec):
    """How often and how far the chosen answer is likelier than the rejected one."""

    evaluator: Literal["preference"]
    source: str
    """Source of format `preference`."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first pairs."""

    def sources(self) -> Sources:
        """Return the sources with the formats that fit."""
        return ((self.source, ("preference",)),)

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return infos_of(
            name,
            ("accuracy", "share", "maximise", 0.0),
            ("margin", "nats/token", "maximise", None),
            ("gain", "nats", "maximise", None),
            ("gain_accuracy", "share", "maximise", 0.0),
        )


class LikelihoodSpec(Spec):
    """Bits per byte of a text."""

    evaluator: Literal["likelihood"]
    source: str
    """Source of format `text`."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first rows."""
    max_tokens: int = Field(default=512, gt=1)
    """Window in tokens; a longer row is scored in windows that do not overlap."""

    def sources(self) -> Sources:
        """Return the sources with the formats that fit."""
        return ((self.source, ("text",)),)

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return (ScoreInfo(name=name, unit="bits/byte", direction="minimise"),)


class RetentionSpec(Spec):
    """What a model has lost of the base: bits per byte of a text against the base, and KL to the base."""

    evaluator: Literal["retention"]
    source: str | None = None
    """Source of format `text`. Default: passages of the Python language reference that ships with Python."""
    limit: int | None = Field(default=16, gt=0)
    """Use only the first passages."""
    max_tokens: int = Field(default=256, gt=1)
    """Window in tokens; a longer passage is scored in windows that do not overlap."""

    def sources(self) -> Sources:
        """Return the sources with the formats that fit."""
        return () if self.source is None else ((self.source, ("text",)),)

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return infos_of(
            name,
            ("bits_per_byte_change", "bits/byte", "minimise", None),
            ("kl", "nats/token", "minimise", None),
        )


class MultipleChoiceSpec(Spec):
    """How often the right one of several given answers is the likeliest."""

    evaluator: Literal["multiple_choice"]
    source: str
    """Source of format `prompt` whose rows also have `choices`, a list of texts, and `answer`, the index of the right
    one from 0, or its text."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first rows."""

    def sources(self) -> Sources:
        """Return the sources with the formats that fit."""
        return ((self.source, ("prompt",)),)

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return infos_of(
            name, ("acc", "share", "maximise", 0.0), ("acc_norm", "share", "maximise", 0.0)
        )


class CostSpec(Spec):
    """What the stages that made a model took, so that cost can be an objective or a constraint.

    Seconds differ from run to run: as an objective they make proposals differ as well.
    """

    evaluator: Literal["cost"]

    def sources(self) -> Sources:
        """Return no sources: it looks at how the model was made."""
        return ()

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return infos_of(
            name,
            ("tokens", "tokens", "minimise", None),
            ("seconds", "s", "minimise", None),
            ("trainable_parameters", "parameters", "minimise", None),
            ("stored_parameters", "parameters", "minimise", None),
            ("peak_memory", "bytes", "minimise", None),
        )


class HarnessSpec(Spec):
    """Tasks and groups of lm-evaluation-harness, one score each."""

    evaluator: Literal["harness"]
    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks, or of groups that have a metric of their own."""
    include_path: str | None = None
    """Folder of task files, relative to the study file; only it is searched. Default: the harness's own tasks."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first rows of each task."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Worked examples before each question; a task that says 0 gets none. Default: the task's own."""
    apply_chat_template: bool = False
    """Wrap questions in the model's chat template."""
    metric: str | None = None
    """Metric and filter, such as `acc,none`. Default: the task's first, whose worst value is then not known."""
    direction: Direction | None = None
    """Default: minimise for perplexities and the like, else maximise. If the harness disagrees, scores are missing."""

    @model_validator(mode="after")
    def _check(self) -> HarnessSpec:
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks repeat a name: {', '.join(self.tasks)}; list each once")
        return self

    def sources(self) -> Sources:
        """Return no sources: tasks bring their own data."""
        return ()

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        metric = self.metric.split(",")[0] if self.metric is not None else None
        is_share = metric in _SHARE_METRICS
        direction: Direction = self.direction or (
            "minimise" if metric in _MINIMISED_METRICS else "maximise"
        )
        return tuple(
            ScoreInfo(
                name=f"{name}.{task}",
                unit="share" if is_share else metric or "task metric",
                direction=direction,
                worst=0.0 if is_share and direction == "maximise" else None,
            )
            for task in self.tasks
        )

    def with_root(self, root: Path) -> HarnessSpec:
        """Return the spec with `include_path` taken relative to `root`."""
        if self.include_path is None:
            return self
        return self.model_copy(update={"include_path": str(root / self.include_path)})


OwnSpec = Annotated[
    PatternSpec
    | DiversitySpec
    | ConsistencySpec
    | RefusalSpec
    | StyleSpec
    | RewardModelSpec
    | JudgeSpec
    | PreferenceSpec
    | MultipleChoiceSpec
    | LikelihoodSpec
    | RetentionSpec
    | CostSpec
    | HarnessSpec,
    Field(discriminator="evaluator"),
]


OWN_SPECS: dict[str, type[Spec]] = {
    get_args(spec.model_fields["evaluator"].annotation)[0]: spec
    for spec in get_args(get_args(OwnSpec)[0])
}
"""What `evaluator:` may say for those of this package."""


def _owner(value: Any) -> str:
    name = value.get("evaluator") if isinstance(value, Mapping) else getattr(value, "evaluator", "")
    is_custom = (
        isinstance(name, str) and name not in OWN_SPECS and (":" in name or name in entry_points())
    )
    return "custom" if is_custom else "own"


EvaluatorSpec = Annotated[
    Annotated[OwnSpec, Tag("own")] | Annotated[CustomSpec, Tag("custom")], Discriminator(_owner)
]


class GenerationSpec(Spec):
    """What writes the replies that evaluators look at."""

    backend: Literal["transformers", "vllm"] = "transformers"
    """`vllm` starts an engine per model on a CUDA card, which pays where a suite lets it write thousands of replies."""
    memory_share: float = Field(default=0.4, gt=0, lt=1)
    """Share of the card's memory for the engine of vllm; the model in training, and other trials, need the rest."""
