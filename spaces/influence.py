"""InfluenceSpec: a named combination of method, adapter, mix and dose, with values fixed or to be searched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from spaces.recipe import Method
from spaces.spec import BoolValue, FloatValue, IntValue, Spec, TextValue


class FullSpec(Spec):
    """Train the weights themselves."""

    kind: Literal["full"]
    targets: TextValue = "everything"
    """`everything`, a group (`all`, `attention`, `mlp`) or module names joined by commas."""
    layers: TextValue = "all"
    """`all`, layer numbers with both ends (`0-14`) or shares of the depth (`50%-100%`)."""


class LoraSpec(Spec):
    """Train low-rank adapters beside frozen weights."""

    kind: Literal["lora"]
    rank: IntValue = 8
    """Rank of the update."""
    alpha: FloatValue = 16.0
    """Scale: the update is multiplied by alpha / rank (alpha / sqrt(rank) with `rslora`)."""
    dropout: FloatValue = 0.0
    """Dropout on the adapter's input while training."""
    dora: BoolValue = False
    """Weight-decomposed LoRA."""
    rslora: BoolValue = False
    """Rank-stabilised scale."""
    targets: TextValue = "all"
    """A group (`all`, `attention`, `mlp`) or module names joined by commas."""
    layers: TextValue = "all"
    """`all`, layer numbers with both ends (`0-14`) or shares of the depth (`50%-100%`)."""


AdapterSpec = Annotated[FullSpec | LoraSpec, Field(discriminator="kind")]


class ShareRange(Spec):
    """Bounds of one source's share."""

    low: float = Field(default=0.0, ge=0, le=1)
    """Smallest share."""
    high: float = Field(default=1.0, ge=0, le=1)
    """Largest share."""

    @model_validator(mode="after")
    def _check(self) -> ShareRange:
        if self.low > self.high:
            raise ValueError(
                f"range is upside down: low {self.low} is above high {self.high}; swap them"
            )
        return self


def _share_kind(value: Any) -> str:
    return "range" if isinstance(value, dict | ShareRange) else "fixed"


ShareValue = Annotated[
    Annotated[float, Tag("fixed")] | Annotated[ShareRange, Tag("range")], Discriminator(_share_kind)
]


class SimplexSpec(Spec):
    """Shares to be searched: `{simplex: {a: {low: 0.2}, b: {high: 0.5}, c: {}}}`."""

    simplex: dict[str, ShareRange] = Field(min_length=2)
    """Source to bounds of its share; all shares together sum to 1."""

    @model_validator(mode="after")
    def _check(self) -> SimplexSpec:
        low = sum(bounds.low for bounds in self.simplex.values())
        high = sum(bounds.high for bounds in self.simplex.values())
        if low > 1 or high < 1:
            raise ValueError(
                f"no shares sum to 1: the lows sum to {low:g}, the highs to {high:g}; widen them"
            )
        return self


def _mix_kind(value: Any) -> str:
    if isinstance(value, SimplexSpec) or (isinstance(value, dict) and "simplex" in value):
        return "searched"
    return "fixed"


MixValue = Annotated[
    Annotated[dict[str, float], Tag("fixed")] | Annotated[SimplexSpec, Tag("searched")],
    Discriminator(_mix_kind),
]


class InfluenceSpec(Spec):
    """A named combination of method, adapter, mix and dose."""

    method: Method
    """What is optimised: `sft` or `dpo`."""
    adapter: AdapterSpec
    """Which weights move."""
    mix: MixValue
    """Source to share of the dose, fixed (`{chat: 0.7, plain: 0.3}`) or a simplex."""
    dose_tokens: IntValue
    """Training tokens without padding."""
    learning_rate: FloatValue
    """Peak learning rate of AdamW."""
    beta: FloatValue | None = None
    """Strength of the pull to the reference; `dpo` only, where the default is 0.1."""
    handoff: TextValue = "merge"
    """`merge`, `stack`, `detach` or `continue`."""

    @model_validator(mode="after")
    def _check(self) -> InfluenceSpec:
        if self.method != "dpo" and self.beta is not None:
            raise ValueError(f"beta belongs to dpo, and the method is {self.method}; remove beta")
        if isinstance(self.mix, dict):
            if not self.mix or any(share <= 0 for share in self.mix.values()):
                raise ValueError(
                    "mix shares must be positive; leave a source out to give it nothing"
                )
            total = sum(self.mix.values())
            if abs(total - 1) > 1e-6:
                raise ValueError(f"mix shares sum to {total:.6g}; make them sum to 1")
        return self
