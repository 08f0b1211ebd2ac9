"""Changes of one weight with known size, directions and overlap."""

from __future__ import annotations

import math

import pytest
import torch

from search.stages.adapters import Factors
from search.stages.weight_change import (
    added,
    chance_overlap,
    directions,
    effective_rank,
    mean_chance,
    overlap,
    product,
    stable_rank,
)


def dense(factors: Factors) -> torch.Tensor:
    return factors.scale * factors.b @ factors.a


def random_factors(rank: int, seed: int, n_out: int = 24, n_in: int = 40) -> Factors:
    torch.manual_seed(seed)
    return Factors(torch.randn(rank, n_in), torch.randn(n_out, rank), 0.5)


def test_equal_singular_values_count_as_so_many_directions() -> None:
    change = torch.zeros(6, 10)
    change[0, 0] = change[1, 1] = change[2, 2] = -2.0
    found = directions(change)
    assert found.squares[:4].tolist() == pytest.approx([4.0, 4.0, 4.0, 0.0])
    assert effective_rank(found.squares) == pytest.approx(3.0)
    assert stable_rank(found.squares) == pytest.approx(3.0)
    assert (found.left.shape, found.right.shape) == ((6, 3), (10, 3))


def test_unequal_singular_values_count_for_what_they_hold() -> None:
    # Squares 3/4 and 1/4: entropy 0.5623 nats, exp of it 1.7548; stable rank 1 / (3/4).
    squares = torch.tensor([3.0, 1.0, 0.0])
    assert effective_rank(squares) == pytest.approx(4 / 3**0.75)
    assert stable_rank(squares) == pytest.approx(4 / 3)


def test_weight_that_did_not_move_has_no_rank() -> None:
    found = directions(torch.zeros(3, 4))
    assert effective_rank(found.squares) is None
    assert stable_rank(found.squares) is None
    assert found.left.shape == (3, 0)


def test_size_is_the_squared_frobenius_norm() -> None:
    assert product(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.eye(2)) == pytest.approx(7.0)
    change = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    assert product(change, change) == pytest.approx(14.0)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_factors_and_their_product_tell_the_same(shape: tuple[int, int]) -> None:
    one = random_factors(3, 1, *shape)
    other = random_factors(5, 2, *shape)
    kinds = [(one, other), (dense(one), other), (one, dense(other)), (dense(one), dense(other))]
    products = [product(*kind) for kind in kinds]
    assert products == pytest.approx([float((dense(one) * dense(other)).sum())] * 4, rel=1e-4)
    factored, multiplied = directions(one), directions(dense(one))
    assert effective_rank(factored.squares) == pytest.approx(
        effective_rank(multiplied.squares) or 0, rel=1e-4
    )
    assert float(factored.squares.sum()) == pytest.approx(product(one, one), rel=1e-5)
    for side in ("left", "right"):
        first, second = getattr(factored, side), getattr(multiplied, side)
        assert overlap(first, second) == pytest.approx(1.0, abs=1e-4)
        assert torch.allclose(first.T @ first, torch.eye(first.shape[1]), atol=1e-5)


def test_sum_of_factors_is_the_sum_of_changes() -> None:
    one, other = random_factors(2, 1), random_factors(3, 2)
    assert torch.allclose(dense(added(one, other)), dense(one) + dense(other), atol=1e-5)


def test_same_directions_overlap_whole_and_orthogonal_ones_not_at_all() -> None:
    basis = torch.linalg.qr(torch.randn(8, 8)).Q
    assert overlap(basis[:, :3], basis[:, :3] @ torch.linalg.qr(torch.randn(3, 3)).Q) == (
        pytest.approx(1.0)
    )
    assert overlap(basis[:, :3], basis[:, 3:6]) == pytest.approx(0.0, abs=1e-9)
    # One of two directions is shared; and a line at 60 degrees to another has cos^2 = 1/4.
    assert overlap(basis[:, :2], basis[:, 1:4]) == pytest.approx(0.5)
    line = 0.5 * basis[:, :1] + math.sqrt(0.75) * basis[:, 1:2]
    assert overlap(line, basis[:, :1]) == pytest.approx(0.25)


def test_chance_is_what_random_subspaces_have() -> None:
    torch.manual_seed(0)
    fixed = torch.eye(12)[:, :2]
    found = torch.tensor(
        [overlap(fixed, torch.linalg.qr(torch.randn(12, 4)).Q) for _ in range(4000)]
    )
    chance = chance_overlap(12, 2, 4)
    assert chance.mean == pytest.approx(4 / 12)
    # Standard errors over 4000 draws: of the mean sd / 63, of the sd about sd / 89.
    assert float(found.mean()) == pytest.approx(chance.mean, abs=4 * chance.sd / 63)
    assert float(found.std()) == pytest.approx(chance.sd, rel=0.06)
    # All of 12 directions hold any three.
    assert chance_overlap(12, 12, 3) == (1.0, 0.0)
    # A coordinate of a random unit vector squared: variance 2 (n - 1) / (n^2 (n + 2)).
    assert chance_overlap(9, 1, 1).sd == pytest.approx(math.sqrt(2 * 8 / (81 * 11)))
    with pytest.raises(ValueError, match="give 1 to 9"):
        chance_overlap(9, 0, 1)


def test_mean_of_overlaps_scatters_less_than_one() -> None:
    one = chance_overlap(16, 2, 2)
    assert mean_chance([one] * 4) == pytest.approx((one.mean, one.sd / 2))
