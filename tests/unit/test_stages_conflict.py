"""One gradient made of several, by hand with small vectors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from search.stages.conflict import combine, cosines


def test_pcgrad_takes_out_what_contradicts() -> None:
    # a = (1, 0) and b = (-1, 1) contradict: a without b is a + b / 2 = (.5, .5), b without a is (0, 1).
    a, b = [torch.tensor([1.0]), torch.tensor([0.0])], [torch.tensor([-1.0]), torch.tensor([1.0])]
    gradients, ones = {"a": a, "b": b}, {"a": 1.0, "b": 1.0}
    assert cosines(gradients) == {"a/b": pytest.approx(-1 / math.sqrt(2))}
    assert values(combine(gradients, ones, "pcgrad", 0)) == pytest.approx([0.5, 1.5])
    # b of weight 2 is (-2, 2): a without it is the same, and it without a is (0, 2).
    assert values(combine(gradients, {"a": 1.0, "b": 2.0}, "pcgrad", 0)) == pytest.approx(
        [0.5, 2.5]
    )
    assert values(combine(gradients, {"a": 1.0, "b": 2.0}, "sum", 0)) == pytest.approx([-1.0, 2.0])


def test_pcgrad_leaves_gradients_alone_that_agree() -> None:
    a, b = [torch.tensor([1.0]), None], [torch.tensor([1.0]), torch.tensor([2.0])]
    gradients, ones = {"a": a, "b": b}, {"a": 1.0, "b": 1.0}
    assert values(combine(gradients, ones, "pcgrad", 0)) == [2.0, 2.0]


def test_pcgrad_meets_the_other_losses_in_an_order_drawn_from_the_seed() -> None:
    # a = (1, 0) against b = (-1, 1) and c = (-1, -1): b first gives (.5, .5), which c then turns into (0, 0);
    # c first gives (.5, -.5) and the same; a third dimension makes the order show.
    gradients = {
        "a": [torch.tensor([1.0, 0.0, 0.3])],
        "b": [torch.tensor([-1.0, 1.0, 0.5])],
        "c": [torch.tensor([-1.0, -1.0, -0.2])],
    }
    ones = dict.fromkeys("abc", 1.0)
    found = {
        tuple(round(x, 5) for x in combine(gradients, ones, "pcgrad", seed)[0].tolist())
        for seed in range(20)
    }
    assert len(found) > 1
    first, second = (combine(gradients, ones, "pcgrad", 5)[0].tolist() for _ in range(2))
    assert first == second


def test_no_angle_is_told_where_a_gradient_is_zero() -> None:
    zero = [torch.zeros(2)]
    assert cosines({"sft": [torch.ones(2)], "kl": zero}) == {}
    combined = combine({"sft": [torch.ones(2)], "kl": zero}, {"sft": 1, "kl": 1}, "normalised", 0)
    assert values(combined) == pytest.approx([math.sqrt(0.5)] * 2)


def values(gradient: Any) -> list[float]:
    return [float(number) for part in gradient for number in part.flatten()]
