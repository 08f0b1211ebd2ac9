"""How much each stage of a recipe changed each weight, and what two stages share, from stored stages.

    walk = Walk(base.fresh(), folder)              # folder: for full changes, which may be as large as the model
    for stage, files in stages:
        walk.go(stage, files)                      # the model is now where the stage left it
    rows = walk.rows()                             # plain numbers, a row per weight

Low-rank changes are kept as their factors. Where a change has none (full training, DoRA, models that became one) it is
the difference of the weights, written to files and read back weight by weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from search.stages.adapters import Factors, adapter_factors, lora_layers
from search.stages.combine import changed_weights
from search.stages.model_ref import ModelRef
from search.stages.persist import restore_stage
from search.stages.places import (
    canonical_name,
    full_parameters,
    layer_number,
    lora_modules,
    weight_kinds,
)
from search.stages.save import merged_weight
from search.stages.weight_change import (
    Chance,
    Change,
    Directions,
    added,
    chance_overlap,
    directions,
    effective_rank,
    is_matrix,
    overlap,
    product,
    stable_rank,
)
from spaces.adapter import Full, Lora
from spaces.recipe import Merge, Parallel, Stage


@dataclass(frozen=True)
class Extent:
    """How far one stage moved one weight."""

    square: float
    """Squared Frobenius norm of the change."""
    effective_rank: float | None
    """None for what is no matrix, or did not move."""
    stable_rank: float | None
    """The same."""


@dataclass(frozen=True)
class Shared:
    """What the changes of one weight by two stages have in common."""

    product: float
    """Sum of products of their entries."""
    left: float | None
    """Overlap of their leading output directions; None for what is no matrix."""
    right: float | None
    """Overlap of their leading input directions."""
    left_chance: Chance | None
    """What `left` is between random directions."""
    right_chance: Chance | None
    """The same of `right`."""


@dataclass(frozen=True)
class WeightRow:
    """One weight of the model."""

    name: str
    layer: int | None
    """None outside the decoder layers."""
    kind: str
    n_weights: int
    square: float | None
    """Squared Frobenius norm in the base; None where the base is quantised."""
    stages: tuple[Extent | None, ...]
    """Per stage; None where the stage did not train it."""
    pairs: dict[tuple[int, int], Shared] = field(default_factory=dict)
    """Two stages (from 0) that both moved it to what their changes share."""


class Walk:
    """Goes from the base through stored stages and keeps what each one changed."""

    def __init__(self, ref: ModelRef, folder: Path) -> None:
        """Begin at the base.

        Args:
            ref: The base, fresh.
            folder: Exists, and is the caller's to remove.
        """
        self.ref = ref
        self._folder = folder
        self._factors: list[dict[str, Factors]] = []
        self._files: list[Path | None] = []
        kinds = weight_kinds(ref.model)
        self._weights = [
            WeightRow(
                name, layer_number(name), kinds[name], parameter.numel(), _square(parameter), ()
            )
            for name, parameter in _parameters(ref.model).items()
        ]

    def go(self, stage: Stage | Parallel | Merge, files: Path) -> None:
        """Bring the model to where a stored stage left it, and keep what it changed.

        Raises:
            StageError: The files do not fit this model and stage.
        """
        changes = stage_changes(self.ref, stage, files)
        self._factors.append(
            {name: one for name, one in changes.items() if isinstance(one, Factors)}
        )
        dense = {name: one.contiguous() for name, one in changes.items() if isinstance(one, Tensor)}
        self._files.append(None)
        if dense:
            self._files[-1] = self._folder / f"change-{len(self._files)}.safetensors"
            save_file(dense, self._files[-1])

    def rows(self) -> Iterator[WeightRow]:
        """Yield every weight of the model, whether it moved or not."""
        device = self.ref.device
        with ExitStack() as held:
            files = [
                None if path is None else held.enter_context(safe_open(path, "pt", device=device))
                for path in self._files
            ]
            names = [set() if file is None else set(file.keys()) for file in files]
            for row in self._weights:
                changes: list[Change | None] = [
                    file.get_tensor(row.name)
                    if file is not None and row.name in own
                    else factors.get(row.name)
                    for file, own, factors in zip(files, names, self._factors, strict=True)
                ]
                yield _measured(row, changes)


@torch.no_grad()
def stage_changes(ref: ModelRef, stage: Stage | Parallel | Merge, files: Path) -> dict[str, Change]:
    """Bring the model to where `stage` left it and return what the stage changed, by canonical name of the weight.

    A change is that of the weights in force, with adapters that lie on them; tensors are on the CPU and have the dtype
    of the weights.

    Args:
        ref: The model, where the stage began.
        stage: The stage.
        files: As it was stored.

    Raises:
        StageError: The files do not fit this model and stage.
    """
    if isinstance(stage, Stage) and isinstance(stage.adapter, Full):
        before = {
            name: parameter.detach().clone()
            for name, parameter in full_parameters(ref.model, stage.adapter).items()
        }
        restore_stage(ref, stage, files)
        after = _parameters(ref.model)
        # In place: another copy of the weights would be the largest thing in memory.
        return {name: value.neg_().add_(after[name]).cpu() for name, value in before.items()}
    if not isinstance(stage, Stage):
        before = changed_weights(ref)
        restore_stage(ref, stage, files)
        both = before.keys() | changed_weights(ref).keys()
        after = _parameters(ref.model)
        return {
            name: after[name].cpu()
            - (before[name] if name in before else ref.base.original(name).cpu())
            for name in both
        }
    if isinstance(stage.adapter, Lora) and stage.adapter.dora:
        # DoRA rescales what it lies on: its change is no product of factors.
        names = [f"{path}.weight" for path in lora_modules(ref.model, stage.adapter)]
        before = _in_force(ref.model, names)
        restore_stage(ref, stage, files)
        after = _in_force(ref.model, names)
        return {name: after[name] - before[name] for name in names}
    earlier: dict[str, Factors] = {}
    if ref.adapters and ref.adapters[-1].handoff == "continue":
        earlier = adapter_factors(ref.model, ref.adapters[-1].name)
    found: dict[str, Change] = {}

    def look() -> None:
        for name, own in adapter_factors(ref.model, ref.adapters[-1].name).items():
            start = earlier.get(name)
            found[name] = (
                own if start is None else added(own, Factors(start.a, start.b, -start.scale))
            )

    restore_stage(ref, stage, files, look)
    return found


def _measured(row: WeightRow, changes: list[Change | None]) -> WeightRow:
    squares = [None if change is None else product(change, change) for change in changes]
    found: list[Directions | None] = [
        directions(change) if change is not None and square and is_matrix(change) else None
        for change, square in zip(changes, squares, strict=True)
    ]
    extents = tuple(
        None
        if square is None
        else Extent(
            square,
            effective_rank(own.squares) if own else None,
            stable_rank(own.squares) if own else None,
        )
        for square, own in zip(squares, found, strict=True)
    )
    pairs = {}
    for first, second in combinations(range(len(changes)), 2):
        one, other = changes[first], changes[second]
        if one is not None and other is not None and squares[first] and squares[second]:
            pairs[first, second] = _shared(product(one, other), found[first], found[second])
    return WeightRow(row.name, row.layer, row.kind, row.n_weights, row.square, extents, pairs)


def _shared(inner: float, one: Directions | None, other: Directions | None) -> Shared:
    if one is None or other is None:
        return Shared(inner, None, None, None, None)
    sides = [(one.left, other.left), (one.right, other.right)]
    left, right = (overlap(*side) for side in sides)
    chances = [
        chance_overlap(first.shape[0], first.shape[1], second.shape[1]) for first, second in sides
    ]
    return Shared(inner, left, right, *chances)


@torch.no_grad()
def _square(parameter: Tensor) -> float | None:
    if not parameter.is_floating_point():
        return None
    return float(torch.linalg.vector_norm(parameter, dtype=torch.float64)) ** 2


def _parameters(model: Any) -> dict[str, Tensor]:
    """Return the model's own weights by canonical name."""
    return {
        canonical_name(path): parameter.detach()
        for path, parameter in model.named_parameters()
        if ".lora_" not in path
    }


def _in_force(model: Any, names: list[str]) -> dict[str, Tensor]:
    """Return copies of weights with the active adapters that lie on them."""
    adapted = {f"{canonical_name(path)}.weight": layer for path, layer in lora_layers(model)}
    plain = _parameters(model)
    return {
        name: (merged_weight(adapted[name]) if name in adapted else plain[name].clone()).cpu()
        for name in names
    }
