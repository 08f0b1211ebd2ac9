"""Claims about what a stage moves, what it leaves alone, and what the next stage gets."""

from __future__ import annotations

import pytest
import torch
from stage_tools import full, logits, lora, resident, run, stage, weights

from search.errors import StageError
from search.stages.adapters import adapter_parameters, lora_layers
from spaces.recipe import Adapter

Q = "model.layers.{}.self_attn.q_proj.weight"


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def delta(model: torch.nn.Module, adapter: str, module: str) -> torch.Tensor:
    """alpha / rank * B A, by hand: alpha is 4 and rank 2 in these tests."""
    found = adapter_parameters(model, adapter)
    a, b = found[f"{module}.lora_A.{adapter}.weight"], found[f"{module}.lora_B.{adapter}.weight"]
    return 4.0 / 2 * b.detach().double() @ a.detach().double()


@pytest.mark.parametrize(
    ("adapter", "parts"),
    [
        (full(), None),
        (full(targets="attention"), ("self_attn",)),
        (full(targets="mlp", layers="1-1"), ("layers.1.mlp",)),
        (full(layers="50%-100%"), ("layers.1.",)),
        (full(targets="embed_tokens"), ("embed_tokens", "lm_head")),  # tied
        (full(targets="norm,q_proj"), ("model.norm.", "q_proj")),
        (lora(), ("_proj",)),
        (
            lora(targets="q_proj,v_proj", layers="0-0"),
            ("layers.0.self_attn.q", "layers.0.self_attn.v"),
        ),
        (lora(dora=True, targets="mlp", layers="0%-50%"), ("layers.0.mlp",)),
    ],
)
def test_a_stage_moves_what_its_adapter_says_and_no_other_bit(
    adapter: Adapter, parts: tuple[str, ...] | None
) -> None:
    ref = resident().fresh()
    before = weights(ref.model)
    run(ref, stage(adapter=adapter))
    expected = {name for name in before if parts is None or any(part in name for part in parts)}
    assert changed(before, weights(ref.model)) == expected


def test_merge_adds_alpha_over_rank_times_b_a_to_the_weights() -> None:
    base = resident()
    ref = base.fresh()
    before = weights(ref.model)
    run(ref, stage(handoff="stack"))
    expected = {at: delta(ref.model, "stage1", Q.format(at)[: -len(".weight")]) for at in (0, 1)}
    ref = base.fresh()
    run(ref, stage(handoff="merge"))
    after = weights(ref.model)
    for at in (0, 1):
        found = after[Q.format(at)].double() - before[Q.format(at)].double()
        assert expected[at].abs().max() > 1e-3
        torch.testing.assert_close(found, expected[at], atol=1e-6, rtol=0)
    assert not list(lora_layers(ref.model))
    assert not hasattr(ref.model, "peft_config")


def test_merge_and_stack_are_the_same_function() -> None:
    base = resident()
    outputs = []
    for handoff in ("merge", "stack"):
        ref = base.fresh()
        run(ref, stage(handoff=handoff))
        outputs.append(logits(ref.model))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=0)


def test_stack_leaves_weights_alone_and_freezes_the_adapter() -> None:
    ref = resident().fresh()
    before, plain = weights(ref.model), logits(ref.model)
    run(ref, stage(handoff="stack"))
    after = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in weights(ref.model).items()
        if ".lora_" not in name
    }
    assert not changed(before, after)
    assert not torch.equal(logits(ref.model), plain)
    first = {
        name: p.detach().clone() for name, p in adapter_parameters(ref.model, "stage1").items()
    }
    run(ref, stage("dpo", handoff="stack", adapter=lora(rank=3)))
    for name, tensor in adapter_parameters(ref.model, "stage1").items():
        assert torch.equal(first[name], tensor), name


def test_the_next_stage_trains_on_a_stacked_adapter_and_not_on_a_detached_one() -> None:
    base = resident()
    first_losses = {}
    for handoff in ("stack", "detach", "merge"):
        ref = base.fresh()
        run(ref, stage(handoff=handoff))
        first_losses[handoff] = run(ref, stage(), seed=9).loss_by_step[0]
    first_losses["base"] = run(base.fresh(), stage(), seed=9).loss_by_step[0]
    assert first_losses["detach"] == first_losses["base"]
    assert first_losses["stack"] == pytest.approx(first_losses["merge"], abs=1e-5)
    assert abs(first_losses["stack"] - first_losses["base"]) > 0.01


