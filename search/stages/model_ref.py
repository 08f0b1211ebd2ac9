"""ModelRef: the model that goes from stage to stage, with the adapters that lie on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from spaces.adapter import LowRank
from spaces.recipe import Handoff


class WeightKeeper(Protocol):
    """Keeps original weights, so that the base can be restored after a recipe."""

    def keep(self, names: Iterable[str]) -> None:
        """Remember these parameters as they are in the base, before they change."""

    def is_changed(self, name: str) -> bool:
        """Tell whether a parameter was among those to keep since the base was fresh."""

    def original(self, name: str) -> Any:
        """Return a parameter as it is in the base."""


@dataclass
class StackedAdapter:
    """A low-rank adapter that was not merged."""

    name: str
    """PEFT's adapter name."""
    settings: LowRank
    """As the stage that made it says."""
    handoff: Handoff
    """`stack`, `detach` (off while the next stage trains) or `continue` (trained on by the next stage)."""
    allocation: Any = None
    """The `adalora.Allocation` of an AdaLoRA adapter that trains now."""


@dataclass
class ModelRef:
    """A model between two stages. `model` can be evaluated and generate text at any time."""

    model: Any
    """A `PreTrainedModel`; LoRA layers are injected into it while adapters are stacked."""
    tokenizer: Any
    """Its tokenizer, with a padding token."""
    device: str
    """`cpu` or `cuda`."""
    precision: str
    """`float32` or `bfloat16`, of the computations of a stage."""
    base: WeightKeeper
    """Where the model came from."""
    base_name: str
    """Hub id or folder of the base, for adapters that are saved."""
    tokenizer_hash: str
    """Names the tokenizer and its chat template."""
    adapters: list[StackedAdapter] = field(default_factory=list)
    """Adapters that are not merged, oldest first."""
    n_stages: int = 0
    """Stages trained since the base."""
    is_base_changed: bool = False
    """Whether weights of the base itself moved: by full training or by merging."""
