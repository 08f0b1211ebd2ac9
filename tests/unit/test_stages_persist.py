"""What a stage trained, kept in files and put back: the same bits as after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stage_tools import TRAINING, lora, resident, sources, written_to

from search.errors import StageError
from search.stages import persist
from search.stages.persist import CHUNK, FILE, StageWeights, needs_parent, restore_stage
from search.stages.run import run_stage
from spaces.recipe import Full, Stage


def stage(adapter: Any, method: str = "sft", handoff: str = "merge") -> Stage:
    return Stage(
        influence="x",
        method=method,
        adapter=adapter,
        mix={"pairs" if method == "dpo" else "chat": 1.0},
        dose_tokens=200,
        learning_rate=0.01,
        beta=0.1 if method == "dpo" else None,
        handoff=handoff,
    )


def bits(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


RECIPES = {
    "merged adapter": [stage(lora())],
    "full weights": [stage(Full())],
    "full weights of one layer": [stage(Full(layers="1-1"))],
    "adapter on trained weights": [stage(Full()), stage(lora(), "dpo")],
    "weights under a stacked adapter": [stage(lora(), handoff="stack"), stage(Full())],
    "two stacked": [stage(lora(), handoff="stack"), stage(lora(), handoff="stack")],
    "set aside": [stage(lora(), handoff="detach"), stage(lora(), "dpo")],
    "trained on": [stage(lora(), handoff="continue"), stage(lora(), "dpo")],
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(RECIPES))
def test_restored_model_has_the_bits_of_the_trained_one(
    name: str, dtype: str, tmp_path: Path
) -> None:
    base = resident(dtype=dtype)
    ref = base.fresh()
    start = bits(ref.model)
    for number, step in enumerate(RECIPES[name]):
        (tmp_path / str(number)).mkdir()
        run_stage(ref, step, sources(), TRAINING, seed=3, keep=written_to(tmp_path / str(number)))
    trained = bits(ref.model)
    assert any(not torch.equal(trained[key], start.get(key, trained[key] + 1)) for key in trained)
    ref = base.fresh()
    for number, step in enumerate(RECIPES[name]):
        restore_stage(ref, step, tmp_path / str(number))
    restored = bits(ref.model)
    assert restored.keys() == trained.keys()
    assert all(torch.equal(restored[key], trained[key]) for key in trained)


def test_stage_after_restored_ones_trains_as_after_trained_ones(tmp_path: Path) -> None:
    base, first, second = resident(), stage(lora(), handoff="continue"), stage(lora(), "dpo")
    ref = base.fresh()
    run_stage(ref, first, sources(), TRAINING, seed=3, keep=written_to(tmp_path))
    direct = run_stage(ref, second, sources(), TRAINING, seed=4)
    ref = base.fresh()
    restore_stage(ref, first, tmp_path)
    assert run_stage(ref, second, sources(), TRAINING, seed=4).loss_by_step == direct.loss_by_step


def test_only_full_training_of_everything_stands_alone() -> None:
    ref = resident().fresh()
    assert not needs_parent(ref, stage(Full()))
    assert needs_parent(ref, stage(Full(layers="0-0")))
    assert needs_parent(ref, stage(lora()))


def test_small_changes_take_less_room_than_the_weights(tmp_path: Path) -> None:
    ref = resident().fresh()
    weights = dict(ref.model.named_parameters())
    ref.base.keep(weights)
    with torch.no_grad():
        for parameter in weights.values():
            parameter.mul_(1 + 2**-12)  # moves the lower 12 of 23 bits
    StageWeights.of(ref, list(weights.values())).write(tmp_path)
    n_bytes = sum(parameter.numel() * 4 for parameter in weights.values())
    assert (tmp_path / FILE).stat().st_size < 0.75 * n_bytes
    resident().fresh()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_many_chunks_come_back_bit_for_bit(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 12,800 and fewer weights in a tensor: some fill their last chunk, most do not.
    monkeypatch.setattr(persist, "CHUNK", 1000)
    base = resident(dtype=dtype)
    ref = base.fresh()
    run_stage(ref, stage(Full()), sources(), TRAINING, seed=3, keep=written_to(tmp_path))
    trained = bits(ref.model)
    monkeypatch.undo()  # how it was packed is in the file
    ref = base.fresh()
    restore_stage(ref, stage(Full()), tmp_path)
    restored = bits(ref.model)
    assert all(torch.equal(restored[key], trained[key]) for key in trained)


def test_weights_that_were_packed_whole_in_older_files_are_still_read(tmp_path: Path) -> None:
    base = resident()
    ref = base.fresh()
    run_stage(ref, stage(Full()), sources(), TRAINING, seed=3, keep=written_to(tmp_path))
    trained = bits(ref.model)
    # Each tensor here is smaller than a chunk, so that only the metadata differ.
    tensors = load_file(tmp_path / FILE)
    assert max(value.numel() for value in trained.values()) < CHUNK
    shapes = {name: list(trained[name].shape) for name in tensors}
    save_file(tensors, tmp_path / FILE, metadata={"packed": json.dumps(shapes)})
    ref = base.fresh()
    restore_stage(ref, stage(Full()), tmp_path)
    restored = bits(ref.model)
    assert all(torch.equal(restored[key], trained[key]) for key in trained)


def test_files_of_another_stage_are_refused(tmp_path: Path) -> None:
    base = resident()
    run_stage(
        base.fresh(),
        stage(Full(layers="0-0")),
        sources(),
        TRAINING,
        seed=3,
        keep=written_to(tmp_path),
    )
    with pytest.raises(StageError, match="other parameters"):
        restore_stage(base.fresh(), stage(Full(layers="1-1")), tmp_path)
