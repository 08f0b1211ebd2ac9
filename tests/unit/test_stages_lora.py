"""Claims about LoRA's variants: where training begins, how fast B learns, ranks of their own, modules left alone."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from stage_tools import (
    TRAINING,
    full,
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
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from search.errors import SpecError, StageError
from search.stages import handoff
from search.stages.adalora import add_adalora
from search.stages.adapters import adapter_parameters, adapter_ranks, lora_layers
from search.stages.initial import add_on_weights
from search.stages.persist import restore_stage
from search.stages.quantised import quantisation
from search.stages.run import run_stage
from search.stages.save import save_model
from spaces.adapter import AdaLora
from spaces.loss import Term

INITS = ["gaussian", "pissa", "olora"]
Q = "model.layers.0.self_attn.q_proj"


def begun(**settings: Any) -> Any:
    """A model on which a stage has just begun."""
    ref = resident().fresh()
    torch.manual_seed(0)
    handoff.begin(ref, stage(adapter=lora(**settings)), 10)
    return ref


def factors(model: Any, name: str = "stage1") -> tuple[torch.Tensor, torch.Tensor]:
    found = adapter_parameters(model, name)
    a, b = found[f"{Q}.lora_A.{name}.weight"], found[f"{Q}.lora_B.{name}.weight"]
    return a.detach().double(), b.detach().double()


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("rslora", [False, True])
def test_every_init_begins_as_the_parent_without_moving_its_weights(
    init: str, rslora: bool
) -> None:
    base = resident()
    ref = base.fresh()
    plain, before = logits(ref.model), weights(ref.model)
    handoff.begin(ref, stage(adapter=lora(init=init, rslora=rslora)), 10)
    torch.testing.assert_close(logits(ref.model), plain, atol=1e-5, rtol=0)
    after = {name.replace(".base_layer", ""): value for name, value in weights(ref.model).items()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    base.fresh()


def test_pissa_begins_with_the_best_approximation_of_the_weight() -> None:
    ref = begun(init="pissa", rank=3)
    weight = ref.model.get_submodule(Q).base_layer.weight.detach().double()
    u, s, vh = torch.linalg.svd(weight)
    a, b = factors(ref.model)
    # alpha is 4.
    torch.testing.assert_close(
        4 / 3 * b @ a, u[:, :3] @ torch.diag(s[:3]) @ vh[:3], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(a @ a.T, torch.diag(s[:3] / (4 / 3)), atol=1e-5, rtol=0)


def test_olora_begins_with_orthonormal_columns_and_the_first_rows_of_r() -> None:
    ref = begun(init="olora", rank=3)
    weight = ref.model.get_submodule(Q).base_layer.weight.detach().double()
    a, b = factors(ref.model)
    torch.testing.assert_close(b.T @ b, torch.eye(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(a, b.T @ weight, atol=1e-5, rtol=0)


def test_gaussian_draws_a_with_a_deviation_of_one_over_the_rank_and_b_is_zero() -> None:
    ref = begun(init="gaussian", rank=8)
    drawn = torch.cat(
        [
            value.detach().flatten()
            for name, value in adapter_parameters(ref.model, "stage1").items()
            if ".lora_A." in name
        ]
    )
    assert drawn.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert factors(ref.model)[1].abs().max() == 0


@pytest.mark.parametrize("init", INITS)
def test_merge_and_stack_are_the_same_function_after_every_init(init: str) -> None:
    base = resident()
    outputs = []
    for how in ("merge", "stack", "detach"):
        ref = base.fresh()
        plain = logits(ref.model)
        run(ref, stage(adapter=lora(init=init), handoff=how))
        outputs.append(logits(ref.model))
        assert not torch.allclose(outputs[-1], plain, atol=1e-2)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=0)
    assert torch.equal(outputs[1], outputs[2])


def test_what_pissa_trained_is_the_difference_to_where_it_began() -> None:
    base = resident()
    ref = base.fresh()
    handoff.begin(ref, stage(adapter=lora(init="pissa")), 10)
    start_a, start_b = factors(ref.model)
    ref = base.fresh()
    this = stage(adapter=lora(init="pissa"), handoff="stack")
    run(ref, this)
    a, b = factors(ref.model)
    assert adapter_ranks(ref.model, "stage1")[Q] == 4
    assert not any("start" in name for name, _ in ref.model.named_parameters())
    torch.testing.assert_close(-b[:, 2:] @ a[2:], start_b @ start_a, atol=1e-6, rtol=0)
    # alpha 4, rank 2: the scale is that of the trained adapter.
    change = 2.0 * b @ a
    merged = base.fresh()
    before = weights(merged.model)
    run(merged, stage(adapter=lora(init="pissa"), handoff="merge"))
    found = weights(merged.model)[f"{Q}.weight"].double() - before[f"{Q}.weight"].double()
    torch.testing.assert_close(found, change, atol=1e-6, rtol=0)


@pytest.mark.parametrize("init", INITS)
def test_the_reference_of_dpo_is_the_model_as_received_after_every_init(init: str) -> None:
    ref = resident().fresh()
    run(ref, stage(handoff="stack"))
    outcome = run(ref, stage("dpo", adapter=lora(init=init), dose_tokens=600))
    assert outcome.loss_by_step[0] == pytest.approx(0.6931472, abs=1e-6)
    assert abs(outcome.loss_by_step[-1] - 0.6931472) > 1e-4


def test_pissa_in_bfloat16_is_refused_where_a_reference_counts() -> None:
    base = resident("bfloat16", "bfloat16")
    with pytest.raises(StageError, match=r"which init pissa and olora reach only in float32"):
        run(base.fresh(), stage("dpo", adapter=lora(init="pissa")))
    run(base.fresh(), stage(adapter=lora(init="pissa")))


@pytest.mark.parametrize(("loss", "is_legal"), [("orpo", True), ("dpo", False)])
def test_joint_stage_in_bfloat16_begins_on_weights_unless_one_of_its_losses_has_a_reference(
    loss: str, is_legal: bool
) -> None:
    terms = {
        "sft": Term(weight=1.0, mix={"chat": 1.0}),
        loss: Term(weight=1.0, mix={"pairs": 1.0}, beta=0.1),
    }
    this = stage("joint", mix={}, terms=terms, beta=None, adapter=lora(init="pissa"))
    with nullcontext() if is_legal else pytest.raises(StageError, match=r"joint compares with"):
        run(resident("bfloat16", "bfloat16").fresh(), this)


@pytest.mark.parametrize(
    ("add", "settings", "text"),
    [
        (partial(add_on_weights, is_restored=False), lora(init="pissa", targets="c_attn"),
         "init pissa takes Linear; use init default"),
        (partial(add_on_weights, is_restored=False), lora(init="olora", targets="c_attn"),
         "init olora takes Linear; use init default"),
        (add_adalora, AdaLora(init_rank=2, target_rank=1, alpha=1.0, targets="c_attn"),
         "AdaLoRA takes Linear; use kind: lora"),
    ],
)  # fmt: skip
def test_weights_that_are_not_in_a_linear_module_are_refused_where_an_adapter_takes_them_apart(
    add: Any, settings: Any, text: str
) -> None:
    # GPT-2 keeps its weights transposed, in modules of its own.
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(StageError) as caught:
        add(model, "new", settings)
    assert str(caught.value) == f"targets: transformer.h.0.attn.c_attn is a Conv1D, and {text}"
    assert not any(".lora_" in name for name, _ in model.named_parameters())


def test_a_rank_that_the_weights_do_not_have_is_refused() -> None:
    with pytest.raises(StageError, match=r"rank 40 with init pissa: .* has at most rank"):
        run(resident().fresh(), stage(adapter=lora(init="pissa", rank=40)))


VARIANTS = {
    **{init: lora(init=init) for init in INITS},
    "pissa rslora": lora(init="pissa", rslora=True),
    "ranks": lora(ranks={"attention": 1, "up_proj": 5}, alphas={"mlp": 2.0}),
    "exclude": lora(exclude="q_proj,layers.1.mlp.up_proj", layers="0,1-1"),
    "lr_ratio": lora(lr_ratio=8.0),
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_restored_stages_have_the_bits_of_trained_ones(name: str, tmp_path: Path) -> None:
    base = resident()
    stages = [
        stage(handoff="stack"),
        stage(adapter=VARIANTS[name], handoff="detach"),
        stage("dpo", adapter=VARIANTS[name], handoff="merge"),
    ]
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
    assert all(torch.equal(restored[key], trained[key]) for key in trained)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_is_saved_as_an_adapter_that_peft_loads(name: str, tmp_path: Path) -> None:
    ref = resident().fresh()
    run(ref, stage(adapter=VARIANTS[name], handoff="stack"))
    folder = save_model(ref, tmp_path / "out", "adapter")
    plain = AutoModelForCausalLM.from_pretrained(model_folder()).eval()
    loaded = PeftModel.from_pretrained(plain, folder)
    torch.testing.assert_close(logits(loaded), logits(ref.model), atol=1e-6, rtol=0)


def test_ranks_of_their_own_count_by_name_before_group() -> None:
    settings = lora(rank=2, ranks={"all": 3, "attention": 1, "q_proj": 5}, exclude="up_proj")
    ref = begun(**settings.model_dump(exclude={"kind"}))
    found = adapter_ranks(ref.model, "stage1")
    by_name = {path.rsplit(".", 1)[-1]: rank for path, rank in found.items()}
    assert by_name == {
        "q_proj": 5,
        "k_proj": 1,
        "v_proj": 1,
        "o_proj": 1,
        "gate_proj": 3,
        "down_proj": 3,
    }
    scale = {
        path.rsplit(".", 1)[-1]: layer.scaling["stage1"] for path, layer in lora_layers(ref.model)
    }
    assert scale["q_proj"] == 4 / 5
    assert scale["k_proj"] == 4.0


def test_names_that_mean_no_module_of_the_adapter_are_refused() -> None:
    with pytest.raises(
        StageError, match=r"ranks: the adapter has no module 'q_proj'; it has down_proj"
    ):
        begun(targets="mlp", ranks={"q_proj": 2})
    with pytest.raises(StageError, match=r"exclude 'q_proj': the adapter has no such module"):
        begun(targets="mlp", exclude="q_proj")
    with pytest.raises(StageError, match=r"leaves no module of targets 'mlp'"):
        begun(targets="mlp", exclude="mlp")


def test_lora_plus_gives_b_a_multiple_of_the_rate_and_a_ratio_of_1_changes_nothing() -> None:
    # The first step of Adam moves a weight by its learning rate, whatever its gradient. B begins at 0.
    one_step = {"dose_tokens": 1, "learning_rate": 1e-3, "handoff": "stack"}
    training = TRAINING.model_copy(update={"warmup_steps": 0})
    moved = {}
    for ratio in (1.0, 16.0):
        ref = resident().fresh()
        run(ref, stage(adapter=lora(lr_ratio=ratio), **one_step), training)
        moved[ratio] = factors(ref.model)[1].abs().max().item()
    assert moved[1.0] == pytest.approx(1e-3, rel=0.01)
    assert moved[16.0] == pytest.approx(16e-3, rel=0.01)
    ref = begun(lr_ratio=4.0)
    ratios = handoff.rate_ratios(ref, stage(adapter=lora(lr_ratio=4.0)))
    names = {id(p): n for n, p in ref.model.named_parameters()}
    assert set(ratios.values()) == {4.0}
    assert all(".lora_B." in names[key] for key in ratios)
    assert len(ratios) == 14
    assert handoff.rate_ratios(resident().fresh(), stage(adapter=full())) == {}


def test_an_adapter_that_cannot_be_continued_is_refused() -> None:
    this = stage(adapter=lora())
    bad = this.model_construct(
        **{**dict(this), "adapter": lora(init="pissa"), "handoff": "continue"}
    )
    with pytest.raises(StageError, match=r"init pissa becomes its difference"):
        handoff.begin(resident().fresh(), bad, 10)


def test_a_quantised_base_takes_only_adapters_that_stay_beside_it() -> None:
    ref = resident().fresh()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ref.model, "is_quantized", True, raising=False)
        for adapter, how, reason in (
            (full(), "merge", "full weights of a quantised base"),
            (lora(), "merge", "would round the update"),
            (lora(init="pissa"), "stack", "that a quantised base does not hold"),
        ):
            with pytest.raises(StageError, match=reason):
                handoff.begin(ref, stage(adapter=adapter, handoff=how), 10)
        handoff.begin(ref, stage(adapter=lora(), handoff="stack"), 10)
    resident().fresh()


def test_quantised_weights_are_refused_without_cuda() -> None:
    with pytest.raises(SpecError, match=r"4-bit weights need CUDA, and the device is cpu"):
        quantisation(4, "cpu")
