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
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
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

_CHANGE = "change"
"""Name of the tensor in a file of one change."""


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
        self._places: list[dict[str, Path]] = []
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
        factors: dict[str, Factors] = {}
        places: dict[str, Path] = {}
        for name, change in stage_changes(self.ref, stage, files):
            if isinstance(change, Factors):
                factors[name] = change
                continue
            # A file each: one for all would pass through memory whole.
            places[name] = self._folder / f"{len(self._factors)}-{len(places)}.safetensors"
            save_file({_CHANGE: change.contiguous()}, places[name])
        self._factors.append(factors)
        self._places.append(places)

    def rows(self) -> Iterator[WeightRow]:
        """Yield every weight of the model, whether it moved or not."""
        for row in self._weights:
            changes: list[Change | None] = [
                self._dense(places[row.name]) if row.name in places else factors.get(row.name)
                for places, factors in zip(self._places, self._factors, strict=True)
            ]
            yield _measured(row, changes)

    def _dense(self, path: Path) -> Tensor:
        change: Tensor = load_file(path, device=self.ref.device)[_CHANGE]
        return change


@torch.no_grad()
def stage_changes(
    ref: ModelRef, stage: Stage | Parallel | Merge, files: Path
) -> Iterator[tuple[str, Change]]:
    """Bring the model to where `stage` left it and yield what the stage changed, by canonical name of the weight.

    A change is that of the weights in force, with adapters that lie on them; tensors are on the CPU and have the dtype
    of the weights. The model is where it should be as soon as the first one is yielded.

    Args:
        ref: The model, where the stage began.
        stage: The stage.
        files: As it was stored.

    Raises:
        StageError: The files do not fit this model and stage.
    """
    adapter = stage.adapter if isinstance(stage, Stage) else None
    if isinstance(stage, Stage) and not isinstance(adapter, Full | None):
        if not isinstance(adapter, Lora) or not adapter.dora:
            yield from _factored_changes(ref, stage, files)
            return
        # DoRA rescales what it lies on: its change is no product of factors.
        names = [f"{path}.weight" for path in lora_modules(ref.model, adapter)]
        start = _in_force(ref.model, names)
        restore_stage(ref, stage, files)
        for name, value in _in_force(ref.model, names).items():
            yield name, value - start[name]
        return
    if isinstance(adapter, Full):
        # Adapters that lie on the model stay as they are: the change is that of the weights below.
        names = list(full_parameters(ref.model, adapter))
        plain = _parameters(ref.model)
        start = {name: plain[name].clone() for name in names if ref.base.is_changed(name)}
        restore_stage(ref, stage, files)
        after = _parameters(ref.model)
    else:
        start = changed_weights(ref)
        restore_stage(ref, stage, files)
        after = _parameters(ref.model)
        names = [name for name in after if name in start or ref.base.is_changed(name)]
    for name in names:
        # What no stage had changed is in memory as the base's own, and was not copied.
        earlier = start.pop(name) if name in start else ref.base.original(name)
        yield name, after[name].cpu() - earlier.cpu()


def _factored_changes(ref: ModelRef, stage: Stage, files: Path) -> Iterator[tuple[str, Change]]:
    earlier: dict[str, Factors] = {}
    if ref.adapters and ref.adapters[-1].handoff == "continue":
        earlier = adapter_factors(ref.model, ref.adapters[-1].name)
    found: dict[str, Factors] = {}
    restore_stage(
        ref,
        stage,
        files,
        lambda: found.update(adapter_factors(ref.model, ref.adapters[-1].name)),
    )
    for name, own in found.items():
        start = earlier.get(name)
        yield name, own if start is None else added(own, Factors(start.a, start.b, -start.scale))


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
