"""Claims about which rows a dose buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.stages.mix import RowPlan, draw_rows, plan_rows
from search.stages.schedule import rate_share


def plan(
    tokens: Mapping[str, Sequence[int]],
    mix: Mapping[str, float],
    seed: int,
    dose_tokens: int,
    rows_per_step: int,
    hashes: Mapping[str, str] | None = None,
) -> RowPlan:
    """Plan rows with the names as hashes, unless a test says otherwise."""
    names = {name: name for name in mix}
    return plan_rows(tokens, mix, seed, dose_tokens, rows_per_step, hashes or names)


def test_a_dose_ends_at_the_nearest_step() -> None:
    tokens = {"a": [10, 10, 10, 10]}  # steps of two rows: ends at 20, 40, 60, ...
    ends = {dose: plan(tokens, {"a": 1.0}, 0, dose, 2).n_tokens for dose in (1, 29, 30, 31, 50, 51)}
    assert ends == {1: 20, 29: 20, 30: 20, 31: 40, 50: 40, 51: 60}


def test_a_draw_goes_to_the_source_that_lags_most() -> None:
    # a, the larger share, begins: a has 10 of 10. Then b lags (0 of 2.5), then a lags behind (10 of 15), then
    # a again (20 of 22.5), then at 40 tokens both are even (30 of 30, 10 of 10) and the larger share goes first.
    found = plan({"a": [10] * 9, "b": [10] * 9}, {"a": 0.75, "b": 0.25}, 0, 80, 1)
    assert [name for ((name, _),) in found.batches] == list("abaaabaa")
    assert found.tokens_by_source == {"a": 60, "b": 20}
    assert found.passes_by_source == {"a": pytest.approx(60 / 90), "b": pytest.approx(20 / 90)}


def test_shares_are_of_tokens_and_not_of_rows() -> None:
    found = plan({"short": [5] * 100, "long": [50] * 100}, {"short": 0.5, "long": 0.5}, 1, 5000, 1)
    assert found.tokens_by_source["long"] == pytest.approx(2500, abs=50)
    assert found.tokens_by_source["short"] == pytest.approx(2500, abs=50)


def test_each_pass_holds_every_row_once_in_an_order_of_its_own() -> None:
    found = plan({"a": [1] * 20}, {"a": 1.0}, 7, 40, 4)
    rows = [row for batch in found.batches for _, row in batch]
    first, second = rows[:20], rows[20:]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert found.passes_by_source == {"a": 2.0}


def test_another_seed_gives_another_order() -> None:
    orders = {plan({"a": [1] * 20}, {"a": 1.0}, seed, 20, 4).batches for seed in range(5)}
    assert len(orders) == 5


def test_shares_equal_to_six_digits_give_equal_plans() -> None:
    # Even shares: the earlier name goes first, and a difference in the seventh digit does not change that.
    tokens = {"a": [5] * 9, "b": [5] * 9}
    for share in (0.5, 0.4999998):
        found = plan(tokens, {"a": share, "b": 1 - share}, 0, 20, 1)
        assert [name for ((name, _),) in found.batches] == list("abab")


def test_renamed_sources_give_the_same_rows_in_the_same_order() -> None:
    # Even shares, so the first draw is a tie; the names sort one way before and the other way after.
    before = plan(
        {"a": [3, 5, 4], "b": [6, 2]}, {"a": 0.5, "b": 0.5}, 4, 60, 2, {"a": "h1", "b": "h2"}
    )
    after = plan(
        {"z": [3, 5, 4], "b": [6, 2]}, {"b": 0.5, "z": 0.5}, 4, 60, 2, {"z": "h1", "b": "h2"}
    )
    new_names = {"a": "z", "b": "b"}
    assert after.batches == tuple(
        tuple((new_names[name], row) for name, row in batch) for batch in before.batches
    )
    assert after.tokens_by_source == {
        new_names[name]: n for name, n in before.tokens_by_source.items()
    }


def test_a_source_has_its_order_whatever_stands_beside_it() -> None:
    def rows_of_b(mix: dict[str, float]) -> list[int]:
        found = plan({"a": [1] * 9, "b": [1] * 9}, mix, 3, 40, 1)
        return [row for ((name, row),) in found.batches if name == "b"]

    beside_a = rows_of_b({"a": 0.5, "b": 0.5})
    assert rows_of_b({"b": 1.0})[: len(beside_a)] == beside_a


def test_sources_of_equal_content_are_two_and_named_by_share_and_not_by_name() -> None:
    rows, hashes = [1] * 12, {"a": "h", "b": "h"}
    one = plan({"a": rows, "b": rows}, {"a": 0.25, "b": 0.75}, 5, 16, 1, hashes)
    other = plan({"a": rows, "b": rows}, {"b": 0.25, "a": 0.75}, 5, 16, 1, hashes)
    swapped = {"a": "b", "b": "a"}
    assert [(swapped[name], row) for ((name, row),) in one.batches] == [
        row_id for (row_id,) in other.batches
    ]
    assert one.tokens_by_source == {"a": 4, "b": 12}
    even = plan({"a": rows, "b": rows}, {"a": 0.5, "b": 0.5}, 5, 24, 1, hashes)
    orders = {side: [row for ((name, row),) in even.batches if name == side] for side in "ab"}
    assert sorted(orders["a"]) == sorted(orders["b"]) == list(range(12))
    assert orders["a"] != orders["b"]


def test_a_source_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="'b' has no usable rows"):
        plan({"a": [1], "b": []}, {"a": 0.5, "b": 0.5}, 0, 10, 1)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=9), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    small=st.integers(1, 2000),
    more=st.integers(0, 2000),
    n_rows=st.integers(1, 8),
)
def test_a_smaller_dose_is_a_prefix_of_a_larger_one(
    lengths: list[list[int]], seed: int, small: int, more: int, n_rows: int
) -> None:
    tokens = {f"s{at}": rows for at, rows in enumerate(lengths)}
    mix = {name: 1 / len(tokens) for name in tokens}
    less = plan(tokens, mix, seed, small, n_rows)
    larger = plan(tokens, mix, seed, small + more, n_rows)
    assert larger.batches[: len(less.batches)] == less.batches
    assert less.n_tokens == sum(less.tokens_by_source.values())
    # One step more or less would not be nearer to the dose.
    after = islice(
        draw_rows(tokens, mix, seed, {name: name for name in mix}),
        less.n_rows,
        less.n_rows + n_rows,
    )
    n_after = sum(tokens[name][row] for name, row in after)
    assert abs(less.n_tokens - small) <= abs(less.n_tokens + n_after - small)


def test_warm_up_rises_to_the_peak_and_no_step_has_rate_zero() -> None:
    shares = [rate_share(step, 6, 2, "constant") for step in range(6)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])


def test_linear_and_cosine_fall_over_the_steps_after_warm_up() -> None:
    assert [rate_share(step, 6, 2, "linear") for step in range(6)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]
    )
    # cosine: (1 + cos(pi x)) / 2 at x = 0, 1/4, 1/2, 3/4
    assert [rate_share(step, 6, 2, "cosine") for step in range(6)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 0.853553, 0.5, 0.146447], abs=1e-6
    )
