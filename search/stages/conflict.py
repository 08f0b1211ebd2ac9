"""Gradients of several losses: how far they contradict each other, and one gradient made of them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from spaces.loss import Arbitration

Gradient = list[Tensor | None]
"""One tensor for each trained parameter; None where a loss does not reach it."""


def take_gradient(parameters: Sequence[torch.nn.Parameter]) -> Gradient:
    """Return the gradients of parameters, which have none afterwards."""
    taken: Gradient = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return taken


def cosines(gradients: Mapping[str, Gradient]) -> dict[str, float]:
    """Return the cosine between the gradients of each two losses, by names such as `sft/dpo`, in [-1, 1].

    A pair is left out where one gradient is zero, since there is no angle.
    """
    norms = {name: norm(gradient) for name, gradient in gradients.items()}
    return {
        f"{first}/{second}": dot(gradients[first], gradients[second])
        / (norms[first] * norms[second])
        for first, second in combinations(gradients, 2)
        if norms[first] > 0 and norms[second] > 0
    }


def combine(
    gradients: Mapping[str, Gradient],
    weights: Mapping[str, float],
    arbitration: Arbitration,
    seed: int,
) -> Gradient:
    """Return one gradient.

    `sum` is the sum of weight * gradient. `normalised` is the sum of weight * gradient / norm. `pcgrad` takes out of
    each weighted gradient what points against the weighted gradient of another loss, the others in random order, and
    sums (Yu et al. 2020, arXiv 2001.06782, algorithm 1).

    Args:
        gradients: Loss to its own gradient, without weight.
        weights: Loss to weight.
        arbitration: Which way.
        seed: Of the order in which `pcgrad` takes the other losses.
    """
    if arbitration == "normalised":
        factors = {}
        for name, gradient in gradients.items():
            length = norm(gradient)
            factors[name] = weights[name] / length if length > 0 else 0.0
        return _sum(_scaled(gradients[name], factors[name]) for name in gradients)
    weighted = {name: _scaled(gradients[name], weights[name]) for name in gradients}
    if arbitration == "sum":
        return _sum(weighted.values())
    draw = random.Random(seed)
    return _sum(_without_conflicts(name, weighted, draw) for name in weighted)


def dot(first: Gradient, second: Gradient) -> float:
    """Return the inner product over all parameters."""
    products = [
        (a.float() * b.float()).sum()
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    ]
    return float(torch.stack(products).sum()) if products else 0.0


def norm(gradient: Gradient) -> float:
    """Return the Euclidean length over all parameters."""
    return math.sqrt(dot(gradient, gradient))


def _without_conflicts(
    name: str, weighted: Mapping[str, Gradient], draw: random.Random
) -> Gradient:
    gradient = weighted[name]
    others = [other for other in weighted if other != name]
    draw.shuffle(others)
    for other in others:
        product, square = dot(gradient, weighted[other]), dot(weighted[other], weighted[other])
        if product < 0 and square > 0:
            gradient = _sum([gradient, _scaled(weighted[other], -product / square)])
    return gradient


def _scaled(gradient: Gradient, factor: float) -> Gradient:
    if factor == 1.0:
        return gradient
    return [None if part is None else part * factor for part in gradient]


def _sum(gradients: Iterable[Gradient]) -> Gradient:
    found: Gradient = []
    for parts in zip(*gradients, strict=True):
        given = [part for part in parts if part is not None]
        total = given[0] if given else None
        for part in given[1:]:
            total = total + part
        found.append(total)
    return found
