"""Stage: one training step of a recipe, fully decided: method, adapter, mix and dose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from spaces.adapter import Adapter, adapter_label, handoff_conflict
from spaces.loss import (
    SETTINGS,
    Arbitration,
    LossName,
    Term,
    canonical_mix,
    check_mix,
    check_settings,
    check_terms,
    mix_sources,
    mix_text,
    weights_text,
)
from spaces.spec import Grown

Method = Literal["sft", "dpo", "ipo", "orpo", "kto", "simpo", "joint"]
Handoff = Literal["merge", "stack", "detach", "continue"]


class Stage(Grown):
    """One step of a recipe: method, adapter, mix and dose."""

    came_later: ClassVar[tuple[str, ...]] = (
        *("end_mix", "temperature", "max_passes"),
        *("gamma", "desirable_weight", "undesirable_weight"),
        *("terms", "arbitration"),
    )

    influence: str
    """Name of the influence in study.yaml; for people, not part of the digest."""
    method: Method
    """What is optimised."""
    adapter: Adapter
    """Which weights move."""
    mix: dict[str, float] = Field(default={})
    """Source name to share of the dose, at its start if it changes. Shares are positive and sum to 1; empty for
    `joint`, whose terms have their own."""
    end_mix: dict[str, float] | None = None
    """Shares at the end of the dose; in between they move linearly with the tokens consumed. The rows of a smaller
    dose are then no prefix of a larger one's."""
    temperature: float | None = Field(default=None, gt=0)
    """Shares are multiplied by (tokens of the source) ** (1 / temperature) and made to sum to 1 again."""
    max_passes: float | None = Field(default=None, gt=0)
    """Most often that a source's tokens may be consumed; a stage that would need more is refused."""
    dose_tokens: int = Field(gt=0)
    """Training tokens without padding; for pairs both answers count, each with its prompt; for `joint` the tokens of
    all terms."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    beta: float | None = Field(default=None, gt=0)
    """Strength of the pull to the reference (dpo, ipo, kto), weight of the odds ratio (orpo), scale of the reward
    (simpo)."""
    gamma: float | None = Field(default=None, ge=0)
    """Margin of rewards that simpo asks for, in units of the scaled reward."""
    desirable_weight: float | None = Field(default=None, ge=0)
    """Weight of desirable answers (kto)."""
    undesirable_weight: float | None = Field(default=None, ge=0)
    """Weight of undesirable answers (kto)."""
    terms: dict[LossName, Term] = Field(default={})
    """Losses of a joint stage by name."""
    arbitration: Arbitration = "sum"
    """How gradients of a joint stage's losses become one: their weighted `sum`; `pcgrad`, which first takes out of
    each what contradicts another (Yu et al. 2020, arXiv 2001.06782); `normalised`, each to the length of its weight."""
    handoff: Handoff = "merge"
    """What the next stage gets of this stage's adapter."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if (self.method == "joint") != bool(self.terms):
            raise ValueError("terms belong to joint: give them there and only there")
        if self.method == "joint":
            if self.mix or self.end_mix is not None or self.temperature is not None:
                raise ValueError("a joint stage has no mix of its own; give each of its terms one")
            check_terms(self.terms)
        elif self.arbitration != "sum":
            raise ValueError(f"arbitration belongs to joint, and the method is {self.method}")
        else:
            check_mix(self)
        check_settings(self.method, {name: getattr(self, name) for name in SETTINGS})
        conflict = handoff_conflict(self.adapter, self.handoff)
        if conflict is not None:
            raise ValueError(conflict)
        return self

    @property
    def trainings(self) -> tuple[Stage, ...]:
        """All that is trained, here the stage itself; a `Parallel` has several, a `Merge` none."""
        return (self,)

    @property
    def label(self) -> str:
        """The stage in a few words, such as `tone(sft lora r8, 2k)`."""
        where = "" if self.adapter.layers == "all" else f" L{self.adapter.layers}"
        return (
            f"{self.influence}({self.method_text} {adapter_label(self.adapter)}{where}, "
            f"{_thousands(self.dose_tokens)}k)"
        )

    @property
    def losses(self) -> dict[str, Term]:
        """All that the stage optimises: the terms of a joint stage, or its one method with weight 1."""
        if self.method == "joint":
            return {str(name): term for name, term in self.terms.items()}
        shared = ("mix", "end_mix", "temperature", *SETTINGS)
        return {self.method: Term(weight=1.0, **{name: getattr(self, name) for name in shared})}

    @property
    def method_text(self) -> str:
        """The method, with weights where it is `joint`, such as `joint 0.7 sft + 0.3 dpo`."""
        if self.method != "joint":
            return self.method
        how = "" if self.arbitration == "sum" else f" ({self.arbitration})"
        return f"joint {weights_text(self.terms)}{how}"

    @property
    def mix_text(self) -> str:
        """The mix, by loss where the method is `joint`, such as `sft: chat 100%; dpo: pairs 100%`."""
        if self.method != "joint":
            return mix_text(self)
        return "; ".join(
            f"{name}: {mix_text(term)}" for name, term in self.terms.items() if term.mix
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of all sources that the stage may draw from, each once."""
        names = (name for term in self.losses.values() for name in mix_sources(term))
        return tuple(dict.fromkeys(names))

    def streams(self, source_hashes: Mapping[str, str]) -> set[tuple[str, str]]:
        """Return what the stage draws rows from: losses with the content of their sources, as in `canonical`."""
        return {
            (loss, source_hashes.get(name, name))
            for loss, term in self.losses.items()
            if term.is_active
            for name in mix_sources(term)
        }

    def canonical(self, source_hashes: Mapping[str, str], with_dose: bool = True) -> str:
        """Return the stage as JSON with sorted keys: equal text means equal training.

        Args:
            source_hashes: Source name to content hash; stands in for the name, so that renaming changes nothing.
                A source that is not in there keeps its name. Two sources of equal content stay two.
            with_dose: False leaves `dose_tokens`, `max_passes` and `handoff` out. Seeds derive from that form, so a
                smaller dose of the same stage is a prefix of a larger one, step by step, unless mix or weights change
                over the dose.
        """
        left_out = {"influence", "terms"}
        if not with_dose:
            left_out |= {"dose_tokens", "max_passes", "handoff"}
        data = self.model_dump(exclude=left_out)
        data["mix"] = canonical_mix(self, source_hashes)
        data.pop("end_mix", None)  # It is in the mix.
        if self.terms:
            data["terms"] = {
                name: term.model_dump(exclude={"end_mix"})
                | {"mix": canonical_mix(term, source_hashes)}
                for name, term in self.terms.items()
                if term.is_active
            }
        return json.dumps(data, sort_keys=True)


def _thousands(tokens: int) -> str:
    return f"{tokens / 1000:.2g}" if tokens < 99_500 else f"{tokens / 1000:.0f}"
