"""Recipe, Stage and adapters, fully decided: frozen, ordered, with a canonical form and a digest for every prefix.

A prefix of a recipe is a recipe, so `Recipe.prefix_digests` names every intermediate model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spaces.spec import LAYERS_PATTERN, Spec

Method = Literal["sft", "dpo"]
Handoff = Literal["merge", "stack", "detach", "continue"]

TARGET_MODULES = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""Short names for groups of linear modules, as Llama-like models call them."""


class Full(Spec):
    """Train the weights themselves."""

    kind: Literal["full"] = "full"
    targets: str = "everything"
    """`everything`, a group (`all`, `attention`, `mlp`) or module names joined by commas."""
    layers: str = Field(default="all", pattern=LAYERS_PATTERN)
    """`all`, layer numbers with both ends (`0-14`) or shares of the depth (`50%-100%`)."""


class Lora(Spec):
    """Train low-rank adapters (Hu et al. 2021, arXiv 2106.09685) beside frozen weights."""

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
    """A group (`all`, `attention`, `mlp`) or module names joined by commas."""
    layers: str = Field(default="all", pattern=LAYERS_PATTERN)
    """`all`, layer numbers with both ends (`0-14`) or shares of the depth (`50%-100%`)."""


Adapter = Annotated[Full | Lora, Field(discriminator="kind")]


class Stage(Spec):
    """One step of a recipe: method, adapter, mix and dose."""

    influence: str
    """Name of the influence in study.yaml; for people, not part of the digest."""
    method: Method
    """What is optimised."""
    adapter: Adapter
    """Which weights move."""
    mix: dict[str, float]
    """Source name to share of the dose. Shares are positive and sum to 1."""
    dose_tokens: int = Field(gt=0)
    """Training tokens without padding; for pairs both answers count, each with its prompt."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    beta: float | None = Field(default=None, gt=0)
    """Strength of the pull to the reference; DPO only."""
    handoff: Handoff = "merge"
    """What the next stage gets of this stage's adapter."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if not self.mix or any(share <= 0 for share in self.mix.values()):
            raise ValueError(f"mix shares must be positive, got {self.mix}")
        if abs(sum(self.mix.values()) - 1.0) > 1e-6:
            raise ValueError(f"mix shares sum to {sum(self.mix.values()):.6g}; make them sum to 1")
        if (self.method == "dpo") != (self.beta is not None):
            raise ValueError("beta belongs to dpo: give it there and only there")
        if self.adapter.kind == "full" and self.handoff != "merge":
            raise ValueError(f"handoff {self.handoff!r} needs an adapter; full weights only merge")
        return self

    def canonical(self, source_hashes: Mapping[str, str], with_dose: bool = True) -> str:
        """Return the stage as JSON with sorted keys: equal text means equal training.

        Args:
            source_hashes: Source name to content hash; stands in for the name, so that renaming changes nothing.
                A source that is not in there keeps its name. Two sources of equal content stay two.
            with_dose: False leaves `dose_tokens` and `handoff` out. Seeds derive from that form, so a smaller
                dose of the same stage is a prefix of a larger one, step by step.
        """
        left_out = {"influence"} if with_dose else {"influence", "dose_tokens", "handoff"}
        data = self.model_dump(exclude=left_out)
        data["mix"] = sorted(
            [source_hashes.get(name, name), round(share, 6)] for name, share in self.mix.items()
        )
        return json.dumps(data, sort_keys=True)


class Recipe(Spec):
    """An ordered list of stages on a base model. No stages: the untouched base."""

    stages: tuple[Stage, ...] = ()
    """The stages, first to last."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for number, (stage, following) in enumerate(pairwise(self.stages), 2):
            if stage.handoff == "continue" and following.adapter != stage.adapter:
                raise ValueError(
                    f"stage {number} ({following.influence}) must train on the adapter of stage {number - 1} "
                    f"({stage.influence}), whose handoff is continue, but its own settings differ; make them equal"
                )
        return self

    def prefix(self, n_stages: int) -> Recipe:
        """Return the recipe of the first `n_stages` stages."""
        return Recipe(stages=self.stages[:n_stages])

    def label(self) -> str:
        """Return the recipe in one short line, such as `tone(lora r8, 2.0k) > taste(dpo full, 1.5k)`."""
        return " > ".join(_stage_label(stage) for stage in self.stages) or "base"

    def order_label(self) -> str:
        """Return the influences alone, such as `tone > taste`."""
        return " > ".join(stage.influence for stage in self.stages) or "base"

    def prefix_digests(
        self, context: str = "", source_hashes: Mapping[str, str] | None = None
    ) -> tuple[str, ...]:
        """Return one hex SHA-256 per prefix, from no stage to all stages (length n_stages + 1).

        Args:
            context: Canonical text of all that determines the models beside stages and sources: fingerprint of the
                base, training settings, seed, version of the stage code.
            source_hashes: As in `Stage.canonical`.
        """
        digests = [_sha256(context)]
        for stage in self.stages:
            digests.append(_sha256(digests[-1] + stage.canonical(source_hashes or {})))
        return tuple(digests)

    def stage_seeds(
        self, context: str = "", source_hashes: Mapping[str, str] | None = None
    ) -> tuple[int, ...]:
        """Return a 31-bit seed per stage, from the parent's digest and the stage without its dose.

        Two recipes that share a prefix share its seeds; two doses of one stage after one parent do too.
        """
        digests = self.prefix_digests(context, source_hashes)
        texts = [stage.canonical(source_hashes or {}, with_dose=False) for stage in self.stages]
        return tuple(
            int(_sha256(parent + text)[:8], 16) & 0x7FFFFFFF
            for parent, text in zip(digests, texts, strict=False)
        )


def layer_range(layers: str, n_layers: int) -> range:
    """Return the layer numbers that a `layers` text selects in a model of `n_layers` layers.

    `0-14` counts both ends; `50%-100%` is the half-open share of the depth, rounded to whole layers.

    Raises:
        ValueError: The text selects no layer of such a model.
    """
    if layers == "all":
        return range(n_layers)
    low, high = layers.split("-")
    if low.endswith("%"):
        chosen = range(
            round(int(low[:-1]) * n_layers / 100), round(int(high[:-1]) * n_layers / 100)
        )
    else:
        chosen = range(int(low), int(high) + 1)
    if not chosen or chosen.stop > n_layers:
        raise ValueError(
            f"layers {layers!r} select nothing or too much of a model with {n_layers} layers (0-{n_layers - 1})"
        )
    return chosen


def target_modules(targets: str) -> tuple[str, ...]:
    """Return the module names that a `targets` text means: a group's, or the names joined by commas."""
    return TARGET_MODULES.get(targets) or tuple(name.strip() for name in targets.split(","))


def _stage_label(stage: Stage) -> str:
    adapter = stage.adapter
    weights = "full" if isinstance(adapter, Full) else f"lora r{adapter.rank}"
    where = "" if adapter.layers == "all" else f" L{adapter.layers}"
    return f"{stage.influence}({stage.method} {weights}{where}, {stage.dose_tokens / 1000:.2g}k)"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
