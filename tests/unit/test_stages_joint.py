"""Claims about stages with several losses: equal to the losses alone, gradients by hand, and arbitration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, get_args

import pytest
import torch
from stage_tools import TRAINING, full, lora, resident, run, sources, stage, weights
from torch.optim.optimizer import register_optimizer_step_pre_hook

from search.errors import StageError
from search.spec import TrainingSpec
from search.stages import joint
from search.stages.kl import KlTerm, divergence
from search.stages.run import METHODS, StageOutcome, run_stage
from search.stages.tokens import tokenise
from spaces.loss import LossName, Term
from spaces.recipe import Method, Stage

PLAIN = TrainingSpec(rows_per_step=4, max_length=64, warmup_steps=0, max_grad_norm=1e9)
CHAT, PAIRS = {"chat": 1.0}, {"pairs": 1.0}


def both(
    sft: float = 1.0,
    dpo: float = 1.0,
    kl: float | None = None,
    arbitration: str = "sum",
    **changes: Any,
) -> Stage:
    terms = {"sft": Term(weight=sft, mix=CHAT), "dpo": Term(weight=dpo, mix=PAIRS, beta=0.1)}
    if kl is not None:
        terms["kl"] = Term(weight=kl)
    return stage("joint", **{"mix": {}, "terms": terms, "arbitration": arbitration, **changes})


def ramp(**changes: Any) -> Stage:
    terms = {
        "sft": Term(weight=1.0, end_weight=0.0, mix=CHAT),
        "dpo": Term(weight=0.0, end_weight=1.0, mix=PAIRS, beta=0.1),
    }
    return stage("joint", mix={}, terms=terms, **changes)


@contextmanager
def gradients_of(this: Stage, training: TrainingSpec = PLAIN) -> Iterator[list[dict[str, Any]]]:
    """Give the gradients that each optimizer step of a run uses, by name of the parameter."""
    seen: list[dict[str, Any]] = []
    ref = resident().fresh()

    def look(optimizer: Any, *_: object) -> None:
        named = {id(parameter): name for name, parameter in ref.model.named_parameters()}
        seen.append(
            {
                named[id(parameter)]: parameter.grad.clone()
                for group in optimizer.param_groups
                for parameter in group["params"]
                if parameter.grad is not None
            }
        )

    handle = register_optimizer_step_pre_hook(look)
    try:
        run(ref, this, training)
        yield seen
    finally:
        handle.remove()


def first_gradient(this: Stage, training: TrainingSpec = PLAIN) -> dict[str, torch.Tensor]:
    with gradients_of(this, training) as seen:
        return seen[0]


def length(gradient: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((part**2).sum()) for part in gradient.values()))


ADAPTERS = {"lora": lora(dropout=0.3), "full": full()}


@pytest.mark.parametrize("kl", [None, 0.0], ids=["no kl", "kl 0"])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_one_loss_of_weight_one_is_that_losses_own_stage_bit_for_bit(
    method: str, adapter: str, kl: float | None
) -> None:
    handoff = "merge" if adapter == "full" else "stack"
    shared = {"adapter": ADAPTERS[adapter], "handoff": handoff, "dose_tokens": 700}
    runs = []
    for this in (
        both(float(method == "sft"), float(method == "dpo"), kl, **shared),
        stage(method, **shared),
    ):
        ref = resident().fresh()
        outcome = run(ref, this)
        runs.append((outcome, weights(ref.model)))
    assert len(runs[0][0].loss_by_step) > 2
    assert runs[0][0].loss_by_step == runs[1][0].loss_by_step
    assert runs[0][0].trained_tokens == runs[1][0].trained_tokens
    assert runs[0][0].tokens_by_source == runs[1][0].tokens_by_source
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[1][1])


def test_a_loss_without_weight_reads_no_source() -> None:
    this = both(1.0, 0.0)
    outcome = run_stage(resident().fresh(), this, {"chat": sources()["chat"]}, TRAINING, 3)
    assert outcome.tokens_by_source == {"chat": outcome.trained_tokens}


@pytest.mark.parametrize("micro", [None, 2])
def test_the_gradient_of_a_step_is_the_weighted_sum_of_the_losses_own(micro: int | None) -> None:
    training = PLAIN.model_copy(update={"micro_batch_rows": micro})
    adapter = {"adapter": full()}
    sft, dpo = (first_gradient(stage(method, **adapter), training) for method in ("sft", "dpo"))
    found = first_gradient(both(0.7, 2.0, **adapter), training)
    assert length(dpo) > 0.05 * length(sft)
    for name, gradient in found.items():
        expected = 0.7 * sft[name] + 2.0 * dpo[name]
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


def test_the_loss_is_the_weighted_sum_and_tokens_of_all_losses_count() -> None:
    sft, dpo, found = (
        run(resident().fresh(), this)
        for this in (
            stage(dose_tokens=1),
            stage("dpo", dose_tokens=1),
            both(0.7, 2.0, dose_tokens=1),
        )
    )
    expected = 0.7 * sft.loss_by_step[0] + 2.0 * dpo.loss_by_step[0]
    assert found.loss_by_step == (pytest.approx(expected, rel=1e-6),)
    assert found.trained_tokens == sft.trained_tokens + dpo.trained_tokens
    assert found.tokens_by_source == {**sft.tokens_by_source, **dpo.tokens_by_source}
    assert found.n_rows == 8


def test_weight_scales_the_gradient_of_a_single_loss() -> None:
    one, three = (first_gradient(both(weight, 0.0)) for weight in (1.0, 3.0))
    for name in one:
        torch.testing.assert_close(three[name], 3.0 * one[name])


def test_a_ramp_goes_from_one_loss_to_the_other() -> None:
    # At the first step SFT alone has weight, so it alone draws rows; then both do.
    this = ramp(dose_tokens=2000)
    alone = first_gradient(stage())
    with gradients_of(this) as seen:
        assert all(torch.equal(seen[0][name], alone[name]) for name in alone)
        assert not torch.equal(seen[1][next(iter(alone))], seen[0][next(iter(alone))])
    outcome = run(resident().fresh(), this)
    n_sft, n_dpo = (outcome.n_steps, outcome.n_steps - 1)
    assert outcome.n_rows == 4 * (n_sft + n_dpo)


def test_normalised_gradients_have_the_length_of_their_weights() -> None:
    sft, dpo = first_gradient(stage()), first_gradient(stage("dpo"))
    found = first_gradient(both(0.7, 2.0, arbitration="normalised"))
    for name, gradient in found.items():
        expected = 0.7 * sft[name] / length(sft) + 2.0 * dpo[name] / length(dpo)
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


def test_conflict_is_measured_at_the_first_the_middle_and_the_last_step() -> None:
    outcome = run(resident().fresh(), both(dose_tokens=2500, kl=0.1))
    n = outcome.n_steps
    assert n >= 5
    assert list(outcome.conflict_by_step) == [1, (n + 1) // 2, n]
    # At the first step the divergence and its gradient are zero.
    assert list(outcome.conflict_by_step[1]) == ["sft/dpo"]
    assert list(outcome.conflict_by_step[n]) == ["sft/dpo", "sft/kl", "dpo/kl"]
    assert all(-1 <= cosine <= 1 for step in outcome.conflict_by_step.values() for cosine in step.values())  # fmt: skip


def test_conflict_is_the_cosine_of_the_losses_own_gradients() -> None:
    sft, dpo = first_gradient(stage()), first_gradient(stage("dpo"))
    product = sum(float((sft[name] * dpo[name]).sum()) for name in sft)
    found = run(resident().fresh(), both(0.2, 3.0), PLAIN).conflict_by_step[1]["sft/dpo"]
    assert found == pytest.approx(product / (length(sft) * length(dpo)), abs=1e-4)


def test_measuring_conflict_changes_no_step() -> None:
    # The middle of a small dose is no measured step of a large one; its steps are the same, bit for bit.
    small, large = (
        run(resident().fresh(), both(dose_tokens=dose, adapter=full())) for dose in (900, 2500)
    )
    assert small.n_steps > 2
    assert set(small.conflict_by_step) - set(large.conflict_by_step)
    assert small.loss_by_step == large.loss_by_step[: small.n_steps]


@pytest.mark.parametrize("adapter", [lora(), lora(dora=True), full()], ids=["lora", "dora", "full"])
def test_the_divergence_is_that_from_the_received_model(adapter: Any) -> None:
    # By hand: train, and compare the logits of the trained model with those of the one before, token by token.
    ref = resident().fresh()
    run(ref, stage(handoff="merge", dose_tokens=300))
    before = [logits_of(ref.model, row) for row in rows_of(ref)]
    seen: list[float] = []
    original = KlTerm.accumulate

    def look(self: KlTerm, model: Any, batch: Any) -> torch.Tensor:
        value = original(self, model, rows_of(ref))
        after = [logits_of(model, row) for row in rows_of(ref)]
        model.train()
        divergence = torch.cat(
            [
                (p.exp() * (p - q)).sum(-1)[torch.tensor(row["labels"][1:]) != -100]
                for p, q, row in zip(after, before, rows_of(ref), strict=True)
            ]
        )
        seen.append(float(divergence.mean()))
        assert value.item() == pytest.approx(seen[-1], abs=2e-5)
        return value

    KlTerm.accumulate = look  # type: ignore[method-assign]
    try:
        run(ref, both(1.0, 0.5, 0.3, adapter=adapter, dose_tokens=1200))
    finally:
        KlTerm.accumulate = original  # type: ignore[method-assign]
    assert seen[0] == pytest.approx(0.0, abs=1e-6)
    assert seen[-1] > 1e-3


def test_the_slope_of_the_divergence_is_autograds_and_zero_at_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, other = (torch.randn(3, 7, generator=generator) for _ in range(2))
    logits.requires_grad_(True)
    log_q = other.log_softmax(-1)
    log_p = logits.log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum()
    expected.backward()
    value, slope = divergence(logits.detach(), log_q)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(slope, logits.grad)
    assert not divergence(other, log_q)[1].any()


def rows_of(ref: Any) -> list[dict[str, Any]]:
    tokens = tokenise(sources()["chat"], ref.tokenizer, ref.tokenizer_hash, 64, "completion")
    return list(tokens.rows[:3])


def logits_of(model: Any, row: dict[str, Any]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        ids = torch.tensor(row["input_ids"])[None]
        return type(model).forward(model, input_ids=ids).logits[0, :-1].log_softmax(-1)


def test_the_divergence_holds_the_model_back() -> None:
    def distance(kl: float) -> float:
        ref = resident().fresh()
        before = [logits_of(ref.model, row) for row in rows_of(ref)]
        run(ref, both(1.0, 0.0, kl, dose_tokens=1500))
        after = [logits_of(ref.model, row) for row in rows_of(ref)]
        return sum(float((p - q).abs().mean()) for p, q in zip(after, before, strict=True))

    assert distance(1000.0) < 0.5 * distance(0.0)


def test_without_sft_the_divergence_is_taken_on_the_preference_rows() -> None:
    outcome = run(resident().fresh(), both(0.0, 1.0, 0.5, dose_tokens=900))
    assert outcome.n_steps > 1
    assert list(outcome.conflict_by_step[outcome.n_steps]) == ["dpo/kl"]
    assert outcome.tokens_by_source == {"pairs": outcome.trained_tokens}


def every(**changes: Any) -> Stage:
    terms = {
        "sft": Term(weight=1.0, mix=CHAT),
        "kto": Term(weight=0.5, mix=PAIRS, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0),
        "ipo": Term(weight=0.1, mix=PAIRS, beta=0.5),
        "orpo": Term(weight=0.2, mix=PAIRS, beta=0.1),
        "simpo": Term(weight=0.2, mix=PAIRS, beta=2.0, gamma=0.5),
        "kl": Term(weight=0.1),
    }
    return stage("joint", mix={}, terms=terms, dose_tokens=2000, **changes)


@pytest.mark.parametrize("arbitration", ["sum", "pcgrad", "normalised"])
def test_all_losses_together_repeat_bit_for_bit_and_leave_nothing_behind(arbitration: str) -> None:
    runs = []
    for seed in (3, 3, 4):
        torch.rand(seed)
        ref = resident().fresh()
        this = every(arbitration=arbitration, adapter=lora(dropout=0.2), handoff="stack")
        outcome = run(ref, this, seed=seed)
        runs.append((outcome.loss_by_step, weights(ref.model)))
        assert "forward" not in vars(ref.model)
        assert not ref.model.training
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


def test_the_order_in_which_losses_are_named_changes_nothing() -> None:
    # The digest does not know it either.
    first = every(arbitration="pcgrad")
    terms = dict(reversed(first.terms.items()))
    second = first.model_copy(update={"terms": terms})
    assert list(second.terms) != list(first.terms)
    assert first.canonical({}) == second.canonical({})
    outcomes = [run(resident().fresh(), this) for this in (first, second)]
    assert outcomes[0].loss_by_step == outcomes[1].loss_by_step
    assert outcomes[0].conflict_by_step == outcomes[1].conflict_by_step


def test_the_first_loss_may_set_in_after_the_first_step() -> None:
    terms = {
        "sft": Term(weight=0.0, end_weight=1.0, mix=CHAT),
        "dpo": Term(weight=1.0, end_weight=0.0, mix=PAIRS, beta=0.1),
    }
    outcome = run(resident().fresh(), stage("joint", mix={}, terms=terms, dose_tokens=2000))
    assert len(outcome.loss_by_step) == outcome.n_steps > 3
    assert outcome.loss_by_step[0] == pytest.approx(math.log(2), abs=1e-5)
    assert outcome.n_rows == 4 * (2 * outcome.n_steps - 1)


def test_memory_that_runs_out_halves_the_passes_of_every_loss() -> None:
    this = both(kl=0.1, dose_tokens=900, adapter=full())
    calm = run(resident().fresh(), this)
    ref = resident().fresh()
    passes: list[int] = []

    def check(_: Any, args: tuple[torch.Tensor]) -> None:
        passes.append(len(args[0]))
        if len(args[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = ref.model.model.norm.register_forward_pre_hook(check)
    try:
        tight = run(ref, this)
    finally:
        handle.remove()
    assert tight.n_oom_halvings == 1
    assert tight.micro_batch_rows == 2
    assert tight.loss_by_step == pytest.approx(calm.loss_by_step, abs=1e-4)


def test_bfloat16_is_near_float32() -> None:
    exact, rounded = (run(resident(p).fresh(), every()) for p in ("float32", "bfloat16"))
    assert rounded.loss_by_step[0] != exact.loss_by_step[0]
    assert rounded.loss_by_step == pytest.approx(exact.loss_by_step, rel=0.05)


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    outcomes: list[StageOutcome] = [
        run(
            resident().fresh(),
            both(kl=0.1, dose_tokens=900),
            TRAINING.model_copy(update={"gradient_checkpointing": is_on}),
        )
        for is_on in (False, True)
    ]
    assert outcomes[0].loss_by_step == pytest.approx(outcomes[1].loss_by_step, abs=1e-5)


def test_a_source_may_not_be_passed_more_often_than_allowed() -> None:
    held = run(resident().fresh(), both(dose_tokens=1)).passes_by_source["pairs"]
    with pytest.raises(
        StageError,
        match=r"a dose of 9000 tokens takes .* passes over source '.*', more than max_passes 1\.5;",
    ):
        run(resident().fresh(), both(dose_tokens=9000, max_passes=1.5))
    allowed = run(resident().fresh(), both(dose_tokens=1, max_passes=held))
    assert allowed.passes_by_source["pairs"] == held


def test_methods_with_a_module_are_those_that_a_recipe_may_name() -> None:
    assert set(METHODS) == set(get_args(Method))
    assert set(joint.LOSSES) == set(get_args(LossName)) - {"kl"}
    for module in METHODS.values():
        assert callable(import_module(module).train)
