"""Where stages moved a model: groups, pairs and sentences by hand."""

from __future__ import annotations

from typing import Any

import pytest

from search.moved.records import (
    Cell,
    PairCell,
    StageMoved,
    by_kind,
    by_layer,
    densest_range,
    ordered_kinds,
    pair_of,
)
from search.moved.sentences import pair_sentence, percent, stage_sentence


def cell(layer: int | None, kind: str, square: float, rank: float | None = None) -> Cell:
    return Cell(
        layer=layer,
        kind=kind,
        n_weights=10,
        base_square=100.0,
        square=square,
        effective_rank=rank,
        stable_rank=rank,
    )


def stage(*cells: Cell, number: int = 1, influence: str = "tone") -> StageMoved:
    return StageMoved(number=number, influence=influence, label="", digest="0", cells=cells)


def pair_cell(**changes: Any) -> PairCell:
    values: dict[str, Any] = {
        "layer": 0,
        "kind": "q",
        "product": 0.0,
        "first_square": 4.0,
        "second_square": 1.0,
        "chance_square": 0.04,
        "n_matrices": 1,
        **{"left": 0.5, "left_chance": 0.1, "left_sd": 0.03},
        **{"right": 0.2, "right_chance": 0.1, "right_sd": 0.04},
    }
    return PairCell(**{**values, **changes})


def test_squares_add_up_and_sizes_are_relative_to_the_base() -> None:
    one = stage(cell(0, "q", 3.0, 2.0), cell(0, "down", 1.0, 6.0), cell(1, "q", 0.0))
    layers = by_layer(one)
    # Of layer 0: sqrt(4 / 200); ranks (3 * 2 + 1 * 6) / 4.
    assert layers[0].size == pytest.approx(0.02**0.5)
    assert (layers[0].share, layers[0].effective_rank) == (1.0, 3.0)
    # A weight that did not move has size 0, which was measured, and no rank.
    assert (layers[1].size, layers[1].effective_rank) == (0.0, None)
    assert by_kind(one)["q"].share == 0.75
    assert one.whole.size == pytest.approx((4 / 300) ** 0.5)


def test_quantised_weights_have_no_relative_size() -> None:
    quantised = cell(0, "q", 3.0).model_copy(update={"base_square": None})
    assert stage(quantised).whole.size is None


def test_shortest_run_of_layers_that_holds_most_is_found() -> None:
    assert densest_range([0.1, 0.5, 0.35, 0.05], 0.8) == range(1, 3)
    assert densest_range([0.0, 0.0, 1.0], 0.8) == range(2, 3)
    assert densest_range([0.3, 0.2], 0.8) is None


def test_kinds_stand_in_the_order_of_the_forward_pass() -> None:
    kinds = ordered_kinds({"head", "down", "router", "q", "norms"})
    assert kinds == ("q", "down", "router", "norms", "head")


def test_cosine_counts_all_weights_and_overlap_only_common_ones() -> None:
    first = stage(cell(0, "q", 4.0), cell(1, "q", 12.0))
    second = stage(cell(0, "q", 1.0), number=2, influence="taste")
    pair = pair_of(first, second, [pair_cell(product=-1.0)])
    # -1 / sqrt(16 * 1); the later stage undoes 1/16 of the earlier one and meets 4/16 of it.
    assert pair.cosine == pytest.approx(-0.25)
    assert pair.cosine_sd == pytest.approx(0.2 / 4)
    assert (pair.taken_back, pair.shared) == (1 / 16, 0.25)
    assert (pair.left, pair.left_chance, pair.left_sd) == (0.5, 0.1, 0.03)
    two = pair_of(first, second, [pair_cell(), pair_cell(layer=1, left=0.1)])
    assert two.left == pytest.approx(0.3)
    assert two.left_sd == pytest.approx(0.03 * 2**0.5 / 2)


def test_only_what_is_beyond_chance_is_called_taking_back() -> None:
    first, second = stage(cell(0, "q", 4.0)), stage(cell(0, "q", 1.0), number=2)
    told = {
        product: pair_sentence(
            pair_of(first, second, [pair_cell(product=product)]), "tone", "taste"
        )
        for product in (-1.6, -0.4, 1.6)
    }
    # Standard deviation of the cosine by chance: 0.1.
    assert "taste takes back 40 % of what tone changed (cosine -0.800)" in told[-1.6]
    assert "neither takes back nor repeats" in told[-0.4]
    assert "adds 40 % to that change" in told[1.6]
    assert "0.20 of the input directions (by chance 0.10)" in told[1.6]
    apart = pair_of(first, second, [])
    assert "moves none of the weights that tone moved" in pair_sentence(apart, "tone", "taste")
    still = pair_of(first, stage(cell(0, "q", 0.0), number=2), [])
    assert (still.cosine, "moved nothing" in pair_sentence(still, "tone", "taste")) == (None, True)


def test_range_of_layers_is_named_only_where_the_change_is_there() -> None:
    layers = [cell(at, "q", 8.0 if at in (6, 7) else 0.4) for at in range(8)]
    assert "87 % of the change (squared) lies in layers 6-7 of 8" in stage_sentence(
        stage(*layers), 8
    )
    even = [cell(at, "q", 1.0) for at in range(8)]
    assert "spread over the layers" in stage_sentence(stage(*even), 8)
    outside = [*even[:2], cell(None, "embeddings", 8.0)]
    assert "80 % of the change (squared) lies in embeddings" in stage_sentence(stage(*outside), 8)
    assert stage_sentence(stage(cell(0, "q", 0.0)), 1) == "Stage 1 (tone) moved no weight."


def test_small_shares_keep_two_figures() -> None:
    texts = [percent(value) for value in (0.0052, 0.5, 1.0, 0.00000004, 0.0)]
    assert texts == ["0.52 %", "50 %", "100 %", "4e-06 %", "0 %"]
