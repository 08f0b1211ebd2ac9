"""Combine models that were trained from one parent, weight by weight; nothing is trained.

    branches.append(changed_weights(ref))                           # after each branch, adapters folded in
    load_weights(ref, combined(parent, branches, Combination("ties", (1.0, 1.0), density=0.2)))

One tensor is worked on at a time, in float64, so that a single branch with weight 1 gives that branch; results have the
parent's dtype. What the words mean in detail (how density is rounded, how signs are elected, what is normalised)
follows mergekit 0.1; a test compares the two where mergekit is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from search.errors import StageError
from search.stages.adapters import lora_layers, remove_adapters
from search.stages.model_ref import ModelRef
from search.stages.places import canonical_name
from search.stages.save import merged_weight
from spaces.combine import How

_WORK = torch.float64
_NEARLY_PARALLEL = 0.9995
"""Cosine beyond which slerp interpolates linearly, as in mergekit."""


@dataclass(frozen=True)
class Combination:
    """How branches become one model. A delta is a branch minus the parent."""

    how: How
    """`linear` adds weighted deltas (task arithmetic, Ilharco et al. 2022, arXiv 2212.04089); `ties` keeps the largest
    changes and those that agree in sign (Yadav et al. 2023, arXiv 2306.01708); `dare_linear` and `dare_ties` keep
    random ones (Yu et al. 2023, arXiv 2311.03099); `slerp` goes along the arc between two models; `svd` is linear,
    with the change of each matrix cut to a rank."""
    weights: tuple[float, ...]
    """One per branch; not normalised unless `normalise` says so. For slerp both sum to 1."""
    density: float = 1.0
    """Share of the changes that ties and dare keep, in (0, 1]."""
    scale: float = 1.0
    """Factor of the combined change (`lambda` in mergekit and the papers)."""
    normalise: bool | None = None
    """Divide by the sum of the weights that take part. Default: for ties only."""
    rank: int | None = None
    """Of svd."""
    seed: int = 0
    """Of the random masks of dare; every tensor of every branch has its own."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: A value is out of its range, or missing where `how` needs it.
        """
        if self.how not in get_args(How):
            raise ValueError(
                f"combination {self.how!r} is unknown; known: {', '.join(get_args(How))}"
            )
        if not self.weights:
            raise ValueError("weights are empty; give one per branch")
        if not 0 < self.density <= 1:
            raise ValueError(f"density is {self.density:g}; write a number above 0 and up to 1")
        if self.how == "svd" and (self.rank is None or self.rank < 1):
            raise ValueError(f"svd needs a rank of at least 1, got {self.rank}")
        if self.how == "slerp":
            if len(self.weights) != 2:
                raise ValueError(f"slerp takes two branches, got {len(self.weights)}; use linear")
            if abs(sum(self.weights) - 1) > 1e-6 or min(self.weights) < 0:
                raise ValueError(f"slerp weights {self.weights} must be positive and sum to 1")


def combined(
    parent: Mapping[str, Tensor], branches: Sequence[Mapping[str, Tensor]], settings: Combination
) -> Iterator[tuple[str, Tensor]]:
    """Yield the combined tensors by name, in the parent's dtype, one at a time.

    Only what some branch changed is yielded; the rest is the parent's.

    Args:
        parent: All weights of the parent by name.
        branches: Weights of each branch by name; one that a branch lacks is the parent's.
        settings: How to combine.

    Raises:
        StageError: There are more or fewer branches than weights, or a branch does not fit the parent.
    """
    if len(branches) != len(settings.weights):
        raise StageError(
            f"{len(branches)} branches have {len(settings.weights)} weights; give one weight per branch"
        )
    for number, branch in enumerate(branches, 1):
        for name in branch:
            if name not in parent:
                raise StageError(f"branch {number} has a weight {name!r} that its parent lacks")
    for name in parent:
        if any(name in branch for branch in branches):
            tensors = [branch.get(name, parent[name]) for branch in branches]
            yield name, combine_tensor(name, parent[name], tensors, settings)


def combine_tensor(
    name: str, parent: Tensor, branches: Sequence[Tensor], settings: Combination
) -> Tensor:
    """Return one combined tensor, of the parent's shape and dtype.

    Args:
        name: Of the tensor; random masks depend on it.
        parent: The parent's tensor.
        branches: The branches' tensors.
        settings: How to combine.

    Raises:
        StageError: Shapes differ, or the tensor does not hold real numbers and the branches changed it.
    """
    for number, branch in enumerate(branches, 1):
        if branch.shape != parent.shape:
            raise StageError(
                f"branch {number}: {name} has shape {tuple(branch.shape)}, its parent {tuple(parent.shape)}"
            )
    if not parent.is_floating_point():
        if all(torch.equal(branch, parent) for branch in branches):
            return parent
        raise StageError(f"{name} is {parent.dtype}, which cannot be combined")
    if settings.how == "slerp":
        first, second = (branch.to(parent.device, _WORK) for branch in branches)
        return slerp(first, second, settings.weights[1]).to(parent.dtype)
    start = parent.to(_WORK)
    deltas_M = [branch.to(parent.device, _WORK) - start for branch in branches]
    change = _change(name, deltas_M, settings) * settings.scale
    if settings.how == "svd" and settings.rank is not None:
        change = truncated(change, settings.rank)
    return (start + change).to(parent.dtype)


def largest(delta: Tensor, density: float) -> Tensor:
    """Return a delta with all but the largest changes set to 0.

    max(1, floor(density * n)) of its n entries stay. Source: Yadav et al. 2023 (arXiv 2306.01708), sec. 3, step 1.
    """
    if density >= 1 or delta.numel() == 0:
        return delta
    n_kept = max(1, int(density * delta.numel()))
    kept = delta.abs().flatten().argsort(descending=True)[:n_kept]
    mask = torch.zeros(delta.numel(), dtype=delta.dtype, device=delta.device)
    mask[kept] = 1
    return delta * mask.view_as(delta)


def dropped(delta: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Return a delta with random entries set to 0 and the others enlarged to the same sum of magnitudes.

    Each entry stays with probability `density`. Yu et al. 2023 (arXiv 2311.03099) divide by the density, which gives
    the same sum in expectation; mergekit and this give it exactly.
    """
    if density >= 1:
        return delta
    chances = torch.full(delta.shape, density, dtype=torch.float32)
    masked = delta * torch.bernoulli(chances, generator=generator).to(delta.device, delta.dtype)
    before, after = delta.abs().sum(), masked.abs().sum()
    if before < 1e-7 or after < 1e-7:
        return masked
    return masked * (before / after)


