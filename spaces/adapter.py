"""Adapters: which weights a stage moves, decided. spaces/adapter_spec.py has them with values to be searched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from spaces.adapter_spec import AdaLoraSpec as AdaLoraSpec
from spaces.adapter_spec import AdapterSpec as AdapterSpec
from spaces.adapter_spec import FullSpec as FullSpec
from spaces.adapter_spec import LoraSpec as LoraSpec
from spaces.place import FULL_TARGETS, LAYERS_PATTERN, target_modules
from spaces.place import TARGET_MODULES as TARGET_MODULES
from spaces.place import layer_range as layer_range
from spaces.spec import Grown, PositiveInt

Init = Literal["default", "gaussian", "pissa", "olora"]
INITS = ("default", "gaussian", "pissa", "olora")
ON_WEIGHTS = ("pissa", "olora")
"""Initialisations that begin with a part of the weights themselves instead of with no change."""
PositiveFloat = Annotated[float, Field(gt=0)]
Number = TypeVar("Number", int, float)


class Full(Grown):
    """Train the weights themselves."""

    kind: Literal["full"] = "full"
    targets: str = "everything"
    """`everything`, or groups (`all`, `attention`, `mlp`, `embeddings`, `head`, `norms`, `biases`) and module names
    joined by commas."""
    layers: str = Field(default="all", pattern=LAYERS_PATTERN)
    """`all`, or layer numbers with both ends (`0-14`) and shares of the depth (`50%-100%`) joined by commas."""


class Lora(Grown):
    """Train low-rank adapters (Hu et al. 2021, arXiv 2106.09685) beside frozen weights."""

    came_later: ClassVar[tuple[str, ...]] = ("init", "lr_ratio", "ranks", "alphas", "exclude")

    kind: Literal["lora"] = "lora"
    rank: int = Field(gt=0)
    """Rank of the update."""
    alpha: float = Field(gt=0)
    """Scale: the update is multiplied by alpha / rank (alpha / sqrt(rank) with `rslora`)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input while training."""
    dora: bool = False
    """Weight-decomposed LoRA (Liu et al. 2024, arXiv 2402.09353)."""
    rslora: bool = False
    """Rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732)."""
    targets: str = "all"
    """Groups (`all`, `attention`, `mlp`) and module names joined by commas."""
    layers: str = Field(default="all", pattern=LAYERS_PATTERN)
    """`all`, or layer numbers with both ends (`0-14`) and shares of the depth (`50%-100%`) joined by commas."""
    init: Init = "default"
    """Where training begins: `default` and `gaussian` draw A and set B to 0; `pissa` (Meng et al. 2024, arXiv
    2404.02948) and `olora` (Buyukakyuz 2024, arXiv 2406.01775) take both from the weights."""
    lr_ratio: float = Field(default=1.0, gt=0)
    """LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B's learning rate as a multiple of A's."""
    ranks: dict[str, PositiveInt] = Field(default={})
    """Group or module name to its own rank; a module's name counts more than its group's."""
    alphas: dict[str, PositiveFloat] = Field(default={})
    """Group or module name to its own alpha."""
    exclude: str = ""
    """Module names joined by commas that are left alone, such as `lm_head` or `layers.0.mlp.up_proj`."""

    @model_validator(mode="after")
    def _check(self) -> Lora:
        _refuse_full_targets(self.targets)
        if self.dora and self.init in ON_WEIGHTS:
            raise ValueError(
                f"init {self.init} and dora exclude each other: DoRA rescales the very weights that the adapter "
                "begins with; drop one"
            )
        return self


class AdaLora(Grown):
    """Train low-rank adapters whose ranks are allocated while training (Zhang et al. 2023, arXiv 2303.10512).

    All modules begin with `init_rank`; between the first and the last phase what matters least is pruned, until
    `target_rank` is left on average. The phases depend on the number of steps, so a smaller dose is no prefix of a
    larger one. Afterwards the adapter is a plain LoRA with a rank of its own for each module.
    """

    kind: Literal["adalora"] = "adalora"
    init_rank: int = Field(gt=0)
    """Rank of every module at the beginning."""
    target_rank: int = Field(gt=0)
    """Mean rank of the modules at the end; below `init_rank`."""
    alpha: float = Field(gt=0)
    """Scale: the update is multiplied by alpha / init_rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input while training."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps before pruning begins (PEFT's `tinit`)."""
    final_share: float = Field(default=0.3, ge=0, lt=1)
    """Share of the steps after the ranks are settled (PEFT's `tfinal`)."""
    allocate_every_steps: int = Field(default=1, gt=0)
    """Steps between two prunings (PEFT's `deltaT`)."""
    orthogonality: float = Field(default=0.1, ge=0)
    """Weight of the mean distance of A A' and B' B from the identity (PEFT's `orth_reg_weight`)."""
    targets: str = "all"
    """Groups (`all`, `attention`, `mlp`) and module names joined by commas."""
    layers: str = Field(default="all", pattern=LAYERS_PATTERN)
    """`all`, or layer numbers with both ends (`0-14`) and shares of the depth (`50%-100%`) joined by commas."""
    exclude: str = ""
    """Module names joined by commas that are left alone."""

    @model_validator(mode="after")
    def _check(self) -> AdaLora:
        _refuse_full_targets(self.targets)
        if self.target_rank >= self.init_rank:
            raise ValueError(
                f"target_rank {self.target_rank} is not below init_rank {self.init_rank}, so nothing would be "
                "pruned; lower it, or use kind: lora"
            )
        if self.warmup_share + self.final_share >= 1:
            raise ValueError(
                f"warmup_share {self.warmup_share:g} and final_share {self.final_share:g} leave no step for "
                "pruning; make their sum smaller than 1"
            )
        return self


