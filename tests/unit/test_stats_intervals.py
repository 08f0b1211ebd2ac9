"""Intervals, corrections and counts of items against figures worked out by hand or taken from tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluators.stats import mean_estimate, ratio_estimate
from evaluators.stats.intervals import (
    benjamini_hochberg,
    bootstrap_interval,
    holm,
    t_interval,
    t_p_value,
    t_quantile,
    wilson_interval,
)
from evaluators.stats.resolution import detectable_difference, items_needed, mean_stderr


def test_quantiles_are_those_of_the_tables() -> None:
    assert t_quantile(math.inf) == pytest.approx(1.95996, abs=1e-5)
    assert t_quantile(2) == pytest.approx(4.3027, abs=1e-4)
    assert t_interval(1.0, 0.5, 2) == pytest.approx((1 - 2.15135, 1 + 2.15135), abs=1e-4)


def test_p_value_is_five_percent_at_the_end_of_the_interval() -> None:
    assert t_p_value(4.3027, 1.0, 2) == pytest.approx(0.05, abs=1e-5)
    assert t_p_value(-1.95996, 1.0, math.inf) == pytest.approx(0.05, abs=1e-5)
    assert (t_p_value(0.1, 0.0, 2), t_p_value(0.0, 0.0, 2)) == (0.0, 1.0)


def test_interval_without_degrees_of_freedom_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        t_interval(1.0, 1.0, 0)


def test_wilson_interval_of_all_and_of_half() -> None:
    # z^2 = 3.8415. 8 of 8: low = 1 / (1 + z^2 / 8) = 1 / 1.4802; 2 of 4: half = sqrt(.9604 (.25 + .2401)) / 1.9604
    assert wilson_interval(1.0, 8) == pytest.approx((1 / 1.48018, 1.0), abs=1e-4)
    assert wilson_interval(0.5, 4) == pytest.approx((0.5 - 0.34997, 0.5 + 0.34997), abs=1e-4)


def test_wilson_interval_stays_in_range_and_holds_the_share() -> None:
    for share in (0.0, 1e-9, 0.03, 0.5, 1.0):
        low, high = wilson_interval(share, 7.5, df=2)
        assert 0 <= low <= share <= high <= 1
        assert high - low > 0.1
    with pytest.raises(ValueError, match=r"got 1\.1"):
        wilson_interval(1.1, 8)


def test_clusters_count_once() -> None:
    # Clusters sum to 3 and 9 with two items each: R = 3, residuals -3 and 3, var = 18 / 1 / 2, stderr = 3 / 2.
    assert mean_estimate([1.0, 2.0, 3.0, 6.0], ["a", "a", "b", "b"]) == (3.0, 1.5)
    assert ratio_estimate([1.0, 2.0, 3.0, 6.0], [1.0] * 4, ["a", "a", "b", "b"]) == (3.0, 1.5)
    assert mean_estimate([1.0, 2.0], ["a", "a"]) == (1.5, None)
    with pytest.raises(ValueError, match="2 values and 1 clusters"):
        mean_estimate([1.0, 2.0], ["a"])


def test_bootstrap_of_normal_values_is_close_to_the_interval_of_their_mean() -> None:
    values_N = np.random.default_rng(3).normal(size=200)
    low, high = bootstrap_interval(values_N, seed=1)
    half = 1.96 * values_N.std(ddof=1) / math.sqrt(200)
    assert (low, high) == pytest.approx((values_N.mean() - half, values_N.mean() + half), abs=0.02)
    assert bootstrap_interval(values_N, seed=1) == (low, high)


def test_bootstrap_draws_clusters_whole() -> None:
    # Four equal copies of each value tell no more than one: the interval is as wide as without the copies.
    values_G = np.random.default_rng(4).normal(size=60)
    clusters_N = np.repeat(np.arange(60), 4).tolist()
    alone = bootstrap_interval(values_G, seed=2)
    copied = bootstrap_interval(np.repeat(values_G, 4), clusters_N=clusters_N, seed=2)
    assert copied == pytest.approx(alone)


def test_bootstrap_of_equal_values_is_the_value_and_of_one_cluster_refused() -> None:
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert bootstrap_interval([2.0, 4.0], [1.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="needs two or more"):
        bootstrap_interval([1.0, 2.0], clusters_N=["a", "a"])


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    # .01 x 3, then .03 x 2, then .04 x 1, which may not be below the one before.
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_benjamini_hochberg_by_hand() -> None:
    # Sorted .01 x 3 / 1 = .03, .03 x 3 / 2 = .045, .04 x 3 / 3 = .04, which bounds the one before.
    assert benjamini_hochberg([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert benjamini_hochberg([]).tolist() == []


def test_share_needs_1570_items_to_show_five_points_at_its_worst() -> None:
    # 2 x .25 x (1.95996 + .84162)^2 / .0025 = 1569.8
    assert items_needed(0.05, 0.5) == 1570
    assert items_needed(0.05, 0.5, correlation=0.75) == 393
    assert detectable_difference(1570, 0.5) == pytest.approx(0.05, abs=1e-5)
    assert mean_stderr(0.5, 100) == 0.05


def test_questions_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        items_needed(0.0, 0.5)
    with pytest.raises(ValueError, match="correlation"):
        items_needed(0.1, 0.5, correlation=1.0)
    with pytest.raises(ValueError, match="at least one"):
        mean_stderr(0.5, 0)
