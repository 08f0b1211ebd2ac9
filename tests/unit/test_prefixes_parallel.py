"""Parallel stages and merges: what they make of the models of their branches, and what the store spares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from prefix_tools import Bits, equal, prefixes, train_all
from prefix_tools import sft_stage as stage
from stage_tools import lora, resident

from search.errors import StageError
from search.stages.combine import changed_weights
from search.store import StageStore
from spaces.combine import Combination
from spaces.recipe import Branch, Full, Member, Merge, Parallel, Recipe, Stage

FIRST = stage(lora(), "first", "done")


def parallel(*parts: tuple[float, tuple[Stage, ...]], **combination: Any) -> Parallel:
    branches = {
        f"b{n}": Branch(weight=weight, stages=stages) for n, (weight, stages) in enumerate(parts)
    }
    return Parallel(influence="apart", branches=branches, combination=Combination(**combination))


def weights_after(*stages: Any) -> Bits:
    """Return all weights with adapters folded in."""
    recipe = Recipe(stages=stages)
    walk = prefixes(recipe, None)
    for number in range(1, len(stages) + 1):
        walk.stage(number)
    ref = walk.model(len(stages))
    changed = changed_weights(ref)
    whole = {
        name.replace(".base_layer", ""): value.detach().clone()
        for name, value in ref.model.named_parameters()
        if ".lora_" not in name
    }
    return whole | changed


@pytest.mark.parametrize(
    ("adapter", "handoff"), [(lora(), "merge"), (lora(), "stack"), (Full(), "merge")]
)
def test_one_branch_of_weight_one_is_the_sequence(adapter: Any, handoff: str) -> None:
    one = stage(adapter).model_copy(update={"handoff": handoff})
    in_series = weights_after(FIRST, one)
    in_parallel = weights_after(FIRST, parallel((1.0, (one,))))
    assert equal(in_parallel, in_series)


def test_linear_branches_add_their_weighted_changes() -> None:
    tone, taste = stage(lora()), stage(Full(), "taste", "done")
    start, after_tone, after_taste = (
        weights_after(FIRST),
        weights_after(FIRST, tone),
        weights_after(FIRST, taste),
    )
    found = weights_after(FIRST, parallel((0.7, (tone,)), (-0.3, (taste,))))
    for name, value in found.items():
        expected = (
            start[name]
            + 0.7 * (after_tone[name] - start[name])
            - 0.3 * (after_taste[name] - start[name])
        )
        assert torch.allclose(value, expected, atol=1e-6, rtol=0)
    assert any(not torch.equal(found[name], start[name]) for name in found)


def test_adapter_of_the_stage_before_is_part_of_the_result() -> None:
    stacked = FIRST.model_copy(update={"handoff": "stack"})
    as_received = weights_after(stacked)
    found = weights_after(stacked, parallel((1.0, ())))
    assert equal(found, as_received)


def test_branch_without_weight_is_neither_trained_nor_seen(tmp_path: Path) -> None:
    tone, taste = stage(lora()), stage(Full(), "taste", "done")
    recipe = Recipe(stages=(parallel((1.0, (tone,)), (0.0, (taste,))),))
    walk, found = train_all(recipe, None)
    assert [record.stage.influence for record in walk.trained.values()] == ["tone", "apart"]
    assert equal(found, weights_after(tone))


def test_branches_are_shared_with_recipes_that_train_them_in_series(tmp_path: Path) -> None:
    tone, taste = stage(lora()), stage(Full(), "taste", "done")
    train_all(Recipe(stages=(FIRST, tone)), StageStore(tmp_path), "series")
    both = Recipe(stages=(FIRST, parallel((0.5, (tone,)), (0.5, (taste,)))))
    walk, found = train_all(both, StageStore(tmp_path), "parallel")
    record = walk.stage(2)
    assert [part.is_stored for part in record.trainings] == [True, False]
    assert record.trained_tokens > record.spent_tokens
    assert record.spent_tokens == record.branches["b1"][0].trained_tokens
    assert equal(found, weights_after(*both.stages))


def test_stored_parallel_stage_costs_nothing_and_is_the_same_model(tmp_path: Path) -> None:
    recipe = Recipe(
        stages=(
            FIRST,
            parallel(
                (0.6, (stage(lora()),)),
                (0.4, (stage(lora(), "taste", "done"),)),
                how="ties",
                density=0.3,
            ),
            stage(lora(), "last"),
        )
    )
    _, trained = train_all(recipe, StageStore(tmp_path), "one")
    walk, restored = train_all(recipe, StageStore(tmp_path), "two")
    assert walk.trained == {}
    assert equal(restored, trained)
    record = walk.stage(2)
    assert record.is_stored
    assert record.spent_tokens == 0
    assert record.trained_tokens > 0
    assert record.stage == recipe.stages[1]


def test_random_masks_depend_on_what_came_before_alone() -> None:
    both = parallel(
        (0.5, (stage(lora()),)),
        (0.5, (stage(Full(), "taste", "done"),)),
        how="dare_ties",
        density=0.5,
    )
    assert equal(weights_after(both), weights_after(both))
    plain = weights_after(both.model_copy(update={"combination": Combination()}))
    assert not equal(weights_after(both), plain)


def test_merge_adds_what_a_stored_stage_changed(tmp_path: Path) -> None:
    donor, _ = train_all(Recipe(stages=(FIRST, stage(Full()))), StageStore(tmp_path))
    digest = donor.stage(2).digest
    merge = Merge(
        influence="blend",
        models={"received": Member(weight=1.0), "donor": Member(weight=0.5, digest=digest)},
    )
    taste = stage(lora(), "taste", "done")
    _, found = train_all(Recipe(stages=(taste, merge)), StageStore(tmp_path))
    base, own, other = weights_after(), weights_after(taste), weights_after(FIRST, stage(Full()))
    for name, value in found.items():
        expected = own[name] + 0.5 * (other[name] - base[name])
        assert torch.allclose(value, expected, atol=1e-6, rtol=0)


def test_merge_without_its_model_says_what_is_missing(tmp_path: Path) -> None:
    merge = Merge(influence="blend", models={"donor": Member(weight=1.0, digest="ab" * 32)})
    walk = prefixes(Recipe(stages=(merge,)), StageStore(tmp_path))
    with pytest.raises(
        StageError, match=r"model donor \(abababababab\): the stage store does not hold"
    ):
        walk.stage(1)


def test_merge_refuses_a_model_of_another_base(tmp_path: Path) -> None:
    donor, _ = train_all(Recipe(stages=(FIRST,)), StageStore(tmp_path))
    merge = Merge(
        influence="blend", models={"donor": Member(weight=1.0, digest=donor.stage(1).digest)}
    )
    walk = prefixes(Recipe(stages=(merge,)), StageStore(tmp_path))
    base = resident()
    own = base.fingerprint
    try:
        base.fingerprint = "another"
        with pytest.raises(StageError, match="comes from another base model"):
            walk.stage(1)
    finally:
        base.fingerprint = own
