"""Effects, their intervals, and corrections: against figures worked out by hand."""

from __future__ import annotations

import pytest

from search.attribution.noise import (
    Estimate,
    corrected_together,
    effect,
    holm_corrected,
    with_interval,
)


def test_noise_of_a_difference_is_that_of_both_scores() -> None:
    found = effect([(1.0, Estimate(0.7, 0.03**2)), (-1.0, Estimate(0.5, 0.04**2))])
    assert found.value == pytest.approx(0.2)
    assert found.stderr == pytest.approx(0.05)  # 3, 4, 5
    assert (found.low, found.high) == pytest.approx((0.102, 0.298), abs=1e-4)  # 1.96 times 0.05
    assert found.p == pytest.approx(6.33e-5, rel=0.01)  # two-sided, at 4 standard errors


def test_a_few_seeds_widen_the_interval_to_that_of_student() -> None:
    # All of the noise comes from seeds, with 4 degrees of freedom: 2.776 standard errors and not 1.96.
    one = Estimate(0.5, 0.0, seed_variance=0.02**2, seed_df=4)
    found = effect([(1.0, one)])
    assert found.high == pytest.approx(0.5 + 2.776 * 0.02, abs=1e-4)


def test_nothing_is_claimed_where_nobody_knows_how_far_trainings_differ() -> None:
    one, other = Estimate(0.9, 0.01**2), Estimate(0.5, 0.01**2)
    (alone,) = corrected_together([effect([(1.0, one), (-1.0, other)])])
    # The interval of these very models is kept: 0.4 and 1.96 times the root of 2 * 0.01^2.
    assert alone.low == pytest.approx(0.4 - 1.96 * 0.01 * 2**0.5, abs=1e-4)
    assert alone.holm is None
    assert not alone.is_shown
    assert not alone.is_shown_within(0.9)
    assert alone.is_within(0.9)
    seeded = one._replace(seed_variance=0.01**2, seed_df=8)
    (found,) = corrected_together([effect([(1.0, seeded), (-1.0, other)])])
    assert found.is_shown
    assert found.is_shown_within(0.9)


def test_nothing_is_claimed_of_a_score_without_standard_error() -> None:
    found = effect([(1.0, Estimate(0.9, None)), (-1.0, Estimate(0.1, 0.0))])
    assert found.value == pytest.approx(0.8)
    assert (found.stderr, found.low, found.p) == (None, None, None)
    assert not found.is_shown
    assert not found.is_within(1.0)


def test_holm_multiplies_by_how_many_are_left() -> None:
    # Sorted: .01 * 3, .02 * 2, .04 * 1; none may fall below the one before it.
    assert holm_corrected([0.04, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm_corrected([0.03, 0.02]) == pytest.approx([0.04, 0.04])


def test_equivalence_asks_for_the_interval_of_ninety_percent_within_the_margin() -> None:
    # 0.02 + 1.645 * 0.01 = 0.0364; the interval of 95 % would end at 0.0396.
    found = with_interval(0.02, 0.01)
    assert found.is_within(0.037)
    assert not found.is_within(0.036)
    assert not with_interval(0.0, 0.5).is_within(0.1), "noise is no evidence of equality"
