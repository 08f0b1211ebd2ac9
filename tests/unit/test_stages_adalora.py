"""Claims about AdaLoRA: ranks shrink to the budget, and what is left is a plain LoRA that computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from stage_tools import (
    TRAINING,
    logits,
    lora,
    model_folder,
    resident,
    run,
    sources,
    stage,
    weights,
    written_to,
)
from transformers import AutoModelForCausalLM

from search.errors import StageError
from search.stages import handoff
from search.stages.adalora import Allocation, add_adalora, final_ranks, orthogonality
from search.stages.adapters import adapter_parameters, adapter_ranks, lora_layers
from search.stages.persist import restore_stage
from search.stages.run import run_stage
from search.stages.save import save_model
from spaces.adapter import AdaLora

DOSE = 900


def adalora(**settings: Any) -> AdaLora:
    return AdaLora(**{"init_rank": 4, "target_rank": 2, "alpha": 8.0, **settings})


def ada(method: str = "sft", handoff: str = "stack", **settings: Any) -> Any:
    return stage(method, adapter=adalora(**settings), handoff=handoff, dose_tokens=DOSE)


def test_ranks_begin_equal_shrink_and_end_at_the_budget() -> None:
    ref = resident().fresh()
    outcome = run(ref, ada())
    # 2 layers of 7 linear modules.
    assert len(outcome.adapter_ranks) == 14
    assert sum(outcome.adapter_ranks.values()) == 2 * 14
    assert max(outcome.adapter_ranks.values()) <= 4
    assert len(set(outcome.adapter_ranks.values())) > 1
    left = {name: rank for name, rank in outcome.adapter_ranks.items() if rank}
    assert adapter_ranks(ref.model, "stage1") == left


def test_the_budget_falls_step_by_step_between_the_phases() -> None:
    # 10 steps: 2 of warm-up, 4 of pruning to step 6, 4 with settled ranks. Cubic from 56 to 28: with t the share of
    # the pruning done, 28 + 28 (1 - t)^3 is 39.8, 31.5, 28.4, 28.
    ref = resident().fresh()
    settings = adalora(warmup_share=0.2, final_share=0.4)
    add_adalora(ref.model, "x", settings)
    allocation = Allocation(ref.model, "x", settings, 10)
    generator = torch.Generator().manual_seed(0)
    sums = []
    for _ in range(10):
        for parameter in adapter_parameters(ref.model, "x").values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            parameter.data -= 0.1 * parameter.grad
        allocation.after_step()
        sums.append(sum(final_ranks(ref.model, "x").values()))
    assert sums == [56, 56, 39, 31, 28, 28, 28, 28, 28, 28]
    resident().fresh()


def test_the_orthogonality_term_is_the_mean_distance_from_the_identity_and_reaches_the_gradients() -> (
    None
):
    two = torch.nn.Parameter(torch.tensor([[2.0, 0.0]]))  # A A' = 4, distance 3
    three = torch.nn.Parameter(torch.tensor([[3.0], [0.0]]))  # B' B = 9, distance 8
    found = {"m.lora_A.x": two, "m.lora_B.x": three, "m.lora_E.x": two}
    assert orthogonality(found).item() == pytest.approx((3 + 8) / 2)
    ref = resident().fresh()
    add_adalora(ref.model, "x", adalora(orthogonality=0.5))
    allocation = Allocation(ref.model, "x", adalora(orthogonality=0.5), 10)
    parameters = adapter_parameters(ref.model, "x")
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    allocation.add_orthogonality()
    name = next(name for name in parameters if ".lora_A." in name)
    a = parameters[name].detach().double()
    gram = a @ a.T - torch.eye(4)
    # d ||G|| / dA = 2 G A / ||G||, weight 0.5, 28 matrices.
    expected = 1 + 0.5 * 2 * gram @ a / gram.norm() / 28
    torch.testing.assert_close(parameters[name].grad, expected.float(), atol=1e-6, rtol=0)
    assert all(bool((p.grad == 1).all()) for n, p in parameters.items() if ".lora_E." in n)
    resident().fresh()


def test_orthogonality_changes_what_a_stage_trains() -> None:
    found = []
    for weight in (0.0, 0.5):
        ref = resident().fresh()
        run(ref, ada(orthogonality=weight))
        found.append(logits(ref.model))
    assert not torch.allclose(found[0], found[1], atol=1e-4)


def test_merge_and_stack_are_the_same_function_and_merge_leaves_no_layers() -> None:
    base = resident()
    outputs = []
    for how in ("merge", "stack", "detach"):
        ref = base.fresh()
        plain = logits(ref.model)
        run(ref, ada(handoff=how))
        outputs.append(logits(ref.model))
        assert not torch.allclose(outputs[-1], plain, atol=1e-2)
        assert bool(list(lora_layers(ref.model))) == (how != "merge")
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=0)
    assert torch.equal(outputs[1], outputs[2])


def test_the_plain_lora_that_is_left_computes_what_was_trained() -> None:
    base = resident()
    ref = base.fresh()
    this = ada()
    before: list[torch.Tensor] = []
    original = handoff.end

    def spy(ref: Any, stage: Any) -> None:
        before.append(logits(ref.model))
        original(ref, stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handoff, "end", spy)
        run(ref, this)
    torch.testing.assert_close(logits(ref.model), before[0], atol=1e-5, rtol=0)


def test_the_reference_of_dpo_is_the_model_as_received() -> None:
    ref = resident().fresh()
    run(ref, stage(handoff="stack"))
    outcome = run(ref, ada("dpo"))
    assert outcome.loss_by_step[0] == pytest.approx(0.6931472, abs=1e-6)
    assert abs(outcome.loss_by_step[-1] - 0.6931472) > 2e-5


@pytest.mark.parametrize("how", ["stack", "detach"])
def test_adalora_and_lora_train_beside_each_other(how: str) -> None:
    base = resident()
    ref = base.fresh()
    run(ref, stage(handoff="stack"))
    first = {n: p.detach().clone() for n, p in adapter_parameters(ref.model, "stage1").items()}
    run(ref, ada(handoff=how))
    run(ref, stage("dpo", handoff="stack", adapter=lora(rank=3)))
    assert [adapter.name for adapter in ref.adapters] == ["stage1", "stage2", "stage3"]
    for name, tensor in adapter_parameters(ref.model, "stage1").items():
        assert torch.equal(first[name], tensor)
    plain = weights(base.fresh().model)
    assert all(".lora_" not in name for name in plain)


def test_restored_stages_have_the_bits_of_trained_ones(tmp_path: Path) -> None:
    base = resident()
    stages = [stage(handoff="stack"), ada(handoff="stack"), ada("dpo", handoff="merge")]
    ref = base.fresh()
    for number, this in enumerate(stages):
        (tmp_path / str(number)).mkdir()
        run_stage(ref, this, sources(), TRAINING, seed=3, keep=written_to(tmp_path / str(number)))
    trained = weights(ref.model)
    ref = base.fresh()
    for number, this in enumerate(stages):
        restore_stage(ref, this, tmp_path / str(number))
    restored = weights(ref.model)
    assert restored.keys() == trained.keys()
    assert all(torch.equal(restored[name], trained[name]) for name in trained)


def test_it_is_saved_as_a_lora_that_peft_loads(tmp_path: Path) -> None:
    ref = resident().fresh()
    run(ref, ada())
    folder = save_model(ref, tmp_path / "out", "adapter")
    plain = AutoModelForCausalLM.from_pretrained(model_folder()).eval()
    loaded = PeftModel.from_pretrained(plain, folder)
    torch.testing.assert_close(logits(loaded), logits(ref.model), atol=1e-6, rtol=0)


def test_the_same_seed_gives_the_same_bits() -> None:
    found = []
    for _ in range(2):
        ref = resident().fresh()
        run(ref, ada(dropout=0.2))
        found.append(weights(ref.model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_bfloat16_weights_and_computations_work() -> None:
    ref = resident("bfloat16", "bfloat16").fresh()
    outcome = run(ref, ada(handoff="merge"))
    assert sum(outcome.adapter_ranks.values()) == 28


def test_a_base_is_fresh_again_after_a_stage_that_broke_on_stacked_adapters() -> None:
    base = resident()
    ref = base.fresh()
    before = weights(ref.model)
    run(ref, stage(handoff="stack"))
    handoff.begin(ref, ada(), 10)  # and never ends
    after = weights(base.fresh().model)
    assert before.keys() == after.keys()
    assert not list(lora_layers(base.model))


def test_too_few_steps_are_refused_with_a_reason() -> None:
    with pytest.raises(StageError, match=r"AdaLoRA needs 2 steps before its last phase.*gives 1"):
        run(resident().fresh(), ada().model_copy(update={"dose_tokens": 1}))


def test_ranks_that_nobody_allocated_are_noticed() -> None:
    ref = resident().fresh()
    handoff.begin(ref, ada(), 10)
    for name, parameter in adapter_parameters(ref.model, "stage1").items():
        if ".lora_E." in name:
            parameter.data.fill_(1.0)
    with pytest.raises(StageError, match="sum to 56 instead of 28"):
        handoff.end(ref, ada())
