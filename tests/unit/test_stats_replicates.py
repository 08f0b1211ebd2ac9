"""Standard errors over seeds and items against figures worked out by hand, and coverage in a small simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluators.stats.replicates import (
    CrossedEstimate,
    Replicated,
    Spread,
    difference_over_replicates,
    mean_over_replicates,
    moderated_spreads,
    pooled_spread,
    share_interval,
    spread_interval,
)


def replicated(items_SN: list[list[float]], **changes: object) -> Replicated:
    values_SN = np.array(items_SN)
    return Replicated(values_SN.mean(axis=1), values_SN, **changes)  # type: ignore[arg-type]


def spread_of(one: Replicated) -> Spread:
    assert one.spread is not None
    return one.spread


def test_mean_adds_what_comes_from_seeds_and_what_comes_from_items() -> None:
    # Rows 2 and 4: variance 2, over 2 seeds 1. Columns 2 and 4: variance 2, over 2 items 1. Nothing else is left.
    one = replicated([[1.0, 3.0], [3.0, 5.0]])
    assert (one.value, one.spread, one.interaction) == (3.0, (2.0, 1), 0.0)
    found = mean_over_replicates(one, spread_of(one))
    assert found.stderr == pytest.approx(math.sqrt(2))
    assert found.df == pytest.approx(1)  # both parts have one degree of freedom


def test_noise_that_is_anew_in_each_replicate_counts_once() -> None:
    # Rows 2 and 4; columns 3 and 3, whose variance is 0 and never less, though the interaction is 4 / 1 / 1.
    one = replicated([[1.0, 3.0], [5.0, 3.0]])
    assert one.interaction == 4.0
    assert mean_over_replicates(one, spread_of(one)).stderr == pytest.approx(1.0)


def test_difference_on_the_same_items_loses_what_they_share() -> None:
    first = replicated([[1.0, 3.0], [3.0, 5.0]])
    second = replicated([[0.0, 2.0], [2.0, 4.0]])
    paired = difference_over_replicates(first, second, spread_of(first), spread_of(second))
    assert (paired.value, paired.stderr) == pytest.approx((1.0, math.sqrt(2)))
    alone = Replicated(second.values, None, item_stderr=1.0)
    unpaired = difference_over_replicates(first, alone, spread_of(first), spread_of(second))
    assert (unpaired.value, unpaired.stderr) == pytest.approx((1.0, 2.0))


def test_base_has_no_spread_between_seeds() -> None:
    base = replicated([[1.0, 3.0]], is_trained=False)
    assert base.spread == (0.0, math.inf)
    trained = replicated([[2.0, 4.0], [4.0, 6.0]])
    found = difference_over_replicates(trained, base, spread_of(trained), spread_of(base))
    assert (found.value, found.stderr) == pytest.approx((2.0, 1.0))
    assert found.df == pytest.approx(1)


def test_items_that_all_pass_are_no_proof_and_count_with_their_own_standard_error() -> None:
    passed = replicated([[1.0, 1.0], [1.0, 1.0]], item_stderr=0.3)
    failed = replicated([[0.0, 0.0], [0.0, 0.0]], item_stderr=0.4)
    zero = Spread(0.0, 1)
    found = difference_over_replicates(passed, failed, zero, zero)
    assert (found.value, found.stderr) == pytest.approx((1.0, 0.5))
    half = replicated(
        [[1.0, 0.0], [1.0, 0.0]], item_stderr=0.7
    )  # items vary by 1/2, over 2 items 1/4
    mixed = difference_over_replicates(half, failed, zero, zero)
    assert mixed.stderr == pytest.approx(math.sqrt(0.25 + 0.16))


def test_single_replicate_tells_no_spread() -> None:
    assert replicated([[1.0, 3.0]]).spread is None


def test_quantile_is_the_weighted_mean_of_the_parts_quantiles() -> None:
    # 1 from seeds with t(1) = 12.7062, 3 from items known for sure with 1.95996: (12.7062 + 3 x 1.95996) / 4 = 4.6465
    one = Replicated(np.array([2.0, 4.0]), None, item_stderr=math.sqrt(3))
    low, high = mean_over_replicates(one, spread_of(one)).interval()
    assert (low, high) == pytest.approx((3 - 2 * 4.6465, 3 + 2 * 4.6465), abs=1e-3)


def test_share_interval_has_a_width_where_all_replicates_agree() -> None:
    low, high = share_interval(CrossedEstimate(1.0, 0.0, math.inf), 8)
    assert (low, high) == pytest.approx((1 / 1.48018, 1.0), abs=1e-4)
    # .25 / .25^2 = 4 effective items: as 2 of 4.
    low, high = share_interval(CrossedEstimate(0.5, 0.25, math.inf), 100)
    assert high - low == pytest.approx(2 * 0.34997, abs=1e-4)


def test_spreads_no_more_unlike_than_chance_are_pooled() -> None:
    assert moderated_spreads([Spread(2.0, 2), Spread(6.0, 2)]) == [Spread(4.0, 4.0)] * 2
    assert moderated_spreads([Spread(2.0, 2)]) == [Spread(2.0, 2)]
    zeros = [Spread(0.0, 2), Spread(0.0, 2)]
    assert moderated_spreads(zeros) == zeros
    base = Spread(0.0, math.inf)
    assert moderated_spreads([base, Spread(2.0, 2), Spread(6.0, 2)])[0] == base


def test_prior_of_many_spreads_is_recovered() -> None:
    # Variances 8 s0^2 / chi2(8) with s0^2 = 0.5, each seen with 4 degrees of freedom.
    draw = np.random.default_rng(5)
    true_M = 8 * 0.5 / draw.chisquare(8, size=4000)
    seen = [Spread(v * x / 4, 4) for v, x in zip(true_M, draw.chisquare(4, size=4000), strict=True)]
    found = moderated_spreads(seen)
    assert found[0].df - 4 == pytest.approx(8, rel=0.15)
    error = np.mean(np.log([each.variance for each in found] / true_M) ** 2)
    assert error < 0.6 * np.mean(np.log([each.variance for each in seen] / true_M) ** 2)


def test_noise_floor_of_two_recipes_by_hand() -> None:
    # (2 x 2 + 6 x 4) / 6; chi2(6) at 2.5 and 97.5 %: 1.2373 and 14.4494
    pooled = pooled_spread([Spread(2.0, 2), Spread(6.0, 4), Spread(0.0, math.inf)])
    assert pooled == pytest.approx((28 / 6, 6))
    assert pooled is not None
    ends = (math.sqrt(28 / 14.4494), math.sqrt(28 / 1.2373))
    assert spread_interval(pooled) == pytest.approx(ends, rel=1e-3)
    assert pooled_spread([Spread(0.0, math.inf)]) is None


def test_intervals_of_600_simulated_pairs_cover_93_to_97_percent() -> None:
    draw = np.random.default_rng(7)
    n_seeds, n_items, holds = 3, 48, []
    for _ in range(150):
        items_N = 0.5 * draw.normal(size=n_items)
        shown = []
        for _ in range(8):
            own_N = 0.3 * draw.normal(size=n_items)
            seeds_S1 = 0.05 * math.exp(0.5 * draw.normal()) * draw.normal(size=(n_seeds, 1))
            noise_SN = 0.5 * draw.normal(size=(n_seeds, n_items))
            shown.append(replicated((items_N + own_N + seeds_S1 + noise_SN).tolist()))
        spreads = moderated_spreads([spread_of(one) for one in shown])
        for at in range(0, 8, 2):
            found = difference_over_replicates(*shown[at : at + 2], *spreads[at : at + 2])
            low, high = found.interval()
            holds.append(low <= 0 <= high)
    assert len(holds) == 600
    assert 0.93 <= np.mean(holds) <= 0.97