Adapter = Annotated[Full | Lora | AdaLora, Field(discriminator="kind")]
LowRank = Lora | AdaLora


def handoff_conflict(adapter: Full | Lora | AdaLora, handoff: str) -> str | None:
    """Return why a stage with this adapter cannot hand off like that; None if it can."""
    if isinstance(adapter, Full):
        if handoff != "merge":
            return f"handoff {handoff!r} needs an adapter; full weights only merge"
    elif handoff == "continue" and isinstance(adapter, AdaLora):
        return "AdaLoRA has spent its budget of ranks at the end of its stage; use merge, stack or detach"
    elif handoff == "continue" and isinstance(adapter, Lora) and adapter.init in ON_WEIGHTS:
        return (
            f"an adapter with init {adapter.init} becomes its difference to where it began at the end of its "
            "stage; use merge, stack or detach"
        )
    return None


def stack_conflict(adapter: Full | Lora | AdaLora, stacked: Iterable[LowRank]) -> str | None:
    """Return why a stage cannot train beside stacked adapters; None if it can.

    DoRA rescales the weights it lies on together with what else lies there, so its effect is not the sum of parts that
    handoffs rely on.
    """
    others = list(stacked)
    if isinstance(adapter, Full) or not others:
        return None
    if isinstance(adapter, Lora) and adapter.dora:
        return "a DoRA stage cannot train on stacked adapters; hand them off with merge"
    if any(isinstance(other, Lora) and other.dora for other in others):
        return "a LoRA stage cannot train on a stacked DoRA adapter; hand it off with merge"
    return None


def quantised_conflict(adapter: Full | Lora | AdaLora, handoff: str) -> str | None:
    """Return why a stage cannot train on a base of 4 or 8 bits; None if it can.

    Folding an update into rounded weights rounds the update away, and the other cases need the weights themselves.
    """
    if isinstance(adapter, Full):
        return "full weights of a quantised base cannot be trained; use kind: lora"
    if isinstance(adapter, AdaLora):
        return "AdaLoRA does not run on a quantised base; use kind: lora"
    if adapter.init in ON_WEIGHTS or adapter.dora:
        return "init pissa, olora and dora need the weights that a quantised base does not hold; drop them"
    if handoff == "merge":
        return "merging into a quantised base would round the update; use stack, detach or continue"
    return None


def by_module(values: Mapping[str, Number]) -> dict[str, Number]:
    """Return values by module name from values by group or module name; a module's own comes first."""
    own = {name: value for name, value in values.items() if name not in TARGET_MODULES}
    # The larger group first, so that `attention` counts more than `all`.
    groups = sorted(
        (name for name in values if name in TARGET_MODULES), key=lambda g: -len(TARGET_MODULES[g])
    )
    found: dict[str, Number] = {}
    for group in groups:
        found.update(dict.fromkeys(TARGET_MODULES[group], values[group]))
    return found | own


def adapter_label(adapter: Full | Lora | AdaLora) -> str:
    """Return an adapter's kind and size in two words, such as `lora r8` or `adalora r12>4`."""
    if isinstance(adapter, Full):
        return "full"
    if isinstance(adapter, AdaLora):
        return f"adalora r{adapter.init_rank}>{adapter.target_rank}"
    return f"lora r{adapter.rank}"


def _refuse_full_targets(targets: str) -> None:
    only_full = [name for name in target_modules(targets) if name in ("everything", *FULL_TARGETS)]
    if only_full:
        raise ValueError(
            f"targets {only_full[0]!r} is for full adapters; write all, attention, mlp or module names"
        )