def test_a_detached_adapter_is_on_at_its_own_boundary_and_back_after_the_next_stage() -> None:
    base = resident()
    ref = base.fresh()
    plain = weights(ref.model)
    run(ref, stage(handoff="stack"))
    own_boundary = logits(ref.model)
    ref = base.fresh()
    run(ref, stage(handoff="detach"))
    assert torch.equal(logits(ref.model), own_boundary)
    run(ref, stage("dpo", handoff="merge"))
    # The output is that of the base plus both deltas.
    both = {}
    for at in (0, 1):
        module = Q.format(at)[: -len(".weight")]
        both[at] = ref.model.state_dict()[f"{module}.base_layer.weight"].double() + delta(
            ref.model, "stage1", module
        )
    alone = base.fresh()
    run(alone, stage("dpo", handoff="stack"), seed=3)
    merged_second = {
        at: delta(alone.model, "stage1", Q.format(at)[: -len(".weight")]) for at in (0, 1)
    }
    ref = base.fresh()
    run(ref, stage(handoff="stack"))
    first = {at: delta(ref.model, "stage1", Q.format(at)[: -len(".weight")]) for at in (0, 1)}
    for at in (0, 1):
        expected = plain[Q.format(at)].double() + first[at] + merged_second[at]
        torch.testing.assert_close(both[at], expected, atol=1e-6, rtol=0)


def test_a_detached_adapter_is_off_for_one_stage_only() -> None:
    base = resident()
    third_losses = []
    for handoff in ("detach", "stack"):
        ref = base.fresh()
        run(ref, stage(handoff=handoff))
        run(ref, stage(learning_rate=1e-12))  # teaches nothing
        third_losses.append(run(ref, stage(), seed=9).loss_by_step[0])
    assert third_losses[0] == pytest.approx(third_losses[1], abs=1e-6)
    assert abs(third_losses[0] - run(base.fresh(), stage(), seed=9).loss_by_step[0]) > 0.01


def test_continue_trains_the_same_adapter_on() -> None:
    ref = resident().fresh()
    run(ref, stage(handoff="continue"))
    before = {
        name: p.detach().clone() for name, p in adapter_parameters(ref.model, "stage1").items()
    }
    run(ref, stage("dpo", handoff="stack"))
    after = adapter_parameters(ref.model, "stage1")
    assert [adapter.name for adapter in ref.adapters] == ["stage1"]
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_continue_needs_equal_adapter_settings() -> None:
    ref = resident().fresh()
    run(ref, stage(handoff="continue"))
    with pytest.raises(StageError, match=r"hands off with continue, which needs equal adapters"):
        run(ref, stage(adapter=lora(rank=3)))


def test_the_reference_of_dpo_is_the_model_as_received() -> None:
    # At the first step the model is its reference, so the margin is 0 and the loss log 2.
    base = resident()
    for handoff in ("merge", "stack", "detach", "continue"):
        ref = base.fresh()
        run(ref, stage(handoff=handoff))
        outcome = run(ref, stage("dpo", dose_tokens=600))
        assert outcome.loss_by_step[0] == pytest.approx(0.6931472, abs=1e-6), handoff
        assert abs(outcome.loss_by_step[-1] - 0.6931472) > 1e-3
    ref = base.fresh()
    run(ref, stage(adapter=full()))
    assert run(ref, stage("dpo", adapter=full())).loss_by_step[0] == pytest.approx(
        0.6931472, abs=1e-6
    )


def test_dora_refuses_company_that_handoffs_could_not_add_up() -> None:
    base = resident()
    ref = base.fresh()
    run(ref, stage(handoff="stack"))
    with pytest.raises(StageError, match="DoRA stage cannot train on stacked adapters"):
        run(ref, stage(adapter=lora(dora=True)))
    ref = base.fresh()
    run(ref, stage(adapter=lora(dora=True), handoff="stack"))
    with pytest.raises(StageError, match="cannot train on a stacked DoRA adapter"):
        run(ref, stage())


def test_unknown_targets_and_layers_are_named() -> None:
    base = resident()
    with pytest.raises(
        StageError, match=r"'c_attn': the model has no c_attn in these layers; it has down_proj"
    ):
        run(base.fresh(), stage(adapter=lora(targets="c_attn")))
    with pytest.raises(StageError, match=r"model has no wq"):
        run(base.fresh(), stage(adapter=full(targets="wq,q_proj")))
    with pytest.raises(StageError, match=r"layers '1-2' select nothing or too much"):
        run(base.fresh(), stage(adapter=full(layers="1-2")))
    with pytest.raises(StageError, match=r"lm_head shares its weight"):
        run(base.fresh(), stage(adapter=lora(targets="lm_head")))
