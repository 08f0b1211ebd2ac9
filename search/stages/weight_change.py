"""The change of one weight as arithmetic: how large it is, how many directions it has, what it shares with another.

A change is a tensor, or the factors of a low-rank update: those are never multiplied out. Nothing here knows of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from search.stages.adapters import Factors

Change = Tensor | Factors
"""Of one weight, of its shape (n_out, n_in); vectors and the like are tensors too."""
MOST_DIRECTIONS = 32
"""Most directions that subspaces are compared in."""
ROUNDING = 1e-6
"""A squared singular value below this share of the largest is rounding: it comes from a product in float32."""


class Directions(NamedTuple):
    """How a matrix changed, direction by direction."""

    squares: Tensor
    """Squared singular values, shape (R,), the largest first; what is rounding is 0."""
    left: Tensor
    """The first K left singular vectors, shape (n_out, K): directions of the output."""
    right: Tensor
    """The first K right singular vectors, shape (n_in, K): directions of the input."""


class Chance(NamedTuple):
    """What the overlap of a subspace with a random one is."""

    mean: float
    sd: float


def is_matrix(change: Change) -> bool:
    """Tell whether a change has directions."""
    return isinstance(change, Factors) or change.ndim == 2


def product(first: Change, second: Change) -> float:
    """Return the sum of products of the entries of two changes; of a change with itself, its squared Frobenius norm."""
    if isinstance(first, Factors) and isinstance(second, Factors):
        inner = (_double(first.b).T @ _double(second.b)) * (_double(first.a) @ _double(second.a).T)
        return first.scale * second.scale * float(inner.sum())
    if isinstance(first, Factors):
        return product(second, first)
    if isinstance(second, Factors):
        seen = second.b.float().T @ first.float()
        return second.scale * float((_double(seen) * _double(second.a)).sum())
    one, other = first.flatten(), second.flatten()
    # In parts: a second copy of an embedding in float64 would be the largest thing in memory.
    parts = range(0, len(one), _PART)
    return sum(
        float(_double(one[at : at + _PART]) @ _double(other[at : at + _PART])) for at in parts
    )


def added(first: Factors, second: Factors) -> Factors:
    """Return the factors of the sum of two changes."""
    b = torch.cat([first.b * first.scale, second.b * second.scale], dim=1)
    return Factors(torch.cat([first.a, second.a], dim=0), b, 1.0)


def directions(change: Change, at_most: int = MOST_DIRECTIONS) -> Directions:
    """Return the spectrum of a matrix's change and its leading singular vectors.

    There are as many vectors as the effective rank says, rounded, and no more than `at_most`. Factors go through QR
    decompositions of both (no matrix of the weight's shape appears); a tensor through the smaller of its two products
    with itself, which is several times cheaper than its own decomposition and blind to what is below `ROUNDING`.
    """
    if isinstance(change, Factors):
        left_OR, inner_left = torch.linalg.qr(change.b.float())
        right_IR, inner_right = torch.linalg.qr(change.a.float().T)
        u, s, vh = torch.linalg.svd(inner_left @ inner_right.T * change.scale)
        squares_R = _without_rounding(s.double().square())
        k = _n_directions(squares_R, at_most)
        return Directions(squares_R, left_OR @ u[:, :k], right_IR @ vh[:k].T)
    delta = change.float()
    is_wide = delta.shape[0] < delta.shape[1]
    tall = delta.T if is_wide else delta
    values, vectors = torch.linalg.eigh(tall.T @ tall)
    squares_R = _without_rounding(values.flip(0).double())
    inner = vectors.flip(1)[:, : _n_directions(squares_R, at_most)]
    outer = torch.linalg.qr(tall @ inner).Q
    return Directions(squares_R, *((inner, outer) if is_wide else (outer, inner)))


def effective_rank(squares_R: Tensor) -> float | None:
    """Return how many directions a change has: exp of the entropy of the shares of squared singular values.

    r equal singular values give r. None for a change of 0. Source: Roy and Vetterli 2007, The effective rank (EUSIPCO),
    who take shares of the singular values themselves; squared, the many small ones of training in low precision count
    less.
    """
    total = float(squares_R.sum())
    if total <= 0:
        return None
    shares_R = squares_R[squares_R > 0] / total
    return math.exp(float(-(shares_R * shares_R.log()).sum()))


def stable_rank(squares_R: Tensor) -> float | None:
    """Return the squared Frobenius norm over the squared largest singular value; never above the effective rank.

    Source: Rudelson and Vershynin 2007, Journal of the ACM 54(4). None for a change of 0.
    """
    largest = float(squares_R.max()) if squares_R.numel() else 0.0
    return float(squares_R.sum()) / largest if largest > 0 else None


def overlap(first_NK: Tensor, second_NL: Tensor) -> float:
    """Return how much of the smaller subspace lies in the other one: 1 within it, 0 orthogonal.

    The mean of the squared cosines of the min(K, L) principal angles between the spans of orthonormal columns.
    Source: Hu et al. 2021 (arXiv 2106.09685), eq. 4.
    """
    shared = float((first_NK.T @ second_NL).double().square().sum())
    return min(1.0, shared / min(first_NK.shape[1], second_NL.shape[1]))


def chance_overlap(n: int, k: int, m: int) -> Chance:
    """Return mean and standard deviation of `overlap` between k directions and m random ones among n.

    The trace of the product of a projection of rank k and a random one of rank m has the mean k m / n and the variance
    2 k m (n - k) (n - m) / (n^2 (n - 1) (n + 2)), by the second moments of a uniformly random rotation; a test compares
    it with draws. With k = m = 1 that is the square of a coordinate of a random unit vector, Beta(1/2, (n - 1)/2).

    Raises:
        ValueError: There are no directions, or more than n.
    """
    if not (1 <= k <= n and 1 <= m <= n):
        raise ValueError(f"{k} and {m} directions among {n}; give 1 to {n} of each")
    if n == 1:
        return Chance(1.0, 0.0)
    variance = 2 * k * m * (n - k) * (n - m) / (n * n * (n - 1) * (n + 2))
    return Chance(max(k, m) / n, math.sqrt(variance) / min(k, m))


def mean_chance(chances: Sequence[Chance]) -> Chance:
    """Return mean and standard deviation of the mean of independent overlaps.

    Raises:
        ValueError: There are none.
    """
    if not chances:
        raise ValueError("no overlaps to take the mean of; give one or more")
    n = len(chances)
    return Chance(
        sum(each.mean for each in chances) / n, math.sqrt(sum(each.sd**2 for each in chances)) / n
    )


_PART = 1 << 22


def _double(value: Tensor) -> Tensor:
    return value.detach().to(torch.float64)


def _without_rounding(squares_R: Tensor) -> Tensor:
    largest = squares_R.max() if squares_R.numel() else 0.0
    return torch.where(squares_R > ROUNDING * largest, squares_R, 0.0)


def _n_directions(squares_R: Tensor, at_most: int) -> int:
    found = effective_rank(squares_R)
    return 0 if found is None else max(1, min(at_most, round(found)))
