"""Claims about saved models: plain transformers and PEFT load them and compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from stage_tools import full, logits, lora, model_folder, resident, run, stage, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from search.errors import SpecError
from search.stages.model_ref import ModelRef
from search.stages.save import save_model


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def trained(*stages: Any) -> ModelRef:
    ref = resident().fresh()
    for this in stages:
        run(ref, this)
    return ref


@pytest.mark.parametrize(
    "settings",
    [lora(), lora(rslora=True, layers="1-1"), lora(dora=True, targets="q_proj,down_proj")],
    ids=["lora", "rslora", "dora"],
)
def test_one_adapter_on_the_base_is_saved_as_an_adapter(tmp_path: Path, settings: Any) -> None:
    ref = trained(stage(adapter=settings, handoff="stack"))
    folder = save_model(ref, tmp_path / "out", "auto")
    assert (folder / "adapter_model.safetensors").exists()
    loaded = PeftModel.from_pretrained(plain(model_folder()), folder)
    torch.testing.assert_close(logits(loaded), logits(ref.model), atol=1e-6, rtol=0)
    assert not torch.allclose(logits(loaded), logits(plain(model_folder())), atol=1e-3)


@pytest.mark.parametrize(
    "stages",
    [
        (stage(handoff="stack"),),
        (stage(handoff="stack", adapter=lora(dora=True)),),
        (stage(handoff="stack"), stage("dpo", handoff="detach", adapter=lora(rank=3))),
        (stage(adapter=full()),),
        (stage(adapter=full()), stage("dpo", handoff="stack")),
        (),
    ],
    ids=["one", "dora", "two", "full", "full-and-one", "base"],
)
def test_a_merged_model_is_plain_and_the_same_function(tmp_path: Path, stages: Any) -> None:
    ref = trained(*stages)
    before, output = weights(ref.model), logits(ref.model)
    folder = save_model(ref, tmp_path / "deep" / "out", "merged")
    torch.testing.assert_close(logits(plain(folder)), output, atol=1e-5, rtol=0)
    assert not (folder / "adapter_config.json").exists()
    assert AutoTokenizer.from_pretrained(folder).chat_template == ref.tokenizer.chat_template
    # Saving is looking: not a bit of the model in memory has moved.
    assert torch.equal(logits(ref.model), output)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(ref.model).items())


def test_several_adapters_are_saved_as_one_with_the_same_effect(tmp_path: Path) -> None:
    second = lora(rank=3, alpha=7.0, rslora=True, targets="q_proj,down_proj", layers="1-1")
    ref = trained(stage(handoff="stack"), stage("dpo", handoff="stack", adapter=second))
    folder = save_model(ref, tmp_path / "out", "adapter")
    loaded = PeftModel.from_pretrained(plain(model_folder()), folder)
    torch.testing.assert_close(logits(loaded), logits(ref.model), atol=1e-6, rtol=0)
    shapes = {name: p.shape for name, p in loaded.named_parameters() if ".lora_A." in name}
    (both,) = (shape for name, shape in shapes.items() if "layers.1.self_attn.q_proj" in name)
    (one,) = (shape for name, shape in shapes.items() if "layers.0.self_attn.q_proj" in name)
    assert both[0] == one[0] + 3
    # Without being asked for an adapter, two are merged as before.
    assert (save_model(ref, tmp_path / "auto") / "model.safetensors").exists()


def test_auto_merges_what_is_not_one_adapter_on_the_base(tmp_path: Path) -> None:
    ref = trained(stage(adapter=full()), stage(handoff="stack"))
    folder = save_model(ref, tmp_path / "out", "auto")
    assert (folder / "model.safetensors").exists()
    with pytest.raises(
        SpecError, match=r"not the base with adapters \(1 stacked, base weights changed\)"
    ):
        save_model(ref, tmp_path / "other", "adapter")


def test_an_existing_folder_is_not_overwritten_and_no_part_is_left(tmp_path: Path) -> None:
    ref = trained()
    (tmp_path / "out").mkdir()
    with pytest.raises(SpecError, match="exists already; name a folder that does not"):
        save_model(ref, tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ref.tokenizer), "save_pretrained", _fail)
        with pytest.raises(OSError, match="disk full"):
            save_model(ref, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _fail(*_: Any, **__: Any) -> None:
    raise OSError("disk full")
