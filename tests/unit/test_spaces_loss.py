"""Methods, joint terms and moving mixes in specs and stages: decoding, refusals and digests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spaces.influence import InfluenceSpec
from spaces.loss import LOSS_SETTINGS, SETTINGS
from spaces.order import OrderSpec
from spaces.params import ParamValue
from spaces.recipe import Recipe, Stage
from spaces.space import Space

LORA = {"kind": "lora", "rank": 8, "alpha": 16.0}
SFT, DPO = {"weight": 1.0, "mix": {"chat": 1.0}}, {"weight": 0.5, "mix": {"pairs": 1.0}}


def influence(**changes: Any) -> InfluenceSpec:
    data: dict[str, Any] = {
        "method": "joint",
        "adapter": LORA,
        "dose_tokens": 1000,
        "learning_rate": 1e-3,
    }
    return InfluenceSpec.model_validate_json(json.dumps(data | changes))


def stage(**changes: Any) -> Stage:
    data: dict[str, Any] = {
        "influence": "tone",
        "method": "sft",
        "adapter": LORA,
        "mix": {"chat": 1.0},
        "dose_tokens": 1000,
        "learning_rate": 1e-3,
    }
    return Stage.model_validate(data | changes)


def joint(**changes: Any) -> Stage:
    terms = {"sft": SFT, "dpo": {**DPO, "beta": 0.1}}
    return stage(**({"method": "joint", "mix": {}, "terms": terms} | changes))


def decoded(spec: InfluenceSpec, **params: ParamValue) -> Stage:
    space = Space({"both": spec}, OrderSpec())
    names = {parameter.name for parameter in space.parameters()}
    named = {f"both.{name.replace('__', '.')}": value for name, value in params.items()}
    assert names == set(named)
    (found,) = space.decode({"order": "both", **named}).stages
    return found


def test_canonical_form_of_stages_from_before_is_what_it_was() -> None:
    adapter = (
        '{"alpha": 16.0, "dora": false, "dropout": 0.0, "kind": "lora", "layers": "all", "rank": 8, "rslora": false, '
        '"targets": "all"}'
    )
    rest = (
        '"dose_tokens": 1000, "handoff": "merge", "learning_rate": 0.001, "method": "{}", '
        '"mix": [["chat", 1.0]]}}'
    )
    start = f'{{"adapter": {adapter}, "beta": '
    assert stage().canonical({}) == start + "null, " + rest.format("sft")
    assert stage(method="dpo", beta=0.1).canonical({}) == start + "0.1, " + rest.format("dpo")


def test_fields_that_came_later_are_not_written_while_they_say_nothing() -> None:
    written = stage().model_dump()
    assert set(written) == {
        *(
            "influence",
            "method",
            "adapter",
            "mix",
            "dose_tokens",
            "learning_rate",
            "beta",
            "handoff",
        )
    }
    this = joint(arbitration="pcgrad", max_passes=2.0)
    assert Stage.model_validate_json(this.model_dump_json()) == this


@pytest.mark.parametrize("method", ["dpo", "ipo", "orpo", "kto", "simpo"])
def test_settings_have_defaults_where_a_study_is_silent(method: str) -> None:
    spec = influence(method=method, mix={"pairs": 1.0})
    found = decoded(spec)
    given = {name: getattr(found, name) for name in SETTINGS}
    assert {name: value for name, value in given.items() if value is not None} == LOSS_SETTINGS[
        method
    ]


def test_settings_of_methods_can_be_searched() -> None:
    spec = influence(
        method="simpo", mix={"pairs": 1.0}, beta={"low": 1.0, "high": 4.0}, gamma={"choice": [0, 1]}
    )
    found = decoded(spec, beta=3.0, gamma=1.0)
    assert (found.beta, found.gamma) == (3.0, 1.0)


def test_terms_decode_with_weights_mixes_and_settings_of_their_own() -> None:
    spec = influence(
        terms={
            "sft": {
                "weight": {"low": 0.1, "high": 1.0},
                "mix": {"simplex": {"a": {}, "b": {}}},
            },
            "dpo": {"weight": 2, "mix": {"pairs": 1}, "beta": {"low": 0.1, "high": 0.5}},
            "kl": {"weight": {"start": 1, "end": {"low": 0, "high": 1}}},
        },
        arbitration={"choice": ["sum", "pcgrad"]},
    )
    found = decoded(
        spec,
        sft__weight=0.3,
        sft__mix__a=0.25,
        dpo__beta=0.4,
        kl__weight__end=0.5,
        arbitration="pcgrad",
    )
    assert found == joint(
        influence="both",
        terms={
            "sft": {"weight": 0.3, "mix": {"a": 0.25, "b": 0.75}},
            "dpo": {"weight": 2.0, "mix": {"pairs": 1.0}, "beta": 0.4},
            "kl": {"weight": 1.0, "end_weight": 0.5},
        },
        arbitration="pcgrad",
    )
    assert found.sources == ("a", "b", "pairs")


def test_weights_as_shares_sum_to_one() -> None:
    spec = influence(
        terms={"sft": {"mix": {"chat": 1}}, "dpo": {"mix": {"pairs": 1}}},
        weights={"simplex": {"sft": {"low": 0.2}, "dpo": {"high": 0.5}}},
    )
    # dpo may have .5 at most, so sft has .5 to 1; half way is .75.
    found = decoded(spec, weights__sft=0.5)
    assert {name: term.weight for name, term in found.terms.items()} == {"sft": 0.75, "dpo": 0.25}
    assert {name: t.weight for name, t in decoded(spec, weights__sft=1.0).terms.items()} == {
        "sft": 1.0,
        "dpo": 0.0,
    }


def test_mixes_move_and_flatten() -> None:
    moving = influence(
        method="sft",
        mix={"start": {"a": 0.8, "b": 0.2}, "end": {"simplex": {"b": {}, "c": {}}}},
        max_passes=4,
    )
    found = decoded(moving, mix__end__b=0.5)
    assert (found.mix, found.end_mix) == ({"a": 0.8, "b": 0.2}, {"b": 0.5, "c": 0.5})
    assert (found.sources, found.max_passes) == (("a", "b", "c"), 4.0)
    by_size = influence(
        method="sft", mix={"temperature": {"low": 1, "high": 5}, "sources": ["a", "b"]}
    )
    found = decoded(by_size, mix__temperature=2.0)
    assert (found.mix, found.temperature) == ({"a": 0.5, "b": 0.5}, 2.0)


def test_sources_may_be_called_like_the_keys_of_mixes() -> None:
    mix = {"start": 0.25, "end": 0.25, "temperature": 0.25, "sources": 0.25}
    assert decoded(influence(method="sft", mix=mix)).mix == mix


WRONG = [
    ("no terms", {}, "joint needs at least one loss on data"),
    ("kl alone", {"terms": {"kl": {"weight": 1}}}, "joint needs at least one loss on data"),
    ("no weight", {"terms": {"sft": {**SFT, "weight": 0}}}, "give one a weight above 0"),
    ("weight missing", {"terms": {"sft": {"mix": {"a": 1}}}}, "terms.sft: weight is missing"),
    ("mix missing", {"terms": {"sft": {"weight": 1}}}, "terms.sft: mix is missing"),
    ("mix of kl", {"terms": {"sft": SFT, "kl": SFT}}, "terms.kl: draws no rows of its own"),
    ("beta of sft", {"terms": {"sft": {**SFT, "beta": 1}}}, "and the term is sft; remove beta"),
    ("mix of joint", {"terms": {"sft": SFT}, "mix": {"a": 1}}, "joint has none of its own"),
    ("beta of joint", {"terms": {"sft": SFT}, "beta": 1}, "and the method is joint; remove beta"),
    ("terms of sft", {"method": "sft", "mix": {"a": 1}, "terms": {"sft": SFT}}, "remove terms"),
    ("gamma of dpo", {"method": "dpo", "mix": {"a": 1}, "gamma": 1}, "gamma belongs to simpo"),
    ("no mix", {"method": "sft"}, "name at least one source"),
    ("arbitration", {"terms": {"sft": SFT}, "arbitration": "mean"}, "sum, pcgrad, normalised"),
    ("half of weights", {"terms": {"sft": SFT, "dpo": DPO}, "weights": {"simplex": {"sft": {}, "kl": {}}}},
     "weights must name all terms and no other: sft, dpo"),
    ("two weights", {"terms": {"sft": SFT, "dpo": DPO}, "weights": {"simplex": {"sft": {}, "dpo": {}}}},
     "terms.sft: weight is given by weights"),
    ("shares of an end", {"method": "sft", "mix": {"start": {"a": 1}, "end": {"a": 0.5}}}, "sum to 0.5"),
    ("unknown term", {"terms": {"sfx": SFT}}, "terms.sfx"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "text"), WRONG, ids=[name for name, *_ in WRONG])
def test_contradictions_are_refused_with_a_reason(
    name: str, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        influence(**changes)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"method": "joint", "mix": {}}, "terms belong to joint"),
        ({"terms": {"sft": SFT}}, "terms belong to joint"),
        ({"method": "joint", "terms": {"sft": SFT}}, "a joint stage has no mix"),
        ({"method": "joint", "mix": {}, "terms": {"sft": {**SFT, "weight": 0.0}}}, "at the start"),
        (
            {"method": "joint", "mix": {}, "terms": {"sft": {**SFT, "end_weight": 0.0}}},
            "at the end",
        ),
        ({"method": "joint", "mix": {}, "terms": {"dpo": DPO}}, "beta belongs to dpo"),
        (
            {"method": "kto", "beta": 0.1, "desirable_weight": 1.0},
            "undesirable_weight belongs to kto",
        ),
        ({"arbitration": "pcgrad"}, "arbitration belongs to joint"),
        ({"end_mix": {"chat": 0.5}}, "end_mix shares sum to 0.5"),
        ({"beta": 0.1}, "beta belongs to dpo"),
        ({"method": "joint", "mix": {}, "terms": {"sft": SFT, "kl": SFT}}, "no rows of its own"),
    ],
)
def test_stages_that_cannot_be_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        stage(**changes)
    assert text in str(caught.value)


def test_stages_say_in_a_line_what_they_optimise_and_on_what() -> None:
    terms = {"sft": SFT, "dpo": {**DPO, "end_weight": 0.0, "beta": 0.1}, "kl": {"weight": 0.25}}
    this = joint(terms=terms, arbitration="pcgrad")
    assert this.method_text == "joint 1 sft + (0.5 to 0) dpo + 0.25 kl (pcgrad)"
    assert this.mix_text == "sft: chat 100%; dpo: pairs 100%"
    assert Recipe(stages=(this,)).label() == f"tone({this.method_text} lora r8, 1k)"
    moving = stage(mix={"a": 1.0}, end_mix={"a": 0.25, "b": 0.75}, temperature=2.0)
    assert moving.method_text == "sft"
    assert moving.mix_text == "a 100% to 25%, b 0% to 75%, temperature 2"


def test_seeds_know_neither_dose_nor_cap() -> None:
    first, second = (
        Recipe(stages=(joint(dose_tokens=dose, max_passes=cap),))
        for dose, cap in ((1000, None), (2000, 3.0))
    )
    assert first.stage_seeds("x") == second.stage_seeds("x")
    assert first.prefix_digests("x")[1] != second.prefix_digests("x")[1]


def test_two_sources_of_equal_content_keep_their_start_and_end_apart() -> None:
    hashes = {"a": "h", "b": "h"}
    first, second, renamed = (
        stage(mix=mix, end_mix=end).canonical(hashes)
        for mix, end in (
            ({"a": 0.8, "b": 0.2}, {"a": 0.2, "b": 0.8}),
            ({"a": 0.8, "b": 0.2}, {"a": 0.8, "b": 0.2}),
            ({"b": 0.8, "a": 0.2}, {"b": 0.2, "a": 0.8}),
        )
    )
    assert first == renamed != second


SHARES = st.sampled_from([{"a": 1.0}, {"b": 1.0}, {"a": 0.25, "b": 0.75}, {"a": 0.75, "b": 0.25}])
NUMBERS = st.sampled_from([0.1, 0.5, 2.0])


@st.composite
def mixes(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {"mix": draw(SHARES)}
    if draw(st.booleans()):
        found["end_mix"] = draw(SHARES)
    if draw(st.booleans()):
        found["temperature"] = draw(NUMBERS)
    return found


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    changes: dict[str, Any] = {"dose_tokens": draw(st.sampled_from([10, 20]))}
    if draw(st.booleans()):
        changes["max_passes"] = draw(NUMBERS)
    method = draw(st.sampled_from(["joint", *LOSS_SETTINGS]))
    if method in ("joint", "kl"):
        names = draw(st.sets(st.sampled_from(sorted(set(LOSS_SETTINGS) - {"kl"})), min_size=1))
        terms: dict[str, Any] = {}
        for name in sorted(names):
            values = {key: draw(NUMBERS) for key in LOSS_SETTINGS[name]}
            terms[name] = {"weight": draw(NUMBERS), **draw(mixes()), **values}
            if draw(st.booleans()):
                terms[name]["end_weight"] = draw(NUMBERS)
        if method == "kl":
            terms["kl"] = {"weight": draw(NUMBERS)}
        arbitration = draw(st.sampled_from(["sum", "pcgrad", "normalised"]))
        return joint(terms=terms, arbitration=arbitration, **changes)
    values = {key: draw(NUMBERS) for key in LOSS_SETTINGS[method]}
    return stage(method=method, **draw(mixes()), **values, **changes)


@given(stages(), stages())
@settings(deadline=None, max_examples=300)
def test_digests_are_equal_exactly_where_stages_are(first: Stage, second: Stage) -> None:
    hashes = {"a": "1", "b": "2"}
    texts = [this.canonical(hashes) for this in (first, second)]
    assert (texts[0] == texts[1]) == (first == second)
    assert Stage.model_validate_json(first.model_dump_json()).canonical(hashes) == texts[0]


def one_change(data: dict[str, Any], draw: st.DrawFn) -> dict[str, Any]:
    """Return the data of a stage with one number somewhere in it changed, shares left alone."""
    places: list[tuple[dict[str, Any], str]] = []

    def collect(part: dict[str, Any]) -> None:
        for key, value in part.items():
            if key in ("mix", "end_mix", "adapter"):
                continue
            if isinstance(value, dict):
                collect(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                places.append((part, key))

    collect(data)
    part, key = draw(st.sampled_from(places))
    part[key] = part[key] * 3
    return data


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_any_other_number_gives_another_digest(data: st.DataObject) -> None:
    this = data.draw(stages())
    changed = Stage.model_validate(one_change(this.model_dump(), data.draw))
    assert this.canonical({}) != changed.canonical({})
