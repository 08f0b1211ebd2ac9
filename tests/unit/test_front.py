"""Claims about dominance, hypervolume and knee, with expectations worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from search.front import front_mask, hypervolume, knee_heights, knee_index, scale_to_front

# Row 0 is (1, 1). The other row is better (<), equal (=) or worse (>) in each objective:
#   first second | row 0 on the front | other on the front
TRUTH_TABLE = [
    (0.0, 0.0, False, True),  # < <
    (0.0, 1.0, False, True),  # < =
    (0.0, 2.0, True, True),  # < >
    (1.0, 0.0, False, True),  # = <
    (1.0, 1.0, True, True),  # = =
    (1.0, 2.0, True, False),  # = >
    (2.0, 0.0, True, True),  # > <
    (2.0, 1.0, True, False),  # > =
    (2.0, 2.0, True, False),  # > >
]


@pytest.mark.parametrize(("first", "second", "row_0", "other"), TRUTH_TABLE)
def test_dominance_follows_its_truth_table(
    first: float, second: float, row_0: bool, other: bool
) -> None:
    assert front_mask(np.array([[1.0, 1.0], [first, second]])).tolist() == [row_0, other]


def test_duplicates_of_a_front_row_are_all_on_the_front() -> None:
    losses_NK = np.array([[0.0, 1.0], [2.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    assert front_mask(losses_NK).tolist() == [True, False, True, True]


def test_one_objective_keeps_every_minimum() -> None:
    assert front_mask(np.array([[2.0], [1.0], [1.0]])).tolist() == [False, True, True]


def test_no_rows_have_an_empty_front_and_no_volume() -> None:
    assert front_mask(np.zeros((0, 2))).tolist() == []
    assert hypervolume(np.zeros((0, 2)), np.ones(2)) == 0.0


def test_row_with_nan_is_refused_and_named() -> None:
    losses_NK = np.array([[0.0, 1.0], [np.nan, 0.0]])
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        front_mask(losses_NK)
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        hypervolume(losses_NK, np.ones(2))
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        knee_index(losses_NK)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(N, K\)"):
        front_mask(np.zeros(3))
    with pytest.raises(ValueError, match="2 finite numbers"):
        hypervolume(np.zeros((1, 2)), np.ones(3))
    with pytest.raises(ValueError, match="2 finite numbers"):
        hypervolume(np.zeros((1, 2)), np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match="-inf"):
        hypervolume(np.array([[-np.inf, 0.0]]), np.ones(2))


def test_hypervolume_is_the_union_of_boxes() -> None:
    # Up to (4, 4): box of (1, 3) is 3 x 1, of (2, 1) is 2 x 3, and they share 2 x 1: 3 + 6 - 2.
    assert hypervolume(np.array([[1.0, 3.0], [2.0, 1.0]]), np.array([4.0, 4.0])) == 7.0
    # A dominated row adds nothing.
    assert hypervolume(np.array([[1.0, 3.0], [2.0, 1.0], [3.0, 3.0]]), np.array([4.0, 4.0])) == 7.0


def test_rows_outside_the_reference_add_nothing() -> None:
    losses_NK = np.array([[0.0, 4.0], [0.0, 5.0], [3.0, 3.0]])  # on the border, outside, inside
    assert hypervolume(losses_NK, np.array([4.0, 4.0])) == 1.0
    assert hypervolume(losses_NK[:2], np.array([4.0, 4.0])) == 0.0


def test_hypervolume_works_for_one_and_for_five_objectives() -> None:
    assert hypervolume(np.array([[3.0], [1.0]]), np.array([4.0])) == 3.0
    assert hypervolume(np.zeros((1, 5)), np.full(5, 2.0)) == 32.0


def test_scaling_takes_best_and_worst_from_the_front_alone() -> None:
    losses_NK = np.array([[0.0, 20.0], [4.0, 10.0], [8.0, 20.0]])  # the last row is dominated
    assert scale_to_front(losses_NK).tolist() == [[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]]


def test_objective_equal_over_the_front_is_scaled_to_zero() -> None:
    assert scale_to_front(np.array([[3.0, 5.0], [3.0, 5.0]])).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_knee_is_the_front_row_farthest_below_the_line_through_the_ends() -> None:
    # Scaled: ends (0, 1) and (1, 0); (.2, .2) has 1 - .4 = .6, (.5, .1) has .4; divided by sqrt 2.
    losses_NK = np.array([[0.0, 100.0], [5.0, 10.0], [2.0, 20.0], [10.0, 0.0]])
    assert knee_index(losses_NK) == 2
    assert knee_heights(losses_NK) == pytest.approx(np.array([0, 0.4, 0.6, 0]) / np.sqrt(2))


def test_knee_does_not_depend_on_units_or_on_dominated_rows() -> None:
    losses_NK = np.array([[0.0, 100.0], [5.0, 10.0], [2.0, 20.0], [10.0, 0.0]])
    stretched_NK = losses_NK * np.array([1e-3, 1e4]) - 7.0
    assert knee_index(stretched_NK) == 2
    assert knee_index(np.vstack([[50.0, 1000.0], losses_NK])) == 3


def test_hollow_front_has_no_positive_height() -> None:
    losses_NK = np.array([[0.0, 1.0], [0.8, 0.8], [1.0, 0.0]])
    assert knee_heights(losses_NK).max() == pytest.approx(0.0)
    assert knee_index(losses_NK) == 0


def test_plane_of_three_objectives_goes_through_the_three_best_rows() -> None:
    # The extremes are (0, 1, .5) and its rotations: x + y + z = 1.5. The middle row has the sum .9.
    losses_NK = np.array([[0.0, 1.0, 0.5], [0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.3, 0.3, 0.3]])
    assert knee_heights(losses_NK) == pytest.approx([0, 0, 0, 0.6 / np.sqrt(3)])
    assert knee_index(losses_NK) == 3


def test_row_that_is_best_twice_still_leaves_a_knee() -> None:
    # Best in the first two: (0, 0, 1), in the third: (1, 1, 0). Equal intercepts, sum (1 + 1 + 2) / 3.
    losses_NK = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.1, 0.2, 0.3]])
    assert knee_heights(losses_NK) == pytest.approx([0, 0, (4 / 3 - 0.6) / np.sqrt(3)])
    assert knee_index(losses_NK) == 2


@given(arrays(np.float64, (12, 3), elements=st.integers(0, 5).map(float)))
def test_front_agrees_with_the_definition_row_by_row(losses_NK: np.ndarray) -> None:
    expected = [
        not any((other <= row).all() and (other < row).any() for other in losses_NK)
        for row in losses_NK
    ]
    assert front_mask(losses_NK).tolist() == expected
    front_NK = losses_NK[front_mask(losses_NK)]
    reference_K = np.full(3, 6.0)
    assert hypervolume(front_NK, reference_K) == pytest.approx(hypervolume(losses_NK, reference_K))
