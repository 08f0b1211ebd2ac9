"""Adapters as study.yaml has them: every value fixed or to be searched; and the way from params to an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from spaces.params import Parameter, ParamValue, as_parameter
from spaces.place import above_text, below_text
from spaces.spec import (
    BoolValue,
    FloatChoice,
    FloatRange,
    FloatValue,
    IntValue,
    Spec,
    TextChoice,
    TextValue,
)

SPLIT_PREFIX = "split."
"""Begins the names of parameters that several influences share; no influence may be called `split`."""


class SplitSpec(Spec):
    """The part of the model above or below a point: `{above: {low: 0.2, high: 0.8}}`. Exactly one of both."""

    above: FloatValue | None = None
    """Share of the depth, strictly between 0 and 1; the part from there to the top is meant."""
    below: FloatValue | None = None
    """Share of the depth, strictly between 0 and 1; the part from the bottom up to there is meant."""
    split: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """Name of the point. Influences that give the same name and range share it: one trains above, one below."""

    @model_validator(mode="after")
    def _check(self) -> SplitSpec:
        if (self.above is None) == (self.below is None):
            raise ValueError("give exactly one of above and below")
        for share in _extremes(self.point):
            if not 0 < round(100 * share) < 100:
                raise ValueError(f"{share:g} leaves one side without layers; write 0.01 to 0.99")
        return self

    @property
    def point(self) -> Any:
        """The point, fixed or to be searched."""
        return self.above if self.above is not None else self.below

    @property
    def side(self) -> Literal["above", "below"]:
        """Which part is meant."""
        return "above" if self.above is not None else "below"


def _layers_kind(value: Any) -> str:
    if isinstance(value, SplitSpec) or (
        isinstance(value, dict) and ("above" in value or "below" in value or "split" in value)
    ):
        return "split"
    return "choice" if isinstance(value, dict | TextChoice) else "fixed"


LayersValue = Annotated[
    Annotated[str, Tag("fixed")]
    | Annotated[TextChoice, Tag("choice")]
    | Annotated[SplitSpec, Tag("split")],
    Discriminator(_layers_kind),
]


class FullSpec(Spec):
    """Train the weights themselves."""

    kind: Literal["full"]
    targets: TextValue = "everything"
    """`everything`, or groups (`all`, `attention`, `mlp`, `embeddings`, `head`, `norms`, `biases`) and module names
    joined by commas."""
    layers: LayersValue = "all"
    """`all`; layer numbers with both ends (`0-14`) and shares of the depth (`50%-100%`) joined by commas; or the part
    above or below a point (`{above: {low: 0.2, high: 0.8}}`)."""


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
    """Groups (`all`, `attention`, `mlp`) and module names joined by commas."""
    layers: LayersValue = "all"
    """`all`; layer numbers with both ends (`0-14`) and shares of the depth (`50%-100%`) joined by commas; or the part
    above or below a point (`{above: {low: 0.2, high: 0.8}}`)."""
    init: TextValue = "default"
    """Where training begins: `default`, `gaussian`, `pissa` or `olora`."""
    lr_ratio: FloatValue = 1.0
    """LoRA+: B's learning rate as a multiple of A's."""
    ranks: dict[str, IntValue] = Field(default={})
    """Group or module name to its own rank, such as `{attention: 4, mlp: 16}`."""
    alphas: dict[str, FloatValue] = Field(default={})
    """Group or module name to its own alpha."""
    exclude: TextValue = ""
    """Module names joined by commas that are left alone."""


class AdaLoraSpec(Spec):
    """Train low-rank adapters whose ranks are allocated while training."""

    kind: Literal["adalora"]
    init_rank: IntValue = 12
    """Rank of every module at the beginning."""
    target_rank: IntValue = 8
    """Mean rank of the modules at the end; below `init_rank`."""
    alpha: FloatValue = 16.0
    """Scale: the update is multiplied by alpha / init_rank."""
    dropout: FloatValue = 0.0
    """Dropout on the adapter's input while training."""
    warmup_share: FloatValue = 0.1
    """Share of the steps before pruning begins."""
    final_share: FloatValue = 0.3
    """Share of the steps after the ranks are settled."""
    allocate_every_steps: IntValue = 1
    """Steps between two prunings."""
    orthogonality: FloatValue = 0.1
    """Weight of the orthogonality term in the loss."""
    targets: TextValue = "all"
    """Groups (`all`, `attention`, `mlp`) and module names joined by commas."""
    layers: LayersValue = "all"
    """`all`; layer numbers with both ends (`0-14`) and shares of the depth (`50%-100%`) joined by commas; or the part
    above or below a point (`{above: {low: 0.2, high: 0.8}}`)."""
    exclude: TextValue = ""
    """Module names joined by commas that are left alone."""


