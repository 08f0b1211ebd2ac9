"""Influences that combine models: what they mean as stages, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from spaces.influence import AnyInfluence
from spaces.order import OrderSpec
from spaces.recipe import Merge, Parallel, Recipe, Stage
from spaces.space import Space

ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyInfluence)
TRAINED = """
tone: {method: sft, adapter: {kind: lora, rank: {choice: [4, 8]}}, mix: {chat: 1.0}, dose_tokens: 400,
       learning_rate: 1.0e-3}
taste: {method: dpo, adapter: {kind: full}, mix: {pairs: 1.0}, dose_tokens: {low: 100, high: 900},
        learning_rate: 1.0e-5}
"""
APART = """
apart:
  method: parallel
  branches: {warm: {stages: [tone, tone]}, picky: {stages: [taste]}}
  weights: {simplex: {warm: {low: 0.25}, picky: {}}}
  combination: {how: {choice: [linear, ties, svd]}, density: {low: 0.2, high: 0.8}, rank: 4}
"""
DIGEST = "0123456789abcdef" * 4


def influences(text: str) -> dict[str, Any]:
    return {name: ADAPTER.validate_json(_json(data)) for name, data in yaml.safe_load(text).items()}


def _json(data: Any) -> str:
    import json

    return json.dumps(data)


def space(text: str = TRAINED + APART) -> Space:
    return Space(influences(text), OrderSpec(influences=("apart",)))


def parallel(how: str, **values: Any) -> Parallel:
    params = {
        "order": "apart",
        "apart.weights.warm": 0.0,
        "apart.combination.how": how,
        "apart.combination.density": 0.5,
        "apart.warm.tone.rank": 4,
        "apart.warm.tone.2.rank": 8,
        "apart.picky.taste.dose_tokens": 300,
    }
    stage = space().decode({**params, **values}).stages[0]
    assert isinstance(stage, Parallel)
    return stage


def test_each_stage_of_a_branch_has_values_of_its_own() -> None:
    names = [parameter.name for parameter in space().parameters()]
    assert names == [
        "apart.weights.warm",
        "apart.combination.how",
        "apart.combination.density",
        "apart.warm.tone.rank",
        "apart.warm.tone.2.rank",
        "apart.picky.taste.dose_tokens",
    ]
    stage = parallel("linear")
    assert [each.adapter.rank for each in stage.branches["warm"].stages] == [4, 8]  # type: ignore[union-attr]
    assert stage.dose_tokens == 400 + 400 + 300
    assert stage.branches["warm"].weight == 0.25
    assert stage.branches["picky"].weight == 0.75


def test_settings_that_the_way_does_not_use_are_no_part_of_the_stage() -> None:
    assert parallel("linear").combination.model_dump() == {"how": "linear"}
    assert parallel("ties").combination.model_dump() == {"how": "ties", "density": 0.5}
    assert parallel("svd").combination.model_dump() == {"how": "svd", "rank": 4}
    other = parallel("linear", **{"apart.combination.density": 0.7})
    assert other == parallel("linear")


def test_digest_follows_what_matters_alone() -> None:
    def digest(stage: Parallel) -> str:
        return Recipe(stages=(stage,)).prefix_digests()[1]

    plain = parallel("ties")
    renamed = plain.model_copy(
        update={
            "influence": "x",
            "branches": {"a": plain.branches["warm"], "b": plain.branches["picky"]},
        }
    )
    assert digest(renamed) == digest(plain)
    for name, value in (
        ("apart.weights.warm", 0.5),
        ("apart.combination.density", 0.6),
        ("apart.warm.tone.2.rank", 4),
        ("apart.picky.taste.dose_tokens", 301),
    ):
        assert digest(parallel("ties", **{name: value})) != digest(plain)


def test_branch_after_a_prefix_has_the_digest_of_the_sequence() -> None:
    stage = parallel("linear")
    first = stage.branches["picky"].stages[0]
    recipe = Recipe(stages=(first, stage))
    series = Recipe(stages=(first, *stage.branches["warm"].stages))
    assert recipe.branch(2, "warm").prefix_digests() == series.prefix_digests()


def test_adapter_handed_on_must_fit_the_first_stage_of_each_branch() -> None:
    stage = parallel("linear")
    tone = stage.branches["warm"].stages[0].model_copy(update={"handoff": "continue"})
    with pytest.raises(ValidationError, match=r"stage 2 \(apart\) must train on the adapter"):
        Recipe(stages=(Stage.model_validate(tone), stage))


def test_random_recipes_round_trip() -> None:
    for seed in range(40):
        recipe = space().decode(space().sample(seed))
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_merge_means_the_models_with_their_weights() -> None:
    text = f"""
apart:
  method: merge
  models: {{own: {{weight: 1.0}}, donor: {{digest: '{DIGEST}', weight: {{low: -1.0, high: 1.0}}}}}}
"""
    found = space(text)
    assert [parameter.name for parameter in found.parameters()] == ["apart.donor.weight"]
    stage = found.decode({"order": "apart", "apart.donor.weight": -0.5}).stages[0]
    assert isinstance(stage, Merge)
    assert stage.digests == (DIGEST,)
    assert stage.label == "apart(1 own + -0.5 donor, linear)"
    assert stage.dose_tokens == 0


REFUSED = [
    ("{warm: {low: 0.25}, picky: {}}}", "{warm: {}, other: {}}}", "weights must name all"),
    ("  weights: {simplex: {warm: {low: 0.25}, picky: {}}}\n", "", "branches.warm: weight is missing"),
    ("{choice: [linear, ties, svd]}", "{choice: [linear, tie]}", "how 'tie' is not known"),
    ("{choice: [linear, ties, svd]}", "linear", "density belongs to"),
    (", rank: 4", "", "rank is missing; svd needs it"),
    ("picky: {stages: [taste]}", "picky: {stages: [taste], weight: 1.0}", "weight is given by weights"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "reason"), REFUSED)
def test_contradictions_are_refused_with_their_reason(old: str, new: str, reason: str) -> None:
    assert old in APART
    with pytest.raises(ValidationError, match=reason):
        influences(APART.replace(old, new))


def test_slerp_needs_two_models_and_shares() -> None:
    fixed = """
apart:
  method: parallel
  branches: {a: {stages: [tone], weight: A}, b: {stages: [], weight: B}}
  combination: {how: slerp}
"""
    influences(TRAINED + fixed.replace("A", "0.3").replace("B", "0.7"))
    with pytest.raises(ValidationError, match="slerp needs weights that sum to 1"):
        influences(TRAINED + fixed.replace("A", "0.3").replace("B", "0.3"))
    three = APART.replace("picky: {stages: [taste]}", "picky: {stages: [taste]}, c: {stages: []}")
    three = three.replace("picky: {}}}", "picky: {}, c: {}}}").replace(
        "[linear, ties, svd]", "[slerp, ties]"
    )
    with pytest.raises(ValidationError, match="slerp takes two models, and there are 3"):
        influences(TRAINED + three.replace(", rank: 4", ""))


def test_branch_of_what_does_not_train_is_refused() -> None:
    with pytest.raises(
        ValueError, match="branch warm names 'apart'; branches hold influences that train: tone"
    ):
        space(TRAINED + APART.replace("[tone, tone]", "[apart]"))
