"""The space: orders, encodings, mixes, decoding, digests."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import pytest

from spaces.influence import InfluenceSpec, ShareRange
from spaces.mix import shares_from_unit
from spaces.order import OrderRules, OrderSpec
from spaces.recipe import Recipe, Stage, layer_range
from spaces.space import Space


def influence(**changes: object) -> InfluenceSpec:
    data: dict[str, object] = {
        "method": "sft",
        "adapter": {"kind": "lora", "rank": {"choice": (4, 8)}},
        "mix": {"chat": 1.0},
        "dose_tokens": {"low": 1000, "high": 4000},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    }
    return InfluenceSpec.model_validate(data | changes)


def stage(**changes: object) -> Stage:
    data: dict[str, object] = {
        "influence": "tone",
        "method": "sft",
        "adapter": {"kind": "lora", "rank": 8, "alpha": 16.0},
        "mix": {"chat": 1.0},
        "dose_tokens": 1000,
        "learning_rate": 1e-3,
    }
    return Stage.model_validate(data | changes)


THREE = {name: influence() for name in ("a", "b", "c")}


def test_three_influences_without_repeats_have_fifteen_orders() -> None:
    rules = OrderRules(OrderSpec(), ("a", "b", "c"))
    # 3 of length one, 3 * 2 of length two, 3! of length three
    assert rules.n_sequences() == 3 + 6 + 6
    assert len(set(rules.sequences())) == 15


def test_repeats_fill_every_position_freely() -> None:
    rules = OrderRules(OrderSpec(max_stages=2, max_repeats=2), ("a", "b"))
    assert set(rules.sequences()) == {
        ("a",),
        ("b",),
        ("a", "a"),
        ("a", "b"),
        ("b", "a"),
        ("b", "b"),
    }
    assert rules.n_sequences() == 6


def test_precedence_forbids_the_first_after_the_second_alone() -> None:
    rules = OrderRules(OrderSpec(before=(("a", "b"),)), ("a", "b"))
    assert set(rules.sequences()) == {("a",), ("b",), ("a", "b")}
    with pytest.raises(ValueError, match="'a' may not be stage 2"):
        rules.check(("b", "a"))


def test_count_equals_enumeration_under_all_rules_together() -> None:
    spec = OrderSpec(min_stages=2, max_stages=4, max_repeats=2, before=(("a", "b"), ("b", "c")))
    rules = OrderRules(spec, ("a", "b", "c"))
    by_hand = [
        sequence
        for length in (2, 3, 4)
        for sequence in itertools.product("abc", repeat=length)
        if max(Counter(sequence).values()) <= 2
        and not any(
            second in sequence[:position]
            for position, name in enumerate(sequence)
            for first, second in spec.before
            if first == name
        )
    ]
    assert sorted(rules.sequences()) == sorted(by_hand)
    assert rules.n_sequences() == len(by_hand)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (OrderSpec(influences=("a", "x")), "'x'"),
        (OrderSpec(before=(("a", "b"), ("b", "a"))), "circle"),
        (OrderSpec(max_stages=4), "raise max_repeats"),
    ],
)
def test_contradictory_orders_are_refused_by_name(spec: OrderSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OrderRules(spec, ("a", "b", "c"))


@pytest.mark.parametrize("encoding", ["sequence", "keys"])
def test_every_order_is_reached_and_nothing_else_by_both_encodings(encoding: str) -> None:
    order = OrderSpec.model_validate(
        {"encoding": encoding, "before": (("a", "b"),), "max_repeats": 1}
    )
    space = Space(THREE, order)
    seen = {space.sequence(space.sample(seed)) for seed in range(400)}
    assert seen == set(space.rules.sequences())


@pytest.mark.parametrize("encoding", ["sequence", "keys"])
def test_encoded_baseline_decodes_to_its_order(encoding: str) -> None:
    space = Space(
        THREE, OrderSpec.model_validate({"encoding": encoding, "max_stages": 4, "max_repeats": 2})
    )
    for sequence in [(), ("c", "a"), ("a", "a", "b", "b"), ("b", "c", "b", "a")]:
        assert space.sequence(space.encode(sequence, {})) == sequence


def test_keys_draw_permutations_evenly() -> None:
    space = Space(THREE, OrderSpec(encoding="keys", min_stages=3))
    counts = Counter(space.sequence(space.sample(seed)) for seed in range(1200))
    # 200 expected of each of 6; the standard deviation of one count is 12.9, so 130..270 is beyond 5 of them
    assert all(130 < counts[order] < 270 for order in itertools.permutations("abc"))


def test_conditional_suggestion_asks_only_for_what_the_order_holds() -> None:
    space = Space(THREE, OrderSpec(max_stages=1))
    params = space.sample(3)
    (name,) = space.sequence(params)
    assert set(params) == {"order", f"{name}.rank", f"{name}.dose_tokens", f"{name}.learning_rate"}


def test_values_are_free_per_position_only_when_asked() -> None:
    shared = Space(THREE, OrderSpec(max_repeats=2, max_stages=2))
    free = Space(THREE, OrderSpec(max_repeats=2, max_stages=2, per_position=True))
    assert [p.name for p in shared.parameters(("a", "a"))] == [
        "a.rank",
        "a.dose_tokens",
        "a.learning_rate",
    ]
    names = [p.name for p in free.parameters(("a", "a"))]
    assert names[:3] == ["a@1.rank", "a@1.dose_tokens", "a@1.learning_rate"]
    assert names[3:] == ["a@2.rank", "a@2.dose_tokens", "a@2.learning_rate"]
    recipe = shared.decode(
        shared.encode(("a", "a"), {}) | {"a.rank": 4, "a.dose_tokens": 9, "a.learning_rate": 0.1}
    )
    assert recipe.stages[0] == recipe.stages[1]


def test_decoding_keeps_fixed_values_and_fills_the_drawn_ones() -> None:
    space = Space({"taste": influence(method="dpo", handoff="stack")}, OrderSpec())
    params = {
        "order": "taste",
        "taste.rank": 4,
        "taste.dose_tokens": 1500,
        "taste.learning_rate": 2e-4,
    }
    (decided,) = space.decode(params).stages
    assert decided == stage(
        influence="taste",
        method="dpo",
        adapter={"kind": "lora", "rank": 4, "alpha": 16.0},
        dose_tokens=1500,
        learning_rate=2e-4,
        beta=0.1,
        handoff="stack",
    )


def test_baseline_values_outside_their_range_are_refused_with_the_range() -> None:
    space = Space(THREE, OrderSpec())
    with pytest.raises(ValueError, match="allowed: 1000 to 4000"):
        space.encode(("a",), {"a.dose_tokens": 5000})
    with pytest.raises(ValueError, match=r"did you mean 'a\.dose_tokens'"):
        space.encode(("a",), {"a.dose_token": 2000})


def test_mix_of_two_is_linear_between_its_bounds() -> None:
    bounds = {"x": ShareRange(low=0.2, high=0.6), "y": ShareRange()}
    assert shares_from_unit(bounds, [0.5]) == {"x": 0.4, "y": 0.6}


def test_mix_respects_bounds_that_come_from_the_other_sources() -> None:
    bounds = {"x": ShareRange(), "y": ShareRange(high=0.3), "z": ShareRange(low=0.1, high=0.2)}
    for units in itertools.product([0.0, 0.3, 0.7, 1.0], repeat=2):
        shares = shares_from_unit(bounds, list(units))
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-9)
        # y and z give at most .5 together, so x must take the rest; z takes at least .1
        assert 0.5 <= shares["x"] <= 0.9
        assert shares.get("y", 0.0) <= 0.3 + 1e-9
        assert 0.1 - 1e-9 <= shares["z"] <= 0.2 + 1e-9


def test_source_that_gets_no_share_is_left_out_of_the_mix() -> None:
    bounds = {"x": ShareRange(), "y": ShareRange()}
    assert shares_from_unit(bounds, [1.0]) == {"x": 1.0}


def test_prefixes_share_digests_and_seeds() -> None:
    short, long = Recipe(stages=(stage(),)), Recipe(stages=(stage(), stage(method="dpo", beta=0.1)))
    assert long.prefix_digests("ctx")[:2] == short.prefix_digests("ctx")
    assert long.stage_seeds("ctx")[:1] == short.stage_seeds("ctx")
    assert short.prefix_digests("other")[0] != short.prefix_digests("ctx")[0]


def test_dose_changes_the_digest_and_keeps_the_seed() -> None:
    small, large = (Recipe(stages=(stage(dose_tokens=dose),)) for dose in (1000, 2000))
    assert small.prefix_digests("ctx")[1] != large.prefix_digests("ctx")[1]
    assert small.stage_seeds("ctx") == large.stage_seeds("ctx")


def test_stage_that_goes_on_in_its_data_is_not_the_one_that_began_anew() -> None:
    # Rows of the second stage depend on the first, so what was stored when they did not is another result.
    again = Recipe(stages=(stage(), stage(influence="again", learning_rate=1e-4)))
    other = Recipe(stages=(stage(), stage(mix={"plain": 1.0})))
    assert [again.goes_on(at, {}) for at in (0, 1)] == [False, True]
    assert [other.goes_on(at, {}) for at in (0, 1)] == [False, False]
    # One content under two names is one source.
    assert other.goes_on(1, {"chat": "h", "plain": "h"})
    text = again.stages[1].canonical({})
    first, second = again.prefix_digests("ctx")[1:]
    assert second == hashlib.sha256(f"{first}{text} goes on".encode()).hexdigest()
    dpo = stage(method="dpo", beta=0.1)
    assert not Recipe(stages=(stage(), dpo)).goes_on(1, {})


def test_name_of_an_influence_does_not_change_the_digest() -> None:
    one, other = (Recipe(stages=(stage(influence=name),)) for name in ("tone", "voice"))
    assert one.prefix_digests("ctx") == other.prefix_digests("ctx")


def test_source_counts_by_its_content_and_not_by_its_name() -> None:
    one, other = (Recipe(stages=(stage(mix={name: 1.0}),)) for name in ("chat", "talk"))
    assert one.prefix_digests("", {"chat": "h"}) == other.prefix_digests("", {"talk": "h"})
    assert one.prefix_digests("", {"chat": "h"}) != one.prefix_digests("", {"chat": "i"})


def test_two_sources_of_equal_content_are_not_one() -> None:
    hashes = {"chat": "h", "talk": "h"}
    recipes = [
        Recipe(stages=(stage(mix=mix),))
        for mix in (
            {"chat": 0.25, "talk": 0.75},
            {"chat": 0.75, "talk": 0.25},
            {"chat": 0.5, "talk": 0.5},
            {"chat": 1.0},
        )
    ]
    digests = [recipe.prefix_digests("", hashes)[1] for recipe in recipes]
    # The first two differ in names alone; each of the others trains on another draw of rows.
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_order_of_sources_in_a_mix_does_not_change_the_digest() -> None:
    one, other = (
        Recipe(stages=(stage(mix=mix),)) for mix in ({"a": 0.5, "b": 0.5}, {"b": 0.5, "a": 0.5})
    )
    hashes = {"a": "h2", "b": "h1"}
    assert one.prefix_digests("", hashes) == other.prefix_digests("", hashes)


@pytest.mark.parametrize("name", ["base", "order", "n_stages"])
@pytest.mark.parametrize("encoding", ["sequence", "keys"])
def test_influence_with_a_name_that_means_something_else_is_refused(
    name: str, encoding: str
) -> None:
    order = OrderSpec.model_validate({"encoding": encoding})
    with pytest.raises(ValueError, match=f"influence '{name}' has the name of the .*; choose"):
        Space({"tone": influence(), name: influence()}, order)


def test_baseline_values_come_back_as_a_sampler_gives_them() -> None:
    adapter = {
        "kind": "lora",
        "rank": {"low": 4, "high": 8},
        "alpha": {"choice": (16.0, 32.0)},
        "dropout": {"low": 0.0, "high": 0.5},
        "dora": {"choice": (False, True)},
    }
    space = Space({"tone": influence(adapter=adapter)}, OrderSpec())
    values = {"tone.rank": 4.0, "tone.alpha": 16, "tone.dropout": 0, "tone.dora": True}
    found = space.encode(("tone",), values)
    assert found == {"order": "tone", **values}
    assert {name: type(value) for name, value in found.items()} == {
        "order": str,
        "tone.rank": int,
        "tone.alpha": float,
        "tone.dropout": float,
        "tone.dora": bool,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", True), ("rank", 4.5), ("alpha", True), ("dora", 1), ("dora", 0.0), ("alpha", "1")],
)
def test_truth_is_no_number_and_a_number_no_truth(name: str, value: float | str) -> None:
    adapter = {
        "kind": "lora",
        "rank": {"low": 1, "high": 8},
        "alpha": {"choice": (1.0, 32.0)},
        "dora": {"choice": (False, True)},
    }
    space = Space({"tone": influence(adapter=adapter)}, OrderSpec())
    with pytest.raises(ValueError, match=f"values.tone.{name} is {value!r}; allowed: "):
        space.encode(("tone",), {f"tone.{name}": value})


def test_filling_keeps_what_is_decided_and_draws_the_rest() -> None:
    space = Space(THREE, OrderSpec())
    params = space.encode(("b", "a"), {"a.rank": 4})
    filled = [space.fill(params, seed) for seed in range(40)]
    assert all(space.sequence(found) == ("b", "a") and found["a.rank"] == 4 for found in filled)
    assert {found["b.rank"] for found in filled} == {4, 8}
    assert space.fill(params, 3) == filled[3]


def test_continue_needs_the_same_adapter_next() -> None:
    with pytest.raises(ValueError, match="whose handoff is continue"):
        Recipe(stages=(stage(handoff="continue"), stage(adapter={"kind": "full"})))
    assert Recipe(stages=(stage(handoff="continue"), stage(learning_rate=1e-4))).stages[1]


def test_layers_select_numbers_with_both_ends_and_shares_half_open() -> None:
    assert layer_range("0-14", 30) == range(15)
    assert layer_range("50%-100%", 30) == range(15, 30)
    assert layer_range("all", 30) == range(30)
    with pytest.raises(ValueError, match=r"0-29"):
        layer_range("20-30", 30)