AdapterSpec = Annotated[FullSpec | LoraSpec | AdaLoraSpec, Field(discriminator="kind")]
AnyAdapterSpec = FullSpec | LoraSpec | AdaLoraSpec
_FLOATS = ("alpha", "dropout", "lr_ratio", "warmup_share", "final_share", "orthogonality")


def adapter_values(prefix: str, spec: AnyAdapterSpec) -> dict[str, Parameter | ParamValue]:
    """Return every value of an adapter by flat field name, fixed or to be searched.

    A rank of its own is `ranks.<name>`; the point of a split is `layers.above` or `layers.below`. Parameters are named
    `<prefix>.<field>`, a named split `split.<name>`.
    """
    values: dict[str, Parameter | ParamValue] = {}
    for field in type(spec).model_fields:
        value = getattr(spec, field)
        if isinstance(value, dict):
            for name, entry in value.items():
                flat = f"{field}.{name}"
                values[flat] = as_parameter(f"{prefix}.{flat}", entry)
        elif isinstance(value, SplitSpec):
            name = f"{prefix}.{field}" if value.split is None else f"{SPLIT_PREFIX}{value.split}"
            values[f"{field}.{value.side}"] = as_parameter(name, value.point)
        else:
            values[field] = as_parameter(f"{prefix}.{field}", value)
    return values


def adapter_data(decided: Mapping[str, ParamValue]) -> dict[str, Any]:
    """Return what `Adapter` is validated from, given decided values by the names of `adapter_values`."""
    data: dict[str, Any] = {}
    for field, value in decided.items():
        head, _, tail = field.partition(".")
        if head == "layers" and tail:
            data[head] = above_text(float(value)) if tail == "above" else below_text(float(value))
        elif tail:
            data.setdefault(head, {})[tail] = float(value) if head == "alphas" else value
        else:
            # 16 and 16.0 are the same alpha, so they must be the same digest.
            data[head] = float(value) if head in _FLOATS else value
    return data


def layers_texts(
    value: str | TextChoice | SplitSpec,
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the `layers` texts that a value can become, each with its place below `layers`; of a range its ends."""
    if isinstance(value, SplitSpec):
        text_of = above_text if value.side == "above" else below_text
        for share in _extremes(value.point):
            yield (value.side,), text_of(share)
    elif isinstance(value, TextChoice):
        for index, text in enumerate(value.choice):
            yield ("choice", index), text
    else:
        yield (), value


def split_conflict(adapters: Mapping[str, AnyAdapterSpec]) -> str | None:
    """Return why the named splits of several influences contradict each other; None if they do not.

    Args:
        adapters: Influence to its adapter.
    """
    seen: dict[str, tuple[str, Any]] = {}
    for influence, adapter in adapters.items():
        layers = adapter.layers
        if not isinstance(layers, SplitSpec) or layers.split is None:
            continue
        first, point = seen.setdefault(layers.split, (influence, layers.point))
        if layers.point != point:
            return (
                f"influences {first} and {influence} give the split {layers.split!r} different ranges; "
                "make them equal, or name them differently"
            )
    return None


def _extremes(value: Any) -> tuple[float, ...]:
    if isinstance(value, FloatRange):
        return (value.low, value.high)
    if isinstance(value, FloatChoice):
        return value.choice
    return () if isinstance(value, BaseModel) or value is None else (float(value),)
