"""Where the stages of a trial moved the model, as frozen records; pure functions over them. No torch.

Squares are squared Frobenius norms: they add up over weights, so every grouping follows from the cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from evaluators.scores import Record

KINDS = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")
"""Kinds of weights in the order of the forward pass; others follow in their own."""
LAST_KINDS = ("norms", "biases", "embeddings", "head")
"""Kinds that stand last."""


class Cell(Record):
    """The weights of one kind in one layer, and how a stage moved them."""

    layer: int | None
    """From 0; None outside the decoder layers."""
    kind: str
    """Such as `q`, `down`, `norms`, `embeddings`."""
    n_weights: int
    """Parameters."""
    base_square: float | None
    """Square of the weights in the base; None where the base is quantised."""
    square: float
    """Square of the stage's change; 0 where it did not train them."""
    effective_rank: float | None
    """exp of the entropy of the shares of squared singular values of the change; the mean over matrices, weighted by
    their squares. None where nothing moved that has a rank."""
    stable_rank: float | None
    """Square of the change over its largest squared singular value; the same mean."""


class Group(Record):
    """Several cells together."""

    n_weights: int
    """Parameters."""
    square: float
    """Square of the change."""
    size: float | None
    """Norm of the change over the norm of the base's weights; None where that is unknown or 0."""
    share: float
    """Share of the square of the whole stage, in [0, 1]; 0 where the stage moved nothing."""
    effective_rank: float | None
    """As in `Cell`."""
    stable_rank: float | None
    """As in `Cell`."""


class Activations(Record):
    """How far hidden states of the probe prompts moved, layer by layer: the embeddings first, then after each layer.

    Each value is the mean over tokens of |h' - h| / |h|. The last is after the final norm, if the model has one.
    """

    from_before: tuple[float, ...]
    """Against the model as the stage received it."""
    from_base: tuple[float, ...]
    """Against the base."""


class StageMoved(Record):
    """How one stage moved the weights."""

    number: int
    """From 1."""
    influence: str
    """Its name in the study."""
    label: str
    """The stage in a few words."""
    digest: str
    """Of the model after it."""
    cells: tuple[Cell, ...]
    """All weights of the model, moved or not."""
    activations: Activations | None = None
    """None where there were no prompts."""

    @property
    def whole(self) -> Group:
        """All weights together."""
        return grouped(self.cells, lambda cell: "all")["all"]


class PairCell(Record):
    """The weights of one kind in one layer that two stages both moved."""

    layer: int | None
    """As in `Cell`."""
    kind: str
    """As in `Cell`."""
    product: float
    """Sum of products of the entries of the two changes."""
    first_square: float
    """Square of the earlier change, of the weights that the later stage moved too."""
    second_square: float
    """The same of the later change."""
    chance_square: float
    """Expected square of `product` if the directions of the changes were random and unrelated."""
    n_matrices: int
    """Matrices that the overlaps are means over."""
    left: float | None
    """Overlap of the leading output directions, in [0, 1]; None where there is no matrix."""
    right: float | None
    """Overlap of the leading input directions."""
    left_chance: float | None
    """What `left` is on average for random directions."""
    right_chance: float | None
    """The same of `right`."""
    left_sd: float | None
    """Standard deviation of `left` for random directions."""
    right_sd: float | None
    """The same of `right`."""

    @property
    def cosine(self) -> float | None:
        """Cosine between the two changes."""
        return _cosine(self.product, self.first_square, self.second_square)


class PairMoved(Record):
    """What the changes of two stages have in common."""

    first: int
    """The earlier stage, from 1."""
    second: int
    """The later one."""
    cosine: float | None
    """Between the two changes, over all weights; below 0 the later one takes back. None where one moved nothing."""
    cosine_sd: float | None
    """Standard deviation of the cosine if the directions were random and unrelated."""
    taken_back: float | None
    """Share of the earlier change that the later one undoes, along it: minus their product over the square of the
    earlier one. Below 0: it goes on in the same direction."""
    shared: float | None
    """Share of the earlier change's square in weights that the later stage moved too."""
    left: float | None
    """Overlap of the leading output directions, mean over the matrices that both moved; None without any."""
    left_chance: float | None
    """The same for random directions."""
    left_sd: float | None
    """Standard deviation of that."""
    right: float | None
    """Overlap of the leading input directions."""
    right_chance: float | None
    """The same for random directions."""
    right_sd: float | None
    """Standard deviation of that."""
    n_matrices: int
    """Matrices that both moved."""
    cells: tuple[PairCell, ...]
    """Where both moved something."""


class Moved(Record):
    """Where the stages of one trial moved the model."""

    trial: int
    """Its number."""
    recipe: str
    """Its recipe in one line."""
    n_layers: int
    """Decoder layers."""
    dtype: str
    """Of the weights, such as `float32`: what is smaller than its rounding did not move."""
    stages: tuple[StageMoved, ...]
    """In order."""
    pairs: tuple[PairMoved, ...]
    """Every two stages."""
    n_prompts: int
    """Probe prompts."""
    n_tokens: int
    """Their tokens together."""
    prompts_from: str
    """Where the prompts are from."""
    seconds: float
    """Wall seconds of measuring, without training."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of weights of the model, in the order of columns."""
        return ordered_kinds({cell.kind for cell in self.stages[0].cells}) if self.stages else ()


