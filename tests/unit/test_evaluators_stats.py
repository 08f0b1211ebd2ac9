"""Standard errors against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluators.stats import mean_estimate, paired_difference, ratio_estimate, share_estimate


def test_mean_of_one_two_three_six_has_standard_error_s_over_root_n() -> None:
    # mean 3; squared deviations 4 + 1 + 0 + 9 = 14; s^2 = 14 / 3; stderr^2 = 14 / 12
    estimate = mean_estimate([1.0, 2.0, 3.0, 6.0])
    assert estimate.value == 3.0
    assert estimate.stderr == pytest.approx(math.sqrt(14 / 12))


@pytest.mark.parametrize("estimate", [mean_estimate, share_estimate])
def test_one_item_has_a_value_and_no_standard_error(estimate) -> None:
    assert estimate([1.0]) == (1.0, None)


def test_one_cluster_has_a_ratio_and_no_standard_error() -> None:
    assert ratio_estimate([3.0], [2.0]) == (1.5, None)


def test_no_items_are_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        mean_estimate([])


def test_eight_passes_of_eight_are_not_certain() -> None:
    # n' = 12, p' = 10 / 12
    estimate = share_estimate([1.0] * 8)
    assert estimate.value == 1.0
    assert estimate.stderr == pytest.approx(math.sqrt((10 / 12) * (2 / 12) / 12))


def test_half_ties_count_half_in_a_share() -> None:
    # sum 1.5 of 3; n' = 7, p' = 3.5 / 7 = 1/2
    estimate = share_estimate([1.0, 0.5, 0.0])
    assert estimate.value == 0.5
    assert estimate.stderr == pytest.approx(0.5 / math.sqrt(7))


def test_a_share_refuses_values_outside_zero_and_one() -> None:
    with pytest.raises(ValueError, match="0 to 2"):
        share_estimate([0.0, 2.0])


def test_ratio_of_two_rows_by_hand() -> None:
    # R = 6 / 3 = 2; residuals 2 - 2 = 0 and 4 - 4 = 0 for y = (2, 4), x = (1, 2): exactly proportional
    assert ratio_estimate([2.0, 4.0], [1.0, 2.0]) == (2.0, 0.0)
    # R = 4 / 4 = 1; residuals 3 - 1 = 2 and 1 - 3 = -2; var = 8 / 1 / 2 = 4; stderr = 2 / mean(x) = 1
    assert ratio_estimate([3.0, 1.0], [1.0, 3.0]) == (1.0, 1.0)


def test_ratio_needs_equal_counts_and_a_positive_denominator() -> None:
    with pytest.raises(ValueError, match="2 numerators and 1"):
        ratio_estimate([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="sum to 0"):
        ratio_estimate([1.0], [0.0])


def test_ratio_error_agrees_with_the_spread_over_many_samples() -> None:
    generator = np.random.default_rng(0)
    ratios, errors = [], []
    for _ in range(400):
        x_N = generator.uniform(50, 150, size=60)
        y_N = 2 * x_N + generator.normal(0, 20, size=60)
        estimate = ratio_estimate(y_N, x_N)
        ratios.append(estimate.value)
        errors.append(estimate.stderr)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.1)


def test_paired_difference_loses_what_both_models_find_hard() -> None:
    # Differences 1, 0, 1, 2: mean 1, squared deviations 0 + 1 + 0 + 1 = 2; stderr^2 = 2 / 3 / 4
    value, stderr = paired_difference([10.0, 20.0, 31.0, 42.0], [9.0, 20.0, 30.0, 40.0])
    assert (value, stderr) == pytest.approx((1.0, math.sqrt(1 / 6)))
    with pytest.raises(ValueError, match="the same items"):
        paired_difference([1.0], [1.0, 2.0])
