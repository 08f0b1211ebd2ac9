"""Claims about adapters before any model: what is written, what is refused, what may be searched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from spaces.adapter import (
    AdaLora,
    Adapter,
    Full,
    Lora,
    adapter_label,
    by_module,
    handoff_conflict,
    quantised_conflict,
    stack_conflict,
)
from spaces.adapter_spec import (
    AdapterSpec,
    SplitSpec,
    adapter_data,
    adapter_values,
    layers_texts,
    split_conflict,
)
from spaces.influence import InfluenceSpec
from spaces.order import OrderSpec
from spaces.params import Choice, Float, Int
from spaces.place import layer_numbers, target_modules
from spaces.recipe import Stage
from spaces.space import Space
from spaces.spec import FloatRange

ADAPTER: TypeAdapter[Any] = TypeAdapter(Adapter)
SPEC: TypeAdapter[Any] = TypeAdapter(AdapterSpec)


def spec(**values: Any) -> Any:
    return SPEC.validate_python(values)


def test_stages_without_the_later_fields_are_written_as_they_always_were() -> None:
    stage = Stage(
        influence="tone",
        method="sft",
        adapter=Lora(rank=8, alpha=16.0),
        mix={"chat": 1.0},
        dose_tokens=200,
        learning_rate=0.01,
    )
    lora = (
        '{"alpha": 16.0, "dora": false, "dropout": 0.0, "kind": "lora", "layers": "all", "rank": 8, '
        '"rslora": false, "targets": "all"}'
    )
    assert json.dumps(stage.adapter.model_dump(), sort_keys=True) == lora
    assert f'"adapter": {lora}' in stage.canonical({})
    assert Full().model_dump() == {"kind": "full", "targets": "everything", "layers": "all"}


@pytest.mark.parametrize(
    "change",
    [
        {"init": "pissa"},
        {"lr_ratio": 2.0},
        {"ranks": {"mlp": 4}},
        {"alphas": {"mlp": 4.0}},
        {"exclude": "q_proj"},
    ],
)
def test_a_later_field_that_is_set_is_written_and_read_back(change: dict[str, Any]) -> None:
    adapter = Lora(rank=8, alpha=16.0, **change)
    written = adapter.model_dump()
    assert written.items() >= change.items()
    assert ADAPTER.validate_python(written) == adapter
    assert ADAPTER.validate_json(adapter.model_dump_json()) == adapter
    assert written != Lora(rank=8, alpha=16.0).model_dump()


def test_adalora_is_written_whole_and_read_back() -> None:
    adapter = AdaLora(init_rank=8, target_rank=4, alpha=16.0)
    assert set(adapter.model_dump()) == set(AdaLora.model_fields)
    assert ADAPTER.validate_json(adapter.model_dump_json()) == adapter


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"kind": "lora", "rank": 2, "alpha": 4.0, "dora": True, "init": "pissa"},
            "exclude each other",
        ),
        ({"kind": "lora", "rank": 2, "alpha": 4.0, "init": "best"}, "'default', 'gaussian'"),
        ({"kind": "lora", "rank": 2, "alpha": 4.0, "targets": "mlp,norms"}, "'norms' is for full"),
        (
            {"kind": "lora", "rank": 2, "alpha": 4.0, "targets": "everything"},
            "is for full adapters",
        ),
        ({"kind": "lora", "rank": 2, "alpha": 4.0, "ranks": {"mlp": 0}}, "greater than 0"),
        ({"kind": "lora", "rank": 2, "alpha": 4.0, "layers": "0-3,"}, "pattern"),
        (
            {"kind": "adalora", "init_rank": 4, "target_rank": 4, "alpha": 1.0},
            "nothing would be pruned",
        ),
        (
            {
                "kind": "adalora",
                "init_rank": 4,
                "target_rank": 2,
                "alpha": 1.0,
                "warmup_share": 0.5,
                "final_share": 0.5,
            },
            "leave no step for pruning",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(values)


ADA = AdaLora(init_rank=4, target_rank=2, alpha=8.0)
LORA, DORA = Lora(rank=2, alpha=4.0), Lora(rank=2, alpha=4.0, dora=True)
PISSA = Lora(rank=2, alpha=4.0, init="pissa")


@pytest.mark.parametrize(
    ("adapter", "handoff", "reason"),
    [
        (Full(), "stack", "full weights only merge"),
        (Full(), "merge", None),
        (ADA, "continue", "has spent its budget"),
        (ADA, "detach", None),
        (PISSA, "continue", "becomes its difference"),
        (PISSA, "stack", None),
        (LORA, "continue", None),
    ],
)
def test_handoffs_that_an_adapter_cannot_do_have_a_reason(
    adapter: Any, handoff: str, reason: str | None
) -> None:
    found = handoff_conflict(adapter, handoff)
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.parametrize(
    ("adapter", "stacked", "is_legal"),
    [
        (Full(), [DORA], True),
        (LORA, [LORA, ADA, PISSA], True),
        (ADA, [LORA], True),
        (DORA, [], True),
        (DORA, [LORA], False),
        (ADA, [DORA], False),
        (LORA, [LORA, DORA], False),
    ],
)
def test_dora_alone_neither_stacks_nor_is_stacked_upon(
    adapter: Any, stacked: list[Any], is_legal: bool
) -> None:
    assert (stack_conflict(adapter, stacked) is None) == is_legal


@pytest.mark.parametrize(
    ("adapter", "handoff", "is_legal"),
    [
        (Full(), "merge", False),
        (ADA, "stack", False),
        (DORA, "stack", False),
        (PISSA, "stack", False),
        (LORA, "merge", False),
        (LORA, "stack", True),
        (LORA, "continue", True),
    ],
)
def test_a_quantised_base_takes_plain_lora_that_is_not_merged(
    adapter: Any, handoff: str, is_legal: bool
) -> None:
    assert (quantised_conflict(adapter, handoff) is None) == is_legal


def test_layers_unite_parts_and_refuse_parts_that_select_nothing() -> None:
    assert layer_numbers("0-2,20-21", 30) == (0, 1, 2, 20, 21)
    assert layer_numbers("5,3,3-4", 30) == (3, 4, 5)
    assert layer_numbers("0%-10%,29", 30) == (0, 1, 2, 29)
    assert layer_numbers("all", 2) == (0, 1)
    for text, part in (("0-3,30", "'30'"), ("50%-50%", "'50%-50%'"), ("3-1", "'3-1'")):
        with pytest.raises(ValueError, match=rf"layers {part} select nothing or too much"):
            layer_numbers(text, 30)
    with pytest.raises(ValueError, match=r"'upper' is not a selection of layers"):
        layer_numbers("upper", 30)


def test_targets_join_groups_and_names_without_repeats() -> None:
    assert target_modules("mlp, q_proj,up_proj") == ("gate_proj", "up_proj", "down_proj", "q_proj")
    assert target_modules("embeddings,norms") == ("embeddings", "norms")


def test_a_value_of_a_name_counts_before_its_groups_and_the_smaller_group_first() -> None:
    found = by_module({"q_proj": 5, "attention": 1, "all": 3})
    assert found["q_proj"] == 5
    assert found["k_proj"] == 1
    assert found["up_proj"] == 3


def test_labels_tell_kind_and_size() -> None:
    assert [adapter_label(one) for one in (Full(), LORA, ADA)] == [
        "full",
        "lora r2",
        "adalora r4>2",
    ]


def test_ranks_of_their_own_are_searched_like_any_value() -> None:
    searched = spec(
        kind="lora", ranks={"attention": {"choice": (2, 4)}, "mlp": 8}, alphas={"mlp": 8}
    )
    values = adapter_values("tone", searched)
    assert values["ranks.attention"] == Choice("tone.ranks.attention", (2, 4))
    decided = {name: 2 if isinstance(value, Choice) else value for name, value in values.items()}
    adapter = ADAPTER.validate_python(adapter_data(decided))
    assert adapter.ranks == {"attention": 2, "mlp": 8}
    assert adapter.alphas == {"mlp": 8.0}
    assert isinstance(adapter.alphas["mlp"], float)


def test_fixed_whole_numbers_are_the_same_adapter_as_real_ones() -> None:
    found = [
        ADAPTER.validate_python(
            adapter_data(adapter_values("x", spec(kind="adalora", alpha=alpha)))
        )
        for alpha in (16, 16.0)
    ]
    assert found[0].model_dump_json() == found[1].model_dump_json()
    assert found[0] == AdaLora(init_rank=12, target_rank=8, alpha=16.0)


def test_a_split_point_is_one_parameter_and_becomes_shares_of_the_depth() -> None:
    above = spec(kind="lora", layers={"above": {"low": 0.2, "high": 0.8}})
    assert adapter_values("tone", above)["layers.above"] == Float("tone.layers", 0.2, 0.8)
    assert adapter_data({"layers.above": 0.334}) == {"layers": "33%-100%"}
    assert adapter_data({"layers.below": 0.334}) == {"layers": "0%-33%"}
    assert list(layers_texts(above.layers)) == [
        (("above",), "20%-100%"),
        (("above",), "80%-100%"),
    ]
    assert adapter_values("x", spec(kind="full", layers={"below": 0.5}))["layers.below"] == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"above": 0.5, "below": 0.5}, "exactly one of above and below"),
        ({"split": "cut"}, "exactly one of above and below"),
        ({"above": 0.0}, "leaves one side without layers"),
        ({"below": {"low": 0.2, "high": 1.0}}, "leaves one side without layers"),
        ({"above": {"choice": (0.5, 0.001)}}, "leaves one side without layers"),
    ],
)
def test_a_split_that_is_none_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(kind="full", layers=values)


def influence(**adapter: Any) -> InfluenceSpec:
    return InfluenceSpec(
        method="sft", adapter=adapter, mix={"chat": 1.0}, dose_tokens=100, learning_rate=1e-3
    )


def test_two_influences_share_a_named_split_and_never_overlap() -> None:
    point = {"low": 0.1, "high": 0.9}
    space = Space(
        {
            "lower": influence(kind="full", layers={"below": point, "split": "cut"}),
            "upper": influence(kind="lora", layers={"above": point, "split": "cut"}),
        },
        OrderSpec(min_stages=2),
    )
    assert [one.name for one in space.parameters()] == ["split.cut"]
    for seed in range(20):
        recipe = space.decode(space.sample(seed))
        places = {stage.influence: stage.adapter.layers for stage in recipe.stages}
        upper = set(layer_numbers(places["upper"], 30))
        lower = set(layer_numbers(places["lower"], 30))
        assert sorted(upper | lower) == list(range(30))
        assert not upper & lower


def test_a_named_split_with_two_ranges_is_a_conflict() -> None:
    layers = {"above": {"low": 0.1, "high": 0.9}, "split": "cut"}
    one = spec(kind="lora", layers=layers)
    same = spec(kind="full", layers={"below": layers["above"], "split": "cut"})
    other = spec(kind="full", layers={"below": 0.5, "split": "cut"})
    assert split_conflict({"a": one, "b": same}) is None
    assert "influences a and b give the split 'cut' different ranges" in str(
        split_conflict({"a": one, "b": other})
    )


def test_a_space_decodes_every_kind_of_adapter() -> None:
    space = Space(
        {
            "a": influence(kind="adalora", target_rank={"low": 2, "high": 6}),
            "b": influence(kind="lora", init={"choice": ("default", "pissa")}, lr_ratio=4),
        },
        OrderSpec(min_stages=2),
    )
    assert {one.name for one in space.parameters()} == {"a.target_rank", "b.init"}
    kinds = set()
    for seed in range(10):
        for stage in space.decode(space.sample(seed)).stages:
            kinds.add(stage.adapter.kind)
            if isinstance(stage.adapter, Lora):
                assert isinstance(stage.adapter.lr_ratio, float)
    assert kinds == {"adalora", "lora"}


def test_parameters_of_a_spec_keep_their_kinds() -> None:
    values = adapter_values("a", spec(kind="adalora", init_rank={"low": 8, "high": 16}))
    assert values["init_rank"] == Int("a.init_rank", 8, 16)
    assert isinstance(SplitSpec(above=FloatRange(low=0.1, high=0.2)).point, FloatRange)