Key = TypeVar("Key")


def grouped(cells: Iterable[Cell], key: Callable[[Cell], Key | None]) -> dict[Key, Group]:
    """Return cells added up by key; those whose key is None are left out, and shares are of all cells."""
    every = list(cells)
    total = sum(cell.square for cell in every)
    parts: dict[Key, list[Cell]] = {}
    for cell in every:
        own = key(cell)
        if own is not None:
            parts.setdefault(own, []).append(cell)
    return {own: _group(found, total) for own, found in parts.items()}


def by_layer(stage: StageMoved) -> dict[int, Group]:
    """Return what a stage moved in each decoder layer."""
    return grouped(stage.cells, lambda cell: cell.layer)


def by_kind(stage: StageMoved) -> dict[str, Group]:
    """Return what a stage moved in each kind of weights."""
    return grouped(stage.cells, lambda cell: cell.kind)


def densest_range(shares_L: Sequence[float], least: float) -> range | None:
    """Return the shortest run of layers that holds at least a share; the one that holds most if several are as short.

    Args:
        shares_L: Share of each layer, at least 0.
        least: Such as 0.8.

    Returns:
        None if all layers together hold less.
    """
    n = len(shares_L)
    for length in range(1, n + 1):
        sums = [math.fsum(shares_L[at : at + length]) for at in range(n - length + 1)]
        best = max(range(len(sums)), key=lambda at: sums[at])
        if sums[best] >= least:
            return range(best, best + length)
    return None


def ordered_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return kinds in the order in which tables show them."""
    known = set(kinds)
    first = [kind for kind in KINDS if kind in known]
    last = [kind for kind in LAST_KINDS if kind in known]
    return (*first, *sorted(known - {*first, *last}), *last)


def pair_of(first: StageMoved, second: StageMoved, cells: Sequence[PairCell]) -> PairMoved:
    """Return what two stages have in common from the cells where both moved something."""
    one, other = first.whole.square, second.whole.square
    inner = math.fsum(cell.product for cell in cells)
    chance = math.fsum(cell.chance_square for cell in cells)
    shared = math.fsum(cell.first_square for cell in cells)
    sides = {name: _mean_overlap(cells, name) for name in ("left", "right")}
    return PairMoved(
        first=first.number,
        second=second.number,
        cosine=_cosine(inner, one, other),
        cosine_sd=math.sqrt(chance / (one * other)) if one and other else None,
        taken_back=-inner / one if one else None,
        shared=min(1.0, shared / one) if one else None,
        **{
            f"{name}{part}": value
            for name, values in sides.items()
            for part, value in zip(("", "_chance", "_sd"), values, strict=True)
        },
        n_matrices=sum(cell.n_matrices for cell in cells),
        cells=tuple(cells),
    )


def pair_cells(pair: PairMoved) -> Mapping[tuple[int | None, str], PairCell]:
    """Return the cells of a pair by layer and kind."""
    return {(cell.layer, cell.kind): cell for cell in pair.cells}


def _group(cells: Sequence[Cell], total: float) -> Group:
    square = math.fsum(cell.square for cell in cells)
    bases = [cell.base_square for cell in cells]
    base = math.fsum(each for each in bases if each is not None) if None not in bases else 0.0
    return Group(
        n_weights=sum(cell.n_weights for cell in cells),
        square=square,
        size=math.sqrt(square / base) if base > 0 else None,
        share=square / total if total > 0 else 0.0,
        effective_rank=weighted_mean((cell.effective_rank, cell.square) for cell in cells),
        stable_rank=weighted_mean((cell.stable_rank, cell.square) for cell in cells),
    )


def weighted_mean(pairs: Iterable[tuple[float | None, float]]) -> float | None:
    """Return the mean of the values that are there, by their weights; None if there are none."""
    known = [(value, weight) for value, weight in pairs if value is not None]
    total = math.fsum(weight for _, weight in known)
    return math.fsum(value * weight for value, weight in known) / total if total > 0 else None


def _cosine(inner: float, one: float, other: float) -> float | None:
    return max(-1.0, min(1.0, inner / math.sqrt(one * other))) if one and other else None


def _mean_overlap(
    cells: Sequence[PairCell], side: str
) -> tuple[float | None, float | None, float | None]:
    """Return the mean overlap over matrices, the mean by chance, and the standard deviation of that mean."""
    known = [cell for cell in cells if cell.n_matrices]
    n = sum(cell.n_matrices for cell in known)
    if not n:
        return None, None, None
    values = [
        [getattr(cell, f"{side}{part}") * cell.n_matrices for cell in known]
        for part in ("", "_chance", "_sd")
    ]
    mean, chance = (math.fsum(each) / n for each in values[:2])
    return mean, chance, math.sqrt(math.fsum(each**2 for each in values[2])) / n
