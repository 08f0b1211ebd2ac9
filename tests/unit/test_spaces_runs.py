"""Runs of influences: left out, repeated with doses of their own, and whole orders in rounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from spaces.dose import repeat_doses, round_doses
from spaces.influence import InfluenceSpec
from spaces.order import OrderSpec
from spaces.params import RandomSuggester
from spaces.space import Space


def influence(**changes: Any) -> InfluenceSpec:
    data: dict[str, Any] = {
        "method": "sft",
        "adapter": {"kind": "lora"},
        "mix": {"chat": 1.0},
        "dose_tokens": {"low": 100, "high": 1000},
        "learning_rate": 1e-3,
    }
    return InfluenceSpec.model_validate_json(json.dumps(data | changes))


def space(order: dict[str, Any], **influences: InfluenceSpec) -> Space:
    return Space(influences, OrderSpec.model_validate_json(json.dumps(order)))


def runs(found: Space, **params: Any) -> list[tuple[str, int]]:
    named = {name.replace("__", "."): value for name, value in params.items()}
    return [(stage.influence, stage.dose_tokens) for stage in found.decode(named).stages]


@pytest.mark.parametrize(
    ("factor", "doses"),
    [(0.5, [1000, 500, 250]), (2.0, [1000, 2000, 4000]), (1.0, [1000] * 3), (1e-4, [1000, 0, 0])],
)
def test_each_run_has_the_factor_times_the_dose_of_the_one_before(
    factor: float, doses: list[int]
) -> None:
    assert repeat_doses(1000, factor, 3) == doses


def test_the_second_run_s_whole_tokens_decide_the_third() -> None:
    # 3 * 0.5 is 1.5, which rounds to 2 (to even): the factor is then 2/3, and the third run has 3 * 4/9 = 1.33.
    assert repeat_doses(3, 0.5, 3) == [3, 2, 1]
    assert repeat_doses(0, 2.0, 3) == [0, 0, 0]


def test_rounds_split_a_total_to_the_last_token() -> None:
    assert round_doses(1000, 4) == [250] * 4
    assert round_doses(1003, 4) == [250, 251, 251, 251]
    assert round_doses(2, 4) == [0, 1, 0, 1]


def test_a_dose_of_zero_is_the_recipe_without_the_stage() -> None:
    both = space({}, a=influence(dose_tokens={"choice": [0, 500]}), b=influence(dose_tokens=700))
    left_out = both.decode({"order": "a > b", "a.dose_tokens": 0})
    alone = both.decode({"order": "b"})
    assert left_out == alone
    assert left_out.prefix_digests("x") == alone.prefix_digests("x")
    assert both.decode({"order": "a", "a.dose_tokens": 0}).stages == ()


def test_a_dose_of_zero_takes_all_runs_of_its_influence_out() -> None:
    twice = space(
        {"max_repeats": 2},
        a=influence(dose_tokens={"choice": [0, 500]}, repeat={"dose_factor": 2.0}),
        b=influence(dose_tokens=700),
    )
    assert runs(twice, order="a > b > a", a__dose_tokens=0) == [("b", 700)]
    assert runs(twice, order="a > b > a", a__dose_tokens=500) == [
        *(("a", 500), ("b", 700), ("a", 1000))
    ]


def test_random_recipes_are_never_the_base() -> None:
    maybe = space({}, a=influence(dose_tokens={"choice": [0, 500]}))
    assert all(maybe.decode(maybe.sample(seed)).stages for seed in range(20))


def test_the_factor_is_asked_for_only_where_an_influence_runs_again() -> None:
    searched = influence(repeat={"dose_factor": {"low": 0.25, "high": 2.0, "log": True}})
    found = space({"max_repeats": 2}, a=searched, b=influence())
    named = {
        order: [each.name for each in found.parameters(order)]
        for order in (("a", "b"), ("a", "b", "a"), ("b", "b"))
    }
    assert named == {
        ("a", "b"): ["a.dose_tokens", "b.dose_tokens"],
        ("a", "b", "a"): ["a.dose_tokens", "a.repeat.dose_factor", "b.dose_tokens"],
        ("b", "b"): ["b.dose_tokens"],
    }
    assert "a.repeat.dose_factor" not in [each.name for each in space({}, a=searched).parameters()]
    params = {"order": "a > b > a", "a.dose_tokens": 400, "b.dose_tokens": 300}
    decoded = found.decode(params | {"a.repeat.dose_factor": 0.25})
    assert [stage.dose_tokens for stage in decoded.stages] == [400, 300, 100]


def test_in_rounds_the_whole_order_runs_again_with_a_part_of_each_dose() -> None:
    found = space({"rounds": {"choice": [1, 2, 4]}}, a=influence(), b=influence())
    params = {"order": "a > b", "a.dose_tokens": 400, "b.dose_tokens": 1000}
    by_rounds = {
        n: [(s.influence, s.dose_tokens) for s in found.decode(params | {"n_rounds": n}).stages]
        for n in (1, 2, 4)
    }
    assert by_rounds == {
        1: [("a", 400), ("b", 1000)],
        2: [("a", 200), ("b", 500)] * 2,
        4: [("a", 100), ("b", 250)] * 4,
    }
    totals = [sum(dose for _, dose in stages) for stages in by_rounds.values()]
    assert totals == [1400] * 3


def test_the_base_has_no_rounds_and_fixed_rounds_are_no_parameter() -> None:
    searched = space({"rounds": {"low": 1, "high": 3}}, a=influence())
    assert [each.name for each in searched.parameters(())] == []
    assert [each.name for each in searched.parameters(("a",))] == ["a.dose_tokens", "n_rounds"]
    fixed = space({"rounds": 2}, a=influence())
    assert [each.name for each in fixed.parameters()] == ["a.dose_tokens"]
    assert runs(fixed, order="a", a__dose_tokens=301) == [("a", 150), ("a", 151)]
    assert runs(fixed, order="base") == []


def test_a_baseline_may_say_the_rounds() -> None:
    found = space({"rounds": {"low": 1, "high": 3}}, a=influence())
    params = found.encode(("a",), {"n_rounds": 3, "a.dose_tokens": 600})
    assert (
        runs(found, **{name.replace(".", "__"): value for name, value in params.items()})
        == [("a", 200)] * 3
    )
    with pytest.raises(ValueError, match="n_rounds is 4; allowed: 1 to 3"):
        found.encode(("a",), {"n_rounds": 4})


@pytest.mark.parametrize(
    ("order", "changes", "message"),
    [
        ({"rounds": 2, "max_repeats": 2}, {}, "give one of both"),
        ({"rounds": {"low": 0, "high": 2}}, {}, "at least 1"),
        ({}, {"dose_tokens": 0}, "never above 0"),
        ({"min_stages": 2}, {"dose_tokens": {"low": 0, "high": 9}}, "set min_stages to 1"),
        (
            {"min_stages": 2, "max_repeats": 3},
            {"dose_tokens": 100, "repeat": {"dose_factor": {"low": 0.01, "high": 1.0}}},
            "dose of a may become 0",
        ),
        (
            {"per_position": True, "max_repeats": 2},
            {"repeat": {"dose_factor": 0.5}},
            "remove one of both",
        ),
        ({}, {"repeat": {"dose_factor": 0.0}}, "above 0, at most 10"),
        ({}, {"repeat": {"dose_factor": {"low": 1.0, "high": 11.0}}}, "above 0, at most 10"),
    ],
)
def test_doses_and_orders_that_contradict_each_other_are_refused(
    order: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, ValidationError), match=message):
        space(order, a=influence(**changes), b=influence())


def test_studies_without_the_new_words_have_the_names_and_draws_they_had() -> None:
    found = space({"max_repeats": 2}, a=influence(), b=influence(dose_tokens=500))
    names = [each.name for each in (*found.order_parameters(), *found.parameters())]
    assert names == ["order", "a.dose_tokens"]
    assert found.sample(3) == {
        "order": "a > a > b",
        "a.dose_tokens": 706,
    }  # as drawn before there were any


def test_a_prefix_keeps_the_positions_that_its_values_belong_to() -> None:
    dose = {"choice": [0, 500]}
    found = space(
        {"per_position": True}, a=influence(dose_tokens=dose), b=influence(), c=influence()
    )
    params = {
        "order": "a > b > c",
        "a@1.dose_tokens": 0,
        "b@2.dose_tokens": 300,
        "c@3.dose_tokens": 200,
    }
    prefix = found.prefix(params, 1)
    assert prefix is not None
    assert prefix["order"] == "a > b"
    assert found.decode(prefix) == found.decode(params).prefix(1)


def test_a_prefix_of_rounds_has_the_dose_of_the_rounds_that_were_run() -> None:
    found = space({"rounds": {"choice": [1, 2, 4]}}, a=influence(), b=influence())
    params = {"order": "a > b", "a.dose_tokens": 400, "b.dose_tokens": 800, "n_rounds": 4}
    cut = {n: found.prefix(params, n) for n in range(1, 9)}
    assert cut[1] == params | {"order": "a", "a.dose_tokens": 100, "n_rounds": 1}
    assert cut[2] == params | {"a.dose_tokens": 100, "b.dose_tokens": 200, "n_rounds": 1}
    assert cut[4] == params | {"a.dose_tokens": 200, "b.dose_tokens": 400, "n_rounds": 2}
    assert cut[8] == params
    # Half a round is no recipe of this space, nor are three rounds.
    assert [cut[n] for n in (3, 5, 6, 7)] == [None] * 4


@pytest.mark.parametrize("conditional", [True, False])
def test_every_recipe_of_such_a_space_is_reached_by_suggestions(conditional: bool) -> None:
    found = space(
        {"rounds": {"choice": [1, 2]}},
        a=influence(dose_tokens={"choice": [0, 400]}),
        b=influence(dose_tokens=200),
    )
    seen = {
        found.decode(found.suggest(RandomSuggester(seed), conditional)).order_label()
        for seed in range(200)
    }
    once = {"a", "b", "a > b", "b > a"}
    assert seen == {"base"} | once | {f"{order} > {order}" for order in once}
