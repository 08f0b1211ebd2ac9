"""Generation by vLLM, against a module with vLLM's interface that reads the folder it is given and writes greedily."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny import write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.greedy import greedy_ids
from evaluators.models import LoadedModel
from evaluators.spec import GenerationSpec
from evaluators.vllm_writer import VllmWriter
from search.check import all_problems

PROMPTS = ["the cat", "hello to", "an owl, a bee"]


class Llm:
    """What we use of `vllm.LLM`: it ends a reply with the stop token, as vLLM does."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **settings: Any) -> None:
        Llm.made.append(settings)
        self.files = {path.name for path in Path(settings["model"]).iterdir()}
        dtype = getattr(torch, settings["dtype"])
        self.model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype)

    def generate(self, prompts: Any, settings: Any, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        assert "model.safetensors" in self.files
        found = []
        for prompt, how in zip(prompts, settings, strict=True):
            assert (how.temperature, how.detokenize) == (0.0, False)
            ends = set(how.stop_token_ids)
            with torch.inference_mode():
                (ids,) = greedy_ids(
                    self.model, ends, [prompt["prompt_token_ids"]], [how.max_tokens]
                )
            ids = ids if len(ids) == how.max_tokens else [*ids, min(ends)]
            found.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids))]))
        return found


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """A tiny model that writes by the stand-in."""
    stub = SimpleNamespace(LLM=Llm, SamplingParams=lambda **given: SimpleNamespace(**given))
    monkeypatch.setitem(sys.modules, "vllm", stub)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Llm, "made", [])
    write_model(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    return LoadedModel(loaded, tokenizer, writer=VllmWriter(0.3))


def test_vllm_gets_weights_as_they_are_now_and_writes_what_we_would(model: LoadedModel) -> None:
    with torch.no_grad():  # as if trained: not what the folder on disk holds
        for parameter in model.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(3)))
    by_vllm = model.generate(PROMPTS, [6, 4, 9])
    ours = LoadedModel(model.model, model.tokenizer).generate(PROMPTS, [6, 4, 9])
    assert by_vllm == ours
    assert [reply.is_cut for reply in by_vllm] == [reply.is_cut for reply in ours]
    (settings,) = Llm.made
    assert settings["gpu_memory_utilization"] == 0.3
    assert settings["trust_remote_code"] is False
    assert not Path(settings["model"]).exists()


def test_a_reply_that_ended_loses_its_end_token_and_is_not_cut(model: LoadedModel) -> None:
    free = LoadedModel(model.model, model.tokenizer).generate(["the cat"], 6)
    end = model.tokenizer(free[0])["input_ids"][2]
    model.model.generation_config.eos_token_id = [model.tokenizer.eos_token_id, end]
    ours = LoadedModel(model.model, model.tokenizer).generate(["the cat"], 6)
    by_vllm = model.generate(["the cat"], 6)
    assert (by_vllm, by_vllm[0].is_cut) == (ours, False)


def test_adapters_beside_the_weights_are_refused_and_not_left_out(model: LoadedModel) -> None:
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), model.model)
    with pytest.raises(ValueError, match="handoff: merge"):
        model.generate(PROMPTS, 4)
    assert Llm.made == []


def test_without_card_or_vllm_generation_says_so(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="install it"):
        model.generate(PROMPTS, 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no card"):
        model.generate(PROMPTS, 4)


@pytest.mark.parametrize(
    ("device", "remedy"), [("cpu", "needs CUDA"), ("cuda", "is not installed here")]
)
def test_check_refuses_vllm_where_it_cannot_run(device: str, remedy: str, good_study: Path) -> None:
    text = f"generation: {{backend: vllm}}\ncompute: {{device: {device}}}\n"
    good_study.write_text(good_study.read_text() + text)
    (problem,) = [each for each in all_problems(good_study) if "generation" in each.place]
    assert not problem.is_warning
    assert remedy in problem.text


def test_the_default_writes_with_transformers() -> None:
    assert GenerationSpec().backend == "transformers"
