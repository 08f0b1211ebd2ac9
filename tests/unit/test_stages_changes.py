"""What stored stages changed: equal to the difference of the models before and after, whatever the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stage_tools import TRAINING, full, lora, resident, sources, stage, written_to

from search.stages.adapters import Factors
from search.stages.changes import Walk, stage_changes
from search.stages.combine import changed_weights
from search.stages.places import weight_kinds
from search.stages.run import run_stage
from spaces.adapter import AdaLora
from spaces.recipe import Stage

ADALORA = AdaLora(init_rank=4, target_rank=2, alpha=8.0)
RECIPES = {
    "merged": [stage(adapter=lora())],
    "full": [stage(adapter=full())],
    "full under stacked": [stage(adapter=lora(), handoff="stack"), stage(adapter=full())],
    "stacked": [stage(adapter=lora(), handoff="stack"), stage("dpo", adapter=lora(rslora=True))],
    "set aside": [stage(adapter=lora(), handoff="detach"), stage("dpo", adapter=lora())],
    "trained on": [stage(adapter=lora(), handoff="continue"), stage("dpo", adapter=lora())],
    "adalora": [stage(adapter=ADALORA)],
    "on weights": [stage(adapter=lora(init="pissa"))],
    "dora": [stage(adapter=lora(dora=True), handoff="stack")],
}


def trained(recipe: list[Stage], folder: Path) -> list[Path]:
    ref = resident().fresh()
    places = [folder / str(number) for number in range(len(recipe))]
    for step, place in zip(recipe, places, strict=True):
        place.mkdir()
        run_stage(ref, step, sources(), TRAINING, seed=3, keep=written_to(place))
    return places


def dense(change: Any) -> torch.Tensor:
    return change.scale * change.b @ change.a if isinstance(change, Factors) else change


def state(ref: Any) -> dict[str, torch.Tensor]:
    """All weights that differ from the base, in force."""
    return changed_weights(ref)


@pytest.mark.parametrize("name", list(RECIPES))
def test_change_is_the_model_after_less_the_model_before(name: str, tmp_path: Path) -> None:
    places = trained(RECIPES[name], tmp_path)
    ref = resident().fresh()
    originals = {key: value.detach().clone() for key, value in ref.model.named_parameters()}
    for step, place in zip(RECIPES[name], places, strict=True):
        before = state(ref)
        changes = dict(stage_changes(ref, step, place))
        after = state(ref)
        moved = 0.0
        for key in originals:
            expected = after.get(key, originals[key]) - before.get(key, originals[key])
            found = dense(changes[key]) if key in changes else torch.zeros_like(expected)
            assert torch.allclose(found, expected, atol=1e-6), key
            moved += float(expected.square().sum())
        assert moved > 0
        is_factored = step.adapter.kind != "full" and not getattr(step.adapter, "dora", False)
        assert all(isinstance(change, Factors) == is_factored for change in changes.values())


def test_stage_on_some_layers_moves_only_them(tmp_path: Path) -> None:
    recipe = [stage(adapter=full(layers="1-1")), stage("dpo", adapter=lora(targets="attention"))]
    places = trained(recipe, tmp_path)
    walk = Walk(resident().fresh(), tmp_path)
    for step, place in zip(recipe, places, strict=True):
        walk.go(step, place)
    rows = list(walk.rows())
    assert {row.layer for row in rows if row.stages[0] is not None} == {1}
    assert {row.kind for row in rows if row.stages[1] is not None} == {"q", "k", "v", "o"}
    shared = {row.name for row in rows if row.pairs}
    assert shared == {
        row.name for row in rows if row.layer == 1 and row.kind in ("q", "k", "v", "o")
    }
    for row in rows:
        own = row.stages[1]
        if own is not None:
            # Rank 2 by the adapter, and the stable rank is never above the effective one.
            assert own.effective_rank is not None
            assert own.stable_rank is not None
            assert 1 <= own.stable_rank <= own.effective_rank * (1 + 1e-6) <= 2.001
    norms = {row.name: row.square for row in rows}
    model = resident().fresh().model
    assert norms == {
        name: pytest.approx(float(one.detach().double().square().sum()))
        for name, one in model.named_parameters()
    }


def test_same_stage_twice_overlaps_whole(tmp_path: Path) -> None:
    # Stacked, restored twice from the same file: the second change is the first one again.
    recipe = [stage(adapter=lora(), handoff="stack"), stage(adapter=lora(), handoff="stack")]
    place = trained(recipe[:1], tmp_path)[0]
    again = tmp_path / "again"
    again.mkdir()
    from safetensors.torch import load_file, save_file

    tensors = load_file(place / "trained.safetensors")
    renamed = {key.replace(".stage1.", ".stage2."): value for key, value in tensors.items()}
    save_file(renamed, again / "trained.safetensors")
    walk = Walk(resident().fresh(), tmp_path)
    walk.go(recipe[0], place)
    walk.go(recipe[1], again)
    pairs = [(row, row.pairs[0, 1]) for row in walk.rows() if row.pairs]
    assert pairs
    for row, shared in pairs:
        own = row.stages[0]
        assert own is not None
        assert shared.product == pytest.approx(own.square)
        assert (shared.left, shared.right) == pytest.approx((1.0, 1.0), abs=1e-4)
        assert shared.left_chance is not None
        assert shared.left_chance.mean < 0.5


def test_weights_have_the_kinds_that_people_know() -> None:
    kinds = weight_kinds(resident().fresh().model)
    assert kinds["model.layers.0.self_attn.q_proj.weight"] == "q"
    assert kinds["model.layers.1.mlp.down_proj.weight"] == "down"
    assert kinds["model.layers.0.input_layernorm.weight"] == "norms"
    assert kinds["model.embed_tokens.weight"] == "embeddings"
