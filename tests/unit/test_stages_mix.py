"""Claims about which rows a dose buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.stages.mix import (
    RowPlan,
    StagePlan,
    draw_rows,
    passes_conflict,
    plan_rows,
    plan_stage,
    size_shares,
)
from search.stages.schedule import rate_share
from spaces.loss import Term


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


def steps(
    losses: dict[str, Term], tokens: dict[str, dict[str, list[int]]], dose: int, rows: int = 2
) -> StagePlan:
    names = {name: name for counts in tokens.values() for name in counts}
    return plan_stage(losses, tokens, 0, dose, rows, names)


def shares_by_quarter(term: Term, tokens: dict[str, list[int]], dose: int) -> list[float]:
    """Return the share of `a` in each quarter of the rows."""
    found = [
        row for step in steps({"x": term}, {"x": tokens}, dose).steps for row in step.rows["x"]
    ]
    n = len(found) // 4
    return [[name for name, _ in found[k * n : (k + 1) * n]].count("a") / n for k in range(4)]


def test_a_mix_moves_linearly_from_start_to_end() -> None:
    # The share of a is 1 - p at progress p, so its quarters have 7/8, 5/8, 3/8 and 1/8.
    term = Term(weight=1.0, mix={"a": 1.0}, end_mix={"b": 1.0})
    found = shares_by_quarter(term, {"a": [1] * 50, "b": [1] * 50}, 400)
    assert found == pytest.approx([0.875, 0.625, 0.375, 0.125], abs=0.021)


def test_an_end_mix_equal_to_the_start_changes_nothing() -> None:
    tokens = {"x": {"a": [3, 5, 2, 8], "b": [7, 1]}}
    mix = {"a": 0.7, "b": 0.3}
    constant, moving = (
        steps({"x": Term(weight=1.0, mix=mix, end_mix=end)}, tokens, 300) for end in (None, mix)
    )
    assert constant == moving


def test_rows_of_a_moving_mix_depend_on_the_dose() -> None:
    term = Term(weight=1.0, mix={"a": 1.0}, end_mix={"b": 1.0})
    small, large = (steps({"x": term}, {"x": {"a": [1], "b": [1]}}, dose) for dose in (20, 80))
    assert small.steps != large.steps[: len(small.steps)]


def test_temperature_flattens_the_shares_of_the_sizes() -> None:
    tokens = {"a": [10] * 90, "b": [10] * 10}
    even = {"a": 0.5, "b": 0.5}
    assert size_shares(even, tokens, 1.0) == pytest.approx({"a": 0.9, "b": 0.1})
    # Square roots of 900 and 100 are 30 and 10.
    assert size_shares(even, tokens, 2.0) == pytest.approx({"a": 0.75, "b": 0.25})
    assert size_shares(even, tokens, 1e9) == pytest.approx(even)
    term = Term(weight=1.0, mix=even, temperature=2.0)
    assert steps({"x": term}, {"x": tokens}, 400).tokens_by_source == {"a": 300, "b": 100}


def test_each_loss_with_a_weight_draws_the_rows_of_a_step_and_all_count() -> None:
    losses = {
        "sft": Term(weight=1.0, mix={"a": 1.0}),
        "dpo": Term(weight=0.5, mix={"b": 1.0}),
        "kl": Term(weight=0.1),
    }
    found = steps(losses, {"sft": {"a": [10] * 4}, "dpo": {"b": [5] * 4}}, 90)
    assert [sorted(step.rows) for step in found.steps] == [["dpo", "sft"]] * 3
    assert found.steps[0].weights == {"sft": 1.0, "dpo": 0.5, "kl": 0.1}
    assert found.n_tokens == 3 * (2 * 10 + 2 * 5)
    assert found.tokens_by_source == {"a": 60, "b": 30}
    assert found.n_rows == 12


def test_weights_move_with_the_tokens_consumed() -> None:
    losses = {
        "sft": Term(weight=1.0, end_weight=0.0, mix={"a": 1.0}),
        "dpo": Term(weight=0.0, end_weight=2.0, mix={"b": 1.0}),
    }
    found = steps(losses, {"sft": {"a": [10]}, "dpo": {"b": [10]}}, 100)
    # 0, then 20, 60 and 100 of 100 tokens are consumed.
    assert [step.weights for step in found.steps] == [
        {"sft": 1.0},
        {"sft": pytest.approx(0.8), "dpo": pytest.approx(0.4)},
        {"sft": pytest.approx(0.4), "dpo": pytest.approx(1.2)},
    ]
    assert list(found.steps[0].rows) == ["sft"]


def test_a_source_of_two_losses_counts_once_with_the_passes_of_both() -> None:
    losses = {name: Term(weight=1.0, mix={"a": 1.0}) for name in ("dpo", "kto")}
    found = steps(losses, {"dpo": {"a": [10, 10]}, "kto": {"a": [5] * 4}}, 60)
    assert found.tokens_by_source == {"a": 60}
    assert found.passes_by_source == {"a": 3.0}


@pytest.mark.parametrize(
    "losses",
    [
        {"sft": Term(weight=0.0, end_weight=1.0, mix={"a": 1.0})},
        {"sft": Term(weight=0.0, end_weight=1.0, mix={"a": 1.0}), "kl": Term(weight=1.0)},
    ],
)
def test_a_stage_whose_losses_on_data_have_no_weight_yet_is_refused(
    losses: dict[str, Term],
) -> None:
    with pytest.raises(
        ValueError,
        match=r"^no loss on data has a weight when 0% of the dose is consumed; .*above 0$",
    ):
        steps(losses, {"sft": {"a": [10]}}, 100)


def test_too_many_passes_are_refused_with_dose_source_and_passes() -> None:
    found = steps({"x": Term(weight=1.0, mix={"a": 1.0})}, {"x": {"a": [10] * 4}}, 120)
    assert passes_conflict(found, 120, None) is None
    assert passes_conflict(found, 120, 3.0) is None
    text = passes_conflict(found, 120, 2.5)
    assert text is not None
    assert "a dose of 120 tokens takes 3 passes over source 'a', more than max_passes 2.5" in text


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), min_size=1),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), min_size=1),
    st.integers(1, 300),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_a_moving_mix_takes_its_mean_share_of_each_source(
    start: dict[str, int], end: dict[str, int], dose: int, rows: int
) -> None:
    mix, end_mix = ({n: k / sum(m.values()) for n, k in m.items()} for m in (start, end))
    term = Term(weight=1.0, mix=mix, end_mix=end_mix)
    tokens = {name: [1] * 7 for name in {*mix, *end_mix}}
    found = steps({"x": term}, {"x": tokens}, dose, rows)
    assert sum(found.tokens_by_source.values()) == found.n_tokens
    # Shares are taken at the beginning of each step, and no source is ever more than a few rows behind.
    owed = dict.fromkeys(tokens, 0.0)
    for number in range(len(found.steps)):
        progress = number * rows / dose
        for name in owed:
            first, last = mix.get(name, 0.0), end_mix.get(name, 0.0)
            owed[name] += rows * (first + (last - first) * progress)
    for name, taken in found.tokens_by_source.items():
        assert taken == pytest.approx(owed[name], abs=3.0)


def rows_of(found: StagePlan, loss: str, source: str) -> list[int]:
    return [at for step in found.steps for name, at in step.rows.get(loss, ()) if name == source]


def test_a_second_stage_on_a_source_goes_on_where_the_first_stopped() -> None:
    tokens, hashes = {"sft": {"a": [10] * 9}}, {"a": "h"}
    losses = {"sft": Term(weight=1.0, mix={"a": 1.0})}
    whole = plan_stage(losses, tokens, 5, 160, 2, hashes)
    first = plan_stage(losses, tokens, 5, 60, 2, hashes)
    # The seed of the second stage is another, and decides nothing here: the order was begun by the first.
    second = plan_stage(losses, tokens, 77, 100, 2, hashes, first.places)
    joined = rows_of(first, "sft", "a") + rows_of(second, "sft", "a")
    assert joined == rows_of(whole, "sft", "a")
    assert len(joined) == 16  # one pass of 9 rows, and 7 rows of the next
    assert second.places == whole.places


def test_each_source_goes_on_by_itself_and_a_new_one_begins_with_the_stage_s_own_seed() -> None:
    tokens = {"sft": {"a": [10] * 9, "b": [10] * 9}}
    hashes = {"a": "h", "b": "i"}
    first = plan_stage(
        {"sft": Term(weight=1.0, mix={"a": 1.0})}, {"sft": {"a": [10] * 9}}, 5, 40, 1, hashes
    )
    both = {"sft": Term(weight=1.0, mix={"a": 0.5, "b": 0.5})}
    second = plan_stage(both, tokens, 6, 80, 1, hashes, first.places)
    fresh = plan_stage(both, tokens, 6, 80, 1, hashes)
    alone = plan_stage(
        {"sft": Term(weight=1.0, mix={"a": 1.0})}, {"sft": {"a": [10] * 9}}, 5, 90, 1, hashes
    )
    assert rows_of(second, "sft", "a") == rows_of(alone, "sft", "a")[4:8]
    assert rows_of(second, "sft", "b") == rows_of(fresh, "sft", "b")


def test_another_loss_on_the_same_source_begins_anew() -> None:
    tokens, hashes = [10] * 9, {"a": "h"}
    term = Term(weight=1.0, mix={"a": 1.0}, beta=0.1)
    first = plan_stage({"dpo": term}, {"dpo": {"a": tokens}}, 5, 40, 1, hashes)
    second = plan_stage({"ipo": term}, {"ipo": {"a": tokens}}, 6, 40, 1, hashes, first.places)
    assert second.steps == plan_stage({"ipo": term}, {"ipo": {"a": tokens}}, 6, 40, 1, hashes).steps
