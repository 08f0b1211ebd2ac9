"""Claims about one stage: repeatable, a prefix of a larger one, tidy afterwards, and honest when it fails."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from stage_tools import TRAINING, full, logits, lora, resident, run, sources, stage, weights

from search.errors import DataError, Diverged, StageError
from search.stages.run import _is_finite, run_stage
from search.stages.tokens import tokenise
from spaces.recipe import Adapter, Recipe, Stage

STAGES = [
    stage(adapter=lora(dropout=0.2), handoff="stack"),
    stage(adapter=full()),
    stage("dpo", adapter=lora(dropout=0.2, rslora=True), handoff="stack"),
    stage("dpo", adapter=full(targets="mlp")),
]


@contextmanager
def memory_for(model: Any, n_rows: int, n_calm: int = 0) -> Iterator[list[int]]:
    """Raise as CUDA does at the end of a forward pass of more rows, except in the first `n_calm` passes.

    Gives the row counts of all passes.
    """
    seen: list[int] = []

    def check(_: Any, args: tuple[torch.Tensor]) -> None:
        seen.append(len(args[0]))
        if seen[-1] > n_rows and len(seen) > n_calm:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = model.model.norm.register_forward_pre_hook(check)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("this", STAGES, ids=lambda this: f"{this.method}-{this.adapter.kind}")
def test_the_same_seed_gives_the_same_weights_bit_for_bit(this: Stage) -> None:
    runs = []
    for seed in (3, 3, 4):
        torch.rand(seed)  # the state of the process's generators plays no part
        ref = resident().fresh()
        run(ref, this, seed=seed)
        runs.append(weights(ref.model))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_renamed_sources_give_the_same_digests_and_the_same_weights_bit_for_bit() -> None:
    # The names sort one way before and the other way after, and even shares make the first draw a tie.
    models, digests, tokens = [], [], []
    for chat, done in (("chat", "done"), ("z", "a")):
        named = {
            chat: replace(sources()["chat"], name=chat),
            done: replace(sources()["done"], name=done),
        }
        hashes = {name: source.content_hash for name, source in named.items()}
        this = stage(adapter=full(), mix={chat: 0.5, done: 0.5}, dose_tokens=400)
        recipe = Recipe(stages=(this,))
        digests.append(recipe.prefix_digests("", hashes))
        (seed,) = recipe.stage_seeds("", hashes)
        ref = resident().fresh()
        outcome = run_stage(ref, this, named, TRAINING, seed)
        models.append(weights(ref.model))
        tokens.append((outcome.tokens_by_source[chat], outcome.tokens_by_source[done]))
    assert digests[0] == digests[1]
    assert tokens[0] == tokens[1]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize("this", STAGES, ids=lambda this: f"{this.method}-{this.adapter.kind}")
def test_a_smaller_dose_is_a_prefix_of_a_larger_one_bit_for_bit(this: Stage) -> None:
    base = resident()
    small = base.fresh()
    less = run(small, this)
    expected = weights(small.model)
    seen: list[dict[str, torch.Tensor]] = []
    large = base.fresh()

    class Steps(torch.optim.AdamW):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            result = super().step(*args, **kwargs)
            seen.append(weights(large.model))
            return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Steps)
        more = run(large, this.model_copy(update={"dose_tokens": 500}))
    assert more.n_steps > less.n_steps
    assert more.loss_by_step[: less.n_steps] == less.loss_by_step
    at_that_step = seen[less.n_steps - 1]
    assert all(torch.equal(expected[name], at_that_step[name]) for name in expected)


def test_the_outcome_says_what_was_consumed() -> None:
    this = stage(mix={"chat": 0.5, "done": 0.5})
    outcome = run(resident().fresh(), this)
    assert outcome.trained_tokens == sum(outcome.tokens_by_source.values())
    assert outcome.trained_tokens == pytest.approx(200, abs=40)
    assert outcome.n_rows == 4 * outcome.n_steps
    assert len(outcome.loss_by_step) == outcome.n_steps
    assert outcome.tokens_by_source["chat"] == pytest.approx(100, abs=30)
    assert outcome.peak_memory_bytes is None
    # 2 layers x 2 x (q, k, v, o: 32 + 32; gate, up, down: 32 + 64) = 2 x 2 x (4 x 64 + 3 x 96)
    assert outcome.n_trainable == 2 * 2 * (4 * 64 + 3 * 96)


@pytest.mark.parametrize("adapter", [lora(), full()], ids=["lora", "full"])
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_accumulated_micro_batches_are_one_batch(method: str, adapter: Adapter) -> None:
    trained = []
    for micro in (4, 1):
        ref = resident().fresh()
        outcome = run(
            ref,
            stage(method, adapter=adapter),
            TRAINING.model_copy(update={"micro_batch_rows": micro}),
        )
        trained.append((outcome.loss_by_step, logits(ref.model)))
    assert trained[0][0] == pytest.approx(trained[1][0], abs=1e-4)
    torch.testing.assert_close(trained[0][1], trained[1][1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("adapter", [lora(dropout=0.1), full()], ids=["lora", "full"])
def test_gradient_checkpointing_changes_nothing_but_memory(adapter: Adapter) -> None:
    trained = []
    for checkpointing in (False, True):
        ref = resident().fresh()
        training = TRAINING.model_copy(update={"gradient_checkpointing": checkpointing})
        outcome = run(ref, stage(adapter=adapter), training)
        trained.append(outcome.loss_by_step)
        assert not ref.model.is_gradient_checkpointing
    assert trained[0] == pytest.approx(trained[1], abs=1e-6)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_micro_batch_is_halved_when_memory_runs_out(method: str) -> None:
    base = resident()
    rows_per_pair = 2 if method == "dpo" else 1
    this = stage(method, adapter=lora(dropout=0.2))
    calm = base.fresh()
    expected = run(calm, this, TRAINING.model_copy(update={"micro_batch_rows": 1}))
    output = logits(calm.model)
    ref = base.fresh()
    with memory_for(ref.model, rows_per_pair) as seen:
        outcome = run(ref, this)
    assert (outcome.micro_batch_rows, outcome.n_oom_halvings) == (1, 2)
    assert seen[:3] == [4 * rows_per_pair, 2 * rows_per_pair, rows_per_pair]
    assert outcome.loss_by_step == expected.loss_by_step
    assert torch.equal(logits(ref.model), output)


def test_a_step_that_ran_out_of_memory_half_way_is_repeated_from_its_start() -> None:
    base = resident()
    this = stage(adapter=lora(dropout=0.2))
    calm = base.fresh()
    run(calm, this, TRAINING.model_copy(update={"micro_batch_rows": 1}))
    output = logits(calm.model)
    ref = base.fresh()
    with memory_for(ref.model, 1, n_calm=1) as seen:
        run(ref, this, TRAINING.model_copy(update={"micro_batch_rows": 2}))
    # The first half has given its gradients and drawn its dropout when the second half fails.
    assert seen[:6] == [2, 2, 1, 1, 1, 1]
    assert torch.equal(logits(ref.model), output)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_memory_for_less_than_one_row_fails_the_stage_with_the_reason(method: str) -> None:
    ref = resident().fresh()
    with (
        memory_for(ref.model, 0),
        pytest.raises(StageError, match="one row per forward pass; lower max_length"),
    ):
        run(ref, stage(method))


def test_a_loss_that_is_not_finite_fails_the_stage() -> None:
    ref = resident().fresh()
    ref.base.keep(["model.norm.weight"])
    with torch.no_grad():
        ref.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(
        StageError, match=r"the loss is nan at step 1 of \d+; a lower learning rate"
    ):
        run(ref, stage())


def test_gradient_that_is_not_finite_fails_the_stage_before_the_weights_move() -> None:
    ref = resident().fresh()
    parameter = ref.model.model.layers[0].mlp.down_proj.weight
    before = parameter.detach().clone()
    handle = parameter.register_hook(lambda gradient: gradient * float("inf"))
    try:
        with pytest.raises(Diverged, match=r"the gradient's norm is (inf|nan) at step 1 of \d+"):
            run(ref, stage(adapter=full()))
    finally:
        handle.remove()
    assert torch.equal(parameter, before)


def test_weights_that_are_not_finite_after_the_last_step_fail_the_stage() -> None:
    training = TRAINING.model_copy(
        update={"warmup_steps": 0, "rows_per_step": 12, "micro_batch_rows": None}
    )
    with pytest.raises(StageError, match="weights are not finite after the last step"):
        run(resident().fresh(), stage(learning_rate=1e39, dose_tokens=10), training)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -2.0], True),
        ([3e38, 3e38], True),  # their sum is not finite
        ([1.0, float("nan")], False),
        ([float("inf"), float("-inf")], False),
    ],
)
def test_finite_weights_are_told_from_others(values: list[float], expected: bool) -> None:
    assert _is_finite(torch.tensor(values)) is expected


def test_nothing_of_the_trainer_is_left_on_the_model() -> None:
    base = resident()
    ref = base.fresh()
    before = (
        dict(vars(ref.model)),
        ref.model.config.to_dict(),
        ref.model.generation_config.to_dict(),
    )
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for this in (stage(adapter=full()), stage("dpo"), stage()):
        run(ref, this)
        assert "forward" not in vars(ref.model)
        assert not ref.model.training
        assert all(p.grad is None and p.requires_grad for p in ref.model.parameters())
    assert dict(vars(ref.model)) == before[0]
    assert ref.model.config.to_dict() == before[1]
    assert ref.model.generation_config.to_dict() == before[2]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()
    assert not any(module._forward_pre_hooks for module in ref.model.modules())


def test_the_model_generates_at_every_boundary() -> None:
    ref = resident().fresh()
    for handoff in ("stack", "detach", "merge"):
        run(ref, stage(handoff=handoff))
        written = ref.model.generate(torch.arange(4)[None], max_new_tokens=3, do_sample=False)
        assert written.shape[0] == 1


def test_optimizer_memory_is_freed_at_once() -> None:
    base = resident()
    run(base.fresh(), stage(adapter=full()))  # From here on the base holds its originals.
    ref = base.fresh()
    gc.collect()
    gc.disable()
    try:
        before = n_embeddings(ref.model)
        run(ref, stage(adapter=full()))
        assert n_embeddings(ref.model) == before
        # An error that someone holds also holds the frames it went through.
        with pytest.raises(StageError, match="loss is nan") as held:
            run(ref, stage(adapter=full(), learning_rate=1e39))
        assert n_embeddings(ref.model) == before
        assert held.traceback
    finally:
        gc.enable()


def n_embeddings(model: Any) -> int:
    """Count tensors as large as the embedding: moments and gradients would be among them."""
    shape = model.model.embed_tokens.weight.shape
    found = {
        thing.data_ptr()
        for thing in gc.get_objects()
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.shape == shape
    }
    return len(found)


def test_reference_values_do_not_leak_into_the_tokenised_source() -> None:
    ref = resident().fresh()
    run(ref, stage("dpo"))
    rows = tokenise(sources()["pairs"], ref.tokenizer, ref.tokenizer_hash, 64, "completion").rows
    assert {key for row in rows for key in row} == {"prompt_ids", "chosen_ids", "rejected_ids"}


def test_a_source_of_the_wrong_format_is_refused() -> None:
    with pytest.raises(
        DataError, match="source pairs: sft cannot train on format preference; it takes messages"
    ):
        run(resident().fresh(), stage(mix={"pairs": 1.0}))
    with pytest.raises(
        DataError, match="source chat: dpo cannot train on format messages; it takes preference"
    ):
        run_stage(resident().fresh(), stage("dpo", mix={"chat": 1.0}), sources(), TRAINING, 0)
