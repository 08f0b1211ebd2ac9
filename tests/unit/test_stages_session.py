"""Claims about a stage in pieces: bit for bit the uninterrupted one, whatever is done with the model in between."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from stage_tools import TRAINING, full, logits, lora, resident, run, sources, stage, turn, weights

from evaluators.models import LoadedModel
from search.errors import StageError
from search.stages.run import StageOutcome, StageSession
from spaces.adapter import AdaLora
from spaces.loss import Term
from spaces.recipe import Stage

DOSE = 2000
JOINT = stage(
    "joint",
    mix={},
    beta=None,
    adapter=lora(dropout=0.2),
    terms={
        "sft": Term(weight=0.7, mix={"chat": 1.0}),
        "dpo": Term(weight=0.5, mix={"pairs": 1.0}, beta=0.1),
        "kl": Term(weight=0.2),
    },
    arbitration="pcgrad",
    dose_tokens=DOSE,
)
KTO = {"mix": {"pairs": 1.0}, "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
STAGES = {
    "sft-full": stage(adapter=full(), dose_tokens=DOSE),
    "sft-lora-dropout": stage(adapter=lora(dropout=0.2), dose_tokens=DOSE, handoff="stack"),
    "sft-pissa": stage(adapter=lora(init="pissa"), dose_tokens=DOSE),
    "dpo-lora-dropout": stage("dpo", adapter=lora(dropout=0.2), dose_tokens=DOSE),
    "kto-lora": stage("kto", **KTO, dose_tokens=DOSE),
    "joint": JOINT,
    "adalora": stage(
        adapter=AdaLora(init_rank=4, target_rank=2, alpha=4.0, dropout=0.2),
        dose_tokens=DOSE,
        handoff="stack",
    ),
}
"""With constant schedules; every kind of memory that a loop may have between steps."""


def evaluate(ref: Any) -> list[Any]:
    """Do what evaluators do, and what others in the process do to the random states."""
    loaded = LoadedModel(ref.model, ref.tokenizer, ref.device, ref.precision)
    written = loaded.generate([[turn("user", "the cat?")], [turn("user", "the owl?")]], 5)
    nats = loaded.text_nats(["Once the cat met a friend and said hello to you all."], 32)
    random.random(), np.random.rand(3), torch.rand(3)
    return [written, nats]


def run_in_pieces(
    ref: Any, this: Stage, training: Any = TRAINING, shares: tuple[float, ...] = (0.25, 0.5, 0.8)
) -> tuple[StageOutcome, list[Any]]:
    seen = []
    with StageSession(ref, this, sources(), training, 3) as session:
        rungs = session.rungs(shares)
        assert len(rungs) == len(shares)
        for rung in rungs:
            session.advance(rung.n_steps)
            seen.append(evaluate(ref))
        return session.finish(), seen


def is_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("this", STAGES.values(), ids=STAGES)
def test_a_stage_in_pieces_is_the_whole_stage_bit_for_bit(this: Stage) -> None:
    base = resident()
    whole = base.fresh()
    expected = run(whole, this)
    kept = weights(whole.model)
    ref = base.fresh()
    outcome, seen = run_in_pieces(ref, this)
    assert is_equal(weights(ref.model), kept)
    assert outcome.loss_by_step == expected.loss_by_step
    assert outcome.conflict_by_step == expected.conflict_by_step
    assert outcome.adapter_ranks == expected.adapter_ranks
    # The pieces did something, so that what was evaluated were three models.
    assert len({repr(each) for each in seen}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True},
        {"precision": "bfloat16"},
        {"schedule": "cosine", "micro_batch_rows": 2},
    ],
    ids=["checkpointing", "bfloat16", "cosine"],
)
def test_training_settings_do_not_break_pieces(changes: dict[str, Any]) -> None:
    base = resident(changes.get("precision", "float32"))
    training = TRAINING.model_copy(update=changes)
    this = stage(adapter=lora(dropout=0.2), dose_tokens=DOSE)
    whole = base.fresh()
    expected = run(whole, this, training)
    kept = weights(whole.model)
    ref = base.fresh()
    outcome, _ = run_in_pieces(ref, this, training)
    assert outcome.loss_by_step == expected.loss_by_step
    assert is_equal(weights(ref.model), kept)
    assert not ref.model.is_gradient_checkpointing


def test_pieces_after_a_detached_adapter_are_the_whole_stage_bit_for_bit() -> None:
    base, found = resident(), []
    for in_pieces in (False, True):
        ref = base.fresh()
        run(ref, stage(handoff="detach"))
        this = stage("dpo", adapter=lora(dropout=0.2), dose_tokens=DOSE)
        if in_pieces:
            run_in_pieces(ref, this)
        else:
            run(ref, this)
        found.append(weights(ref.model))
    assert is_equal(*found)


@pytest.mark.parametrize("before", ["stack", "detach"])
@pytest.mark.parametrize("name", ["sft-full", "sft-lora-dropout", "sft-pissa", "dpo-lora-dropout"])
def test_the_model_at_a_rung_is_that_of_the_smaller_dose(name: str, before: str) -> None:
    base = resident()
    this = STAGES[name]
    ref = base.fresh()
    run(ref, stage(handoff=before))
    with StageSession(ref, this, sources(), TRAINING, 3) as session:
        (rung,) = session.rungs((0.4,))
        session.advance(rung.n_steps)
        assert not ref.model.training
        assert "forward" not in vars(ref.model)
        at_rung = logits(ref.model)
    small = base.fresh()
    run(small, stage(handoff=before))
    outcome = run(small, this.model_copy(update={"dose_tokens": int(0.4 * DOSE)}))
    assert (rung.n_steps, rung.trained_tokens) == (outcome.n_steps, outcome.trained_tokens)
    torch.testing.assert_close(at_rung, logits(small.model), atol=2e-5, rtol=0)


def test_a_share_without_a_step_of_its_own_has_no_rung() -> None:
    this = stage(dose_tokens=800)
    with StageSession(resident().fresh(), this, sources(), TRAINING, 3) as session:
        shares = tuple(n / 100 for n in range(1, 100))
        rungs = session.rungs(shares)
        n_steps = session.finish().n_steps
    assert [rung.n_steps for rung in rungs] == list(range(1, n_steps))
    assert rungs[0].share == 0.01


def test_the_process_keeps_its_random_states_between_pieces() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with StageSession(
        resident().fresh(), STAGES["sft-lora-dropout"], sources(), TRAINING, 3
    ) as session:
        session.advance(2)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()
        assert (before[2] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("n_steps", [0, 2])
def test_a_stage_left_before_its_end_leaves_nothing_behind(n_steps: int) -> None:
    base = resident()
    expected = weights(base.fresh().model)
    n_threads = threading.active_count()
    ref = base.fresh()
    session = StageSession(ref, STAGES["sft-full"], sources(), TRAINING, 3)
    folder = session._setting.folder
    if n_steps:
        session.advance(n_steps)
        assert threading.active_count() == n_threads + 1
    assert folder.exists()
    session.close()
    assert not folder.exists()
    assert threading.active_count() == n_threads
    assert "forward" not in vars(ref.model)
    assert is_equal(weights(base.fresh().model), expected)


def test_an_error_in_a_later_piece_reaches_the_caller() -> None:
    ref = resident().fresh()
    ref.base.keep(["model.norm.weight"])
    with StageSession(ref, stage(dose_tokens=DOSE), sources(), TRAINING, 3) as session:
        session.advance(2)
        with torch.no_grad():
            ref.model.model.norm.weight.fill_(float("nan"))
        with pytest.raises(StageError, match=r"the loss is nan at step 3 of \d+"):
            session.advance(3)
