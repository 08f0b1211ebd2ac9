"""A stage that dies in its middle goes on from its checkpoint, and ends bit for bit as if it had not died."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_tools import TRAINING, full, lora, resident, run, sources, stage, weights

from search.stages.checkpoint import FILE, Checkpoints
from search.stages.run import StageOutcome, StageSession, run_stage
from spaces.adapter import AdaLora
from spaces.loss import Term
from spaces.recipe import Stage

DOSE = 1200
ADAPTERS: dict[str, Any] = {
    "full": full(),
    "lora": lora(dropout=0.2),
    "dora": lora(dora=True),
    "lora+": lora(lr_ratio=4.0),
    "pissa": lora(init="pissa"),
    "adalora": AdaLora(init_rank=4, target_rank=2, alpha=4.0, dropout=0.2),
}
TERMS = {
    "sft": Term(weight=0.7, mix={"chat": 1.0}),
    "dpo": Term(weight=0.5, mix={"pairs": 1.0}, beta=0.1),
    "kl": Term(weight=0.2),
}
LOSSES: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {"mix": {"pairs": 1.0}, "beta": 0.1},
    "ipo": {"mix": {"pairs": 1.0}, "beta": 0.1},
    "orpo": {"mix": {"pairs": 1.0}, "beta": 0.1},
    "simpo": {"mix": {"pairs": 1.0}, "beta": 2.0, "gamma": 1.0},
    "kto": {"mix": {"pairs": 1.0}, "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "joint": {
        "mix": {},
        "beta": None,
        "terms": TERMS,
        "arbitration": "pcgrad",
        "dose_tokens": 2 * DOSE,
    },
}
FEW = {
    ("sft", "full"),
    ("sft", "lora"),
    ("sft", "pissa"),
    ("sft", "adalora"),
    ("dpo", "full"),
    ("kto", "lora"),
    ("joint", "lora"),
}
"""All others are slow tests."""
CASES = [
    pytest.param(method, adapter, marks=[] if (method, adapter) in FEW else [pytest.mark.slow])
    for method, adapter in product(LOSSES, ADAPTERS)
]


class Killed(BaseException):
    """The process is gone."""


class Kept:
    """Keeps checkpoints in a folder, as a store would; the process dies behind one of them."""

    def __init__(self, folder: Path, dies_at: int | None) -> None:
        self.folder, self.dies_at = folder, dies_at
        self.n_put = 0

    def put(self, write: Callable[[Path], dict[str, Any]]) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "meta.json").write_text(json.dumps(write(self.folder)))
        self.n_put += 1
        if self.n_put == self.dies_at:
            raise Killed

    def get(self) -> tuple[Path, dict[str, Any]] | None:
        meta = self.folder / "meta.json"
        return (self.folder, json.loads(meta.read_text())) if meta.exists() else None


def train(
    ref: Any, this: Stage, kept: Kept, training: Any = TRAINING, seconds: float = 0.0
) -> StageOutcome:
    return run_stage(ref, this, sources(), training, 3, checkpoints=Checkpoints(kept, seconds))


def substance(outcome: StageOutcome) -> dict[str, Any]:
    return {name: value for name, value in vars(outcome).items() if not name.endswith("seconds")}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def killed_and_resumed(
    this: Stage, folder: Path, training: Any = TRAINING, dies_at: tuple[int, ...] = (1, 2)
) -> None:
    base = resident(training.precision)
    whole = base.fresh()
    expected = run(whole, this, training)
    kept = weights(whole.model)
    assert expected.n_steps > sum(dies_at) + 1
    done = 0
    for each in dies_at:
        with pytest.raises(Killed):
            train(base.fresh(), this, Kept(folder, each), training)
        done += each
        assert json.loads((folder / "meta.json").read_text())["n_steps"] == done
    ref, last = base.fresh(), Kept(folder, None)
    outcome = train(ref, this, last, training)
    assert (
        last.n_put == expected.n_steps - done - 1
    )  # none before the first step, and none after the last
    assert substance(outcome) == substance(expected)
    assert_equal(weights(ref.model), kept)


@pytest.mark.parametrize(("method", "adapter"), CASES)
def test_a_stage_killed_twice_ends_as_if_it_had_not_been(
    method: str, adapter: str, tmp_path: Path
) -> None:
    values = {"dose_tokens": DOSE, **LOSSES[method], "adapter": ADAPTERS[adapter]}
    killed_and_resumed(stage(method, **values), tmp_path / "kept")


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16", "gradient_checkpointing": True},
        {"schedule": "cosine", "micro_batch_rows": 2, "warmup_steps": 3},
    ],
    ids=["bfloat16", "cosine"],
)
def test_training_settings_do_not_change_what_a_resumed_stage_ends_with(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    training = TRAINING.model_copy(update=changes)
    killed_and_resumed(stage(adapter=lora(dropout=0.2), dose_tokens=DOSE), tmp_path / "k", training)


def test_a_stage_after_others_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    first = stage(adapter=full(), dose_tokens=300)
    second = stage("dpo", adapter=full(), dose_tokens=DOSE)
    base = resident()
    whole = base.fresh()
    run(whole, first)
    expected = run(whole, second)
    kept = weights(whole.model)
    ref = base.fresh()
    run(ref, first)
    with pytest.raises(Killed):
        train(ref, second, Kept(tmp_path / "kept", 3))
    ref = base.fresh()
    run(ref, first)
    assert substance(train(ref, second, Kept(tmp_path / "kept", None))) == substance(expected)
    assert_equal(weights(ref.model), kept)


def test_no_checkpoint_is_written_below_the_interval_and_none_costs_a_bit(tmp_path: Path) -> None:
    base, this = resident(), stage(adapter=lora(dropout=0.2), dose_tokens=DOSE)
    whole = base.fresh()
    expected = run(whole, this)
    for seconds, n_put in ((3600.0, 0), (0.0, expected.n_steps - 1)):
        ref, kept = base.fresh(), Kept(tmp_path / f"{n_put}", None)
        outcome = train(ref, this, kept, seconds=seconds)
        assert kept.n_put == n_put
        assert substance(outcome) == substance(expected)
        assert_equal(weights(ref.model), weights(whole.model))


def test_references_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.stages.dpo import StageDpo

    base, this = resident(), stage("dpo", dose_tokens=DOSE)
    with pytest.raises(Killed):
        train(base.fresh(), this, Kept(tmp_path / "kept", 2))
    monkeypatch.setattr(StageDpo, "add_reference", lambda self: pytest.fail("computed again"))
    train(base.fresh(), this, Kept(tmp_path / "kept", None))


@pytest.mark.parametrize(
    "damage", ["other steps", "other format", "no tensors", "a pickle", "not finite", "other shape"]
)
def test_a_checkpoint_that_does_not_fit_is_passed_over(damage: str, tmp_path: Path) -> None:
    base, this = resident(), stage(dose_tokens=DOSE)
    expected = run(base.fresh(), this)
    folder = tmp_path / "kept"
    with pytest.raises(Killed):
        train(base.fresh(), this, Kept(folder, 2))
    meta = json.loads((folder / "meta.json").read_text())
    if damage == "other steps":
        meta["n_all_steps"] += 1
    elif damage == "other format":
        meta["format"] = 0
    elif damage == "not finite":
        meta["losses"] = ["x"]
    elif damage == "no tensors":
        (folder / FILE).unlink()
    elif damage == "a pickle":
        (folder / FILE).write_bytes(b"\x80\x04\x95")
    else:
        this = stage(dose_tokens=DOSE, adapter=lora(rank=4))
        expected = run(base.fresh(), this)
    (folder / "meta.json").write_text(json.dumps(meta))
    assert substance(train(base.fresh(), this, Kept(folder, None))) == substance(expected)


def test_a_notice_that_the_machine_goes_is_answered_with_a_checkpoint_at_the_step(
    tmp_path: Path,
) -> None:
    base, this = resident(), stage(dose_tokens=DOSE)
    expected = run(base.fresh(), this)
    heard: list[int] = []

    def leave(*_: object) -> None:
        raise Killed

    before = signal.signal(signal.SIGTERM, leave)
    try:
        kept = Kept(tmp_path / "kept", None)
        with StageSession(
            base.fresh(), this, sources(), TRAINING, 3, checkpoints=Checkpoints(kept, 3600.0)
        ) as session:
            optimizer = session._setting.optimizers[0]

            def notice(*_: object) -> None:
                heard.append(1)
                if len(heard) == 3:
                    os.kill(os.getpid(), signal.SIGTERM)

            optimizer.register_step_post_hook(notice)
            with pytest.raises(Killed):
                session.advance()
        assert kept.n_put == 1
        assert json.loads((tmp_path / "kept" / "meta.json").read_text())["n_steps"] == 3
        assert signal.getsignal(signal.SIGTERM) is leave
    finally:
        signal.signal(signal.SIGTERM, before)
    assert substance(train(base.fresh(), this, kept)) == substance(expected)


def test_a_rung_that_was_passed_makes_the_stage_begin_anew(tmp_path: Path) -> None:
    base, this = resident(), stage(dose_tokens=DOSE)
    expected = run(base.fresh(), this)
    with pytest.raises(Killed):
        train(base.fresh(), this, Kept(tmp_path / "kept", 4))
    for share, n_from in ((0.2, 0), (0.9, 4)):
        kept = Kept(tmp_path / "kept", None)
        meta = (tmp_path / "kept" / "meta.json").read_text()
        with StageSession(
            base.fresh(), this, sources(), TRAINING, 3, checkpoints=Checkpoints(kept, 3600.0)
        ) as session:
            (rung,) = session.rungs((share,))
            session.advance(rung.n_steps)
            assert session._keeper is not None
            assert session._keeper.start_step == n_from
            assert substance(session.finish()) == substance(expected)
        (tmp_path / "kept" / "meta.json").write_text(meta)