def agreed(weighted_M: Tensor, weights: Sequence[float], is_normalised: bool) -> Tensor:
    """Return the sum over branches of the weighted deltas that have the elected sign.

    The sign of an entry is that of the sum of its weighted deltas; a sum of 0 counts as positive. A weighted delta of 0
    takes no part. Source: Yadav et al. 2023 (arXiv 2306.01708), sec. 3, steps 2 and 3.

    Args:
        weighted_M: Shape (n_branches, ...).
        weights: One per branch.
        is_normalised: Divide each entry by the sum of the weights that take part, where that is not 0.
    """
    elected = torch.where(weighted_M.sum(dim=0) >= 0, 1.0, -1.0)
    takes_part = (weighted_M.sign() == elected).to(weighted_M.dtype)
    total = (weighted_M * takes_part).sum(dim=0)
    if not is_normalised:
        return total
    factors = torch.tensor(weights, dtype=weighted_M.dtype, device=weighted_M.device)
    divisor = (factors.view(-1, *[1] * total.ndim) * takes_part).sum(dim=0)
    return total / torch.where(divisor == 0, 1.0, divisor)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Return the point at `share` of the arc from one tensor to the other, in the plane of both.

    Nearly parallel tensors are interpolated linearly. Branches of one parent mostly are, so that slerp of whole weights
    is then `linear` with weights that sum to 1. Source: Shoemake 1985, https://doi.org/10.1145/325334.325242.
    """
    norms = [tensor.norm() for tensor in (first, second)]
    units = [
        tensor / (norm if norm > 1e-8 else 1.0)
        for tensor, norm in zip((first, second), norms, strict=True)
    ]
    cosine = (units[0] * units[1]).sum().clamp(-1, 1)
    if cosine.abs() > _NEARLY_PARALLEL:
        return (1 - share) * first + share * second
    angle = torch.acos(cosine)
    return (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(
        angle
    )


def truncated(change: Tensor, rank: int) -> Tensor:
    """Return the best approximation of a matrix by one of a rank (Eckart and Young 1936); vectors stay as they are."""
    if change.ndim != 2 or rank >= min(change.shape):
        return change
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    best: Tensor = (u[:, :rank] * s[:rank]) @ vh[:rank]
    return best


@torch.no_grad()
def changed_weights(ref: ModelRef) -> dict[str, Tensor]:
    """Return copies on the CPU of the weights that differ from the base as loaded, stacked adapters folded in.

    Tied weights come once, under the name of their parameter.
    """
    adapted = {f"{canonical_name(path)}.weight": layer for path, layer in lora_layers(ref.model)}
    found = {}
    for path, parameter in ref.model.named_parameters():
        name = canonical_name(path)
        if ".lora_" in path:
            continue
        if name in adapted:
            value = merged_weight(adapted[name])
        elif ref.base.is_changed(name):
            value = parameter.detach().clone()
        else:
            continue
        found[name] = value.cpu()
    return found


@torch.no_grad()
def load_weights(ref: ModelRef, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Put weights into a model in place of its own, such as what `combined` yields; stacked adapters go first.

    Args:
        ref: The model.
        weights: Canonical names and values.

    Raises:
        StageError: The model has no such parameter, or one of another shape.
    """
    remove_adapters(ref.model, [adapter.name for adapter in ref.adapters])
    ref.adapters.clear()
    parameters = dict(ref.model.named_parameters())
    for name, value in weights:
        if name not in parameters or parameters[name].shape != value.shape:
            raise StageError(f"the model has no parameter {name} of shape {tuple(value.shape)}")
        ref.base.keep([name])
        ref.is_base_changed = True
        parameters[name].copy_(value)


def _change(name: str, deltas: Sequence[Tensor], settings: Combination) -> Tensor:
    kept = []
    for number, delta in enumerate(deltas):
        if settings.how == "ties":
            kept.append(largest(delta, settings.density))
        elif settings.how in ("dare_linear", "dare_ties"):
            generator = torch.Generator().manual_seed(mask_seed(settings.seed, name, number))
            kept.append(dropped(delta, settings.density, generator))
        else:
            kept.append(delta)
    is_normalised = settings.how == "ties" if settings.normalise is None else settings.normalise
    weighted = [delta * weight for delta, weight in zip(kept, settings.weights, strict=True)]
    if settings.how in ("ties", "dare_ties"):
        return agreed(torch.stack(weighted), settings.weights, is_normalised)
    total = weighted[0]
    for one in weighted[1:]:
        total = total + one
    divisor = sum(settings.weights)
    return total / divisor if is_normalised and abs(divisor) >= 1e-8 else total


def mask_seed(seed: int, name: str, branch: int) -> int:
    """Return the seed of the random mask of one tensor of one branch, counted from 0."""
    digest = hashlib.sha256(f"{seed}/{branch}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
