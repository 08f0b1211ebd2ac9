"""EvaluatorSpec: what an evaluator of study.yaml may say, as frozen, strict models. No torch.

Each evaluator names its sources (`sources`) and its scores (`infos`) before any model is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evaluators.scores import Direction, ScoreInfo

Sources = tuple[tuple[str, tuple[str, ...]], ...]
"""Names of sources, each with the formats an evaluator can read."""

_REGEX_FLAGS = {"ignorecase": re.IGNORECASE, "multiline": re.MULTILINE, "dotall": re.DOTALL}
_MINIMISED_METRICS = frozenset(
    {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"}
)
_SHARE_METRICS = frozenset(
    {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "exact_match", "f1"}
)


class Spec(BaseModel):
    """Base of all specs: frozen, strict, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        populate_by_name=True,
        serialize_by_alias=True,
    )


class RegexRule(Spec):
    """The output matches a regular expression somewhere (`re.search`)."""

    rule: Literal["regex"]
    pattern: str
    """Python regular expression."""
    flags: tuple[Literal["ignorecase", "multiline", "dotall"], ...] = ()
    """As in the `re` module."""
    negate: bool = False
    """True: the output must not match."""

    @model_validator(mode="after")
    def _check(self) -> RegexRule:
        try:
            self.compiled()
        except re.error as error:
            raise ValueError(
                f"pattern {self.pattern!r} is not a regular expression: {error}; mend it"
            ) from None
        return self

    def compiled(self) -> re.Pattern[str]:
        """Return the compiled pattern; `re` keeps recent ones."""
        flags = re.NOFLAG
        for flag in self.flags:
            flags |= _REGEX_FLAGS[flag]
        return re.compile(self.pattern, flags)


class LengthRule(Spec):
    """The output has at least and at most so many units."""

    rule: Literal["length"]
    unit: Literal["characters", "words", "sentences", "lines"]
    """Words are runs of non-space; sentences end with . ! or ? before a space or the end; empty lines do not count."""
    at_least: int | None = Field(default=None, ge=0)
    """Fewest units."""
    at_most: int | None = Field(default=None, ge=0)
    """Most units."""

    @model_validator(mode="after")
    def _check(self) -> LengthRule:
        if self.at_least is None and self.at_most is None:
            raise ValueError("gives no bound; give at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}; swap them")
        return self


class JsonSchemaRule(Spec):
    """The whole output is one JSON value that satisfies a JSON schema (draft 2020-12)."""

    rule: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")
    """The schema; `$ref` may point inside it, never outside."""

    @model_validator(mode="after")
    def _check(self) -> JsonSchemaRule:
        from evaluators.json_schema import schema_fault  # late: jsonschema costs start-up time

        fault = schema_fault(self.schema_)
        if fault is not None:
            raise ValueError(f"schema is not a usable JSON schema: {fault}; mend it")
        return self


class StartsWithRule(Spec):
    """The output starts with a text."""

    rule: Literal["starts_with"]
    text: str = Field(min_length=1)
    """The text; case matters."""


class EndsWithRule(Spec):
    """The output ends with a text."""

    rule: Literal["ends_with"]
    text: str = Field(min_length=1)
    """The text; case matters."""


class ContainsRule(Spec):
    """The output contains a text, or a field of its row. Exactly one of `text` and `field`."""

    rule: Literal["contains"]
    text: str | None = Field(default=None, min_length=1)
    """The text."""
    field: str | None = None
    """Name of a field of the row, such as a gold answer; of a list, one entry must be contained."""
    ignore_case: bool = False
    """True: upper and lower case are the same."""

    @model_validator(mode="after")
    def _check(self) -> ContainsRule:
        if (self.text is None) == (self.field is None):
            raise ValueError("give exactly one of text and field")
        return self


class ForbiddenRule(Spec):
    """The output contains none of some words."""

    rule: Literal["forbidden"]
    words: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Whole words or phrases; case does not matter."""


Rule = Annotated[
    RegexRule
    | LengthRule
    | JsonSchemaRule
    | StartsWithRule
    | EndsWithRule
    | ContainsRule
    | ForbiddenRule,
    Field(discriminator="rule"),
]


class PatternSpec(Spec):
    """Share of generations that satisfy all rules."""

    evaluator: Literal["pattern"]
    source: str
    """Source of format `prompt`; a row may have a `kind` and further fields."""
    rules: tuple[Rule, ...]
    """At least one; all must hold. Rules see the output without surrounding white space."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Longest generation in tokens."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first rows."""
    system: str | None = None
    """System prompt put before prompts that are message lists and have none."""

    @model_validator(mode="after")
    def _check(self) -> PatternSpec:
        if (
            not self.rules
        ):  # not Field(min_length=1), which adds its own error to that of a bad rule
            raise ValueError("rules is empty; give at least one rule")
        return self

    def sources(self) -> Sources:
        """Return the sources with the formats that fit."""
        return ((self.source, ("prompt",)),)

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return (ScoreInfo(name=name, unit="share", direction="maximise", worst=0.0),)


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
        parts = (
            ("accuracy", "share", 0.0),
            ("margin", "nats/token", None),
            ("gain", "nats", None),
            ("gain_accuracy", "share", 0.0),
        )
        return tuple(
            ScoreInfo(name=f"{name}.{part}", unit=unit, direction="maximise", worst=worst)
            for part, unit, worst in parts
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
        return (
            ScoreInfo(name=f"{name}.bits_per_byte_change", unit="bits/byte", direction="minimise"),
            ScoreInfo(name=f"{name}.kl", unit="nats/token", direction="minimise"),
        )


class HarnessSpec(Spec):
    """Tasks of lm-evaluation-harness, one score each."""

    evaluator: Literal["harness"]
    tasks: tuple[str, ...] = Field(min_length=1)
    """Task names."""
    include_path: str | None = None
    """Folder of task files, relative to the study file; only it is searched. Default: the harness's own tasks."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first rows of each task."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Worked examples before each question. Default: the task's own."""
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


EvaluatorSpec = Annotated[
    PatternSpec | PreferenceSpec | LikelihoodSpec | RetentionSpec | HarnessSpec,
    Field(discriminator="evaluator"),
]
