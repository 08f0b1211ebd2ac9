"""Evaluators that let the model write, as study.yaml says them. No torch."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from evaluators.rule_specs import Rule
from evaluators.scores import ScoreInfo
from evaluators.spec_base import Sources, Spec, infos_of


class ReplySpec(Spec):
    """What all evaluators that let the model write have in common."""

    source: str
    """Source of format `prompt`; a row may have a `kind` and further fields."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Longest generation in tokens. Evaluators with equal prompts and limits share their generations."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first rows."""
    system: str | None = None
    """System prompt put before prompts that are message lists and have none."""

    def sources(self) -> Sources:
        """Return the sources with the formats that fit."""
        return ((self.source, ("prompt",)),)

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        raise NotImplementedError


class PatternSpec(ReplySpec):
    """Share of generations that satisfy all rules."""

    evaluator: Literal["pattern"]
    rules: tuple[Rule, ...]
    """At least one; all must hold. Rules see the output without surrounding white space."""
    allow_empty: bool = False
    """True: an empty output passes where the rules hold for it. Else it fails, whatever the rules say."""
    max_repetition: float = Field(default=0.5, ge=0, le=1)
    """An output with a greater share of repeated 4-grams of words fails, whatever the rules say; 1 lets all pass."""

    @model_validator(mode="after")
    def _check(self) -> PatternSpec:
        if (
            not self.rules
        ):  # not Field(min_length=1), which adds its own error to that of a bad rule
            raise ValueError("rules is empty; give at least one rule")
        return self

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return (ScoreInfo(name=name, unit="share", direction="maximise", worst=0.0),)


class DiversitySpec(ReplySpec):
    """How unlike each other generations are, and how much of each is repeated, empty or cut."""

    evaluator: Literal["diversity"]
    repeated_words: int = Field(default=4, ge=1)
    """Length in words of the runs that count as repeated."""

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return infos_of(
            name,
            ("distinct_1", "share", "maximise", 0.0),
            ("distinct_2", "share", "maximise", 0.0),
            ("self_bleu", "BLEU", "minimise", 100.0),
            ("collapse", "share", "minimise", 1.0),
            ("repetition", "share", "minimise", 1.0),
            ("empty", "share", "minimise", 1.0),
            ("cut", "share", "minimise", 1.0),
        )


class ConsistencySpec(ReplySpec):
    """Whether the model gives one answer to prompts that mean the same."""

    evaluator: Literal["consistency"]
    answer: str | None = None
    """Regular expression with one group; its last match is the answer. Default: the whole output."""

    @model_validator(mode="after")
    def _check(self) -> ConsistencySpec:
        if self.answer is None:
            return self
        try:
            n_groups = re.compile(self.answer).groups
        except re.error as error:
            raise ValueError(
                f"answer {self.answer!r} is not a regular expression: {error}; mend it"
            ) from None
        if n_groups != 1:
            raise ValueError(
                f"answer {self.answer!r} has {n_groups} groups; put the answer in one group, (...)"
            )
        return self

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return infos_of(
            name,
            ("agreement", "share", "maximise", 0.0),
            ("answered", "share", "maximise", 0.0),
        )


class RefusalSpec(ReplySpec):
    """How often the model refuses: harmful requests, as it should, and harmless ones, as it should not."""

    evaluator: Literal["refusal"]
    harmful: tuple[str, ...] = ("harmful",)
    """Kinds of rows that are to be refused; empty where there are none."""
    harmless: tuple[str, ...] = ("harmless",)
    """Kinds of rows that are to be answered; empty where there are none."""

    @model_validator(mode="after")
    def _check(self) -> RefusalSpec:
        if not self.harmful and not self.harmless:
            raise ValueError("harmful and harmless are both empty; name a kind of rows")
        both = sorted(set(self.harmful) & set(self.harmless))
        if both:
            raise ValueError(f"kind {both[0]!r} is both harmful and harmless; choose one")
        return self

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        harmful = (("harmful", "share", "maximise", 0.0),) if self.harmful else ()
        harmless = (("harmless", "share", "minimise", 1.0),) if self.harmless else ()
        return (*infos_of(name, *harmful), *infos_of(name, *harmless))


class StyleSpec(ReplySpec):
    """How like one set of texts, and unlike another, generations are: by a classifier fitted to the two."""

    evaluator: Literal["style"]
    more_like: str
    """Source of format `text`: what generations should read like; 20 texts at least."""
    less_like: str
    """Source of format `text`: what they should not read like; 20 texts at least."""
    min_auc: float = Field(default=0.75, gt=0.5, le=1)
    """The score is missing where the classifier's cross-validated AUC is below this, or is no better than chance."""

    def sources(self) -> Sources:
        """Return the sources with the formats that fit."""
        return (
            (self.source, ("prompt",)),
            (self.more_like, ("text",)),
            (self.less_like, ("text",)),
        )

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return (ScoreInfo(name=name, unit="probability", direction="maximise", worst=0.0),)


class RewardModelSpec(ReplySpec):
    """What a reward model says of generations. Exactly one of `path` and `hub`."""

    evaluator: Literal["reward_model"]
    path: str | None = None
    """Folder of a sequence classifier with one output, relative to the study file; weights in safetensors."""
    hub: str | None = None
    """Model id on the Hugging Face hub."""
    revision: str | None = None
    """Commit on the hub; needed with `hub`, so that the scores mean the same tomorrow."""
    max_length: int = Field(default=512, gt=1)
    """Tokens of prompt and reply that the reward model reads; of longer ones the beginning is cut off."""

    @model_validator(mode="after")
    def _check(self) -> RewardModelSpec:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of path and hub")
        if self.hub is not None and re.fullmatch(r"[0-9a-f]{40}", self.revision or "") is None:
            raise ValueError(
                f"hub {self.hub!r} needs revision, a commit of 40 hex digits; add it, so that nobody "
                "can change the scores"
            )
        if self.path is not None and self.revision is not None:
            raise ValueError("revision belongs to hub; remove it")
        return self

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return (ScoreInfo(name=name, unit="reward", direction="maximise"),)
