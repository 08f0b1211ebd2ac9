"""Losses and gradients of a stage's trainer are TRL's: compared with TRL's own trainers on the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from stage_tools import TRAINING, lora, resident, run, sources, stage
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from search.stages import dpo, sft
from search.stages.schedule import make_optimizer
from search.stages.tokens import tokenise
from search.stages.trainer import Memory, Setting, untouched
from spaces.recipe import Stage

Gradients = dict[str, torch.Tensor]


def gradients(model: Any) -> Gradients:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@contextmanager
def ours(this: Stage, folder: Path, micro: int = 8, n_rows: int = 8) -> Iterator[Any]:
    ref = resident().fresh()
    (name,) = this.mix
    source = sources()[name]
    tokens = tokenise(source, ref.tokenizer, ref.tokenizer_hash, 64, "completion")
    batches = [[dict(row) for row in tokens.rows[:n_rows]]]
    optimizers = make_optimizer(ref.model.parameters(), 1e-3, 1, TRAINING)
    setting = Setting(ref, TRAINING, batches, optimizers, Memory(micro), 0, folder)
    with untouched(ref.model):
        yield sft.build(setting) if this.method == "sft" else dpo.build(setting, this)


def our_step(this: Stage, folder: Path, micro: int = 8) -> tuple[float, Gradients]:
    with ours(this, folder, micro) as trainer:
        if this.method == "dpo":
            trainer.add_reference()
            # Reference values far from the model's, or the loss would not depend on them.
            for row in trainer.batches[0]:
                row["ref_chosen_logps"] -= 2.0
                row["ref_rejected_logps"] += 1.0
        trainer.training_step(trainer.model, trainer.batches[0])
        return trainer.losses[0], gradients(trainer.model)


def common(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "max_length": 64,
        "per_device_train_batch_size": 8,
    }


def compare(found: tuple[float, Gradients], loss: float, expected: Gradients) -> None:
    assert found[0] == pytest.approx(loss, abs=1e-5)
    assert found[1].keys() == expected.keys()
    assert max(float(tensor.abs().max()) for tensor in expected.values()) > 1e-3
    for name in expected:
        torch.testing.assert_close(found[1][name], expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("micro", [8, 3])
def test_sft_loss_and_gradients_are_trls(tmp_path: Path, micro: int) -> None:
    found = our_step(stage(mix={"done": 1.0}), tmp_path, micro)
    model = resident().fresh().model
    with untouched(model):
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**common(tmp_path)),
            train_dataset=Dataset.from_list(sources()["done"].rows[:8]),
            processing_class=resident().tokenizer,
        )
        rows = [trainer.train_dataset[at] for at in range(8)]
        loss = trainer.compute_loss(model, trainer.data_collator(rows))
        loss.backward()
        compare(found, loss.item(), gradients(model))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("micro", [8, 3])
def test_dpo_loss_and_gradients_are_trls(tmp_path: Path, micro: int) -> None:
    found = our_step(stage("dpo", beta=0.3), tmp_path, micro)
    model = resident().fresh().model
    with untouched(model):
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(**common(tmp_path), beta=0.3, precompute_ref_log_probs=True),
            train_dataset=Dataset.from_list(sources()["pairs"].rows[:8]),
            processing_class=resident().tokenizer,
        )
        rows = [trainer.train_dataset[at] for at in range(8)]
        for row in rows:
            row["ref_chosen_logps"] -= 2.0
            row["ref_rejected_logps"] += 1.0
        model.train()
        loss = trainer.compute_loss(model, trainer.data_collator(rows))
        loss.backward()
        compare(found, loss.item(), gradients(model))


def test_sft_loss_is_the_mean_over_the_loss_tokens_of_the_whole_step(tmp_path: Path) -> None:
    # By hand from the model's own logits, row by row and without padding.
    found, _ = our_step(stage(), tmp_path, micro=3)
    base = resident()
    ref = base.fresh()
    tokens = tokenise(sources()["chat"], ref.tokenizer, ref.tokenizer_hash, 64, "completion")
    nats, n_tokens = 0.0, 0
    for row in tokens.rows[:8]:
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            logp_TV = ref.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for at, label in enumerate(row["labels"][1:]):
            if label != -100:
                nats -= float(logp_TV[at, label])
                n_tokens += 1
    assert found == pytest.approx(nats / n_tokens, abs=1e-5)


def test_reference_log_probabilities_are_the_received_models_without_dropout(
    tmp_path: Path,
) -> None:
    # By hand, pair by pair and without padding, from the model that lora with dropout has changed.
    ref = resident().fresh()
    run(ref, stage(adapter=lora(dropout=0.5), handoff="stack"))
    tokens = tokenise(sources()["pairs"], ref.tokenizer, ref.tokenizer_hash, 64, "completion")
    batches = [[dict(row) for row in tokens.rows[:4]]]
    optimizers = make_optimizer(ref.model.parameters(), 1e-3, 1, TRAINING)
    setting = Setting(ref, TRAINING, batches, optimizers, Memory(3), 0, tmp_path)
    with untouched(ref.model):
        dpo.build(setting, stage("dpo")).add_reference()
    ref.model.eval()
    for row in batches[0]:
        for answer in ("chosen", "rejected"):
            ids = torch.tensor(row["prompt_ids"] + row[f"{answer}_ids"])
            with torch.no_grad():
                logp_TV = ref.model(input_ids=ids[None]).logits[0].log_softmax(-1)
            n_prompt = len(row["prompt_ids"])
            by_hand = sum(float(logp_TV[at - 1, ids[at]]) for at in range(n_prompt, len(ids)))
            assert row[f"ref_{answer}_logps"] == pytest.approx(by_hand, abs=1e-4)


def test_bfloat16_is_autocast_over_float32_weights(tmp_path: Path) -> None:
    base = resident("bfloat16")
    ref = base.fresh()
    outcome = run(ref, stage())
    exact = run(resident().fresh(), stage())
    assert ref.model.dtype == torch.float32
    assert outcome.loss_by_step[0] != exact.loss_by_step[0]
    assert outcome.loss_by_step[0] == pytest.approx(exact.loss_by_step[0], rel=0.02)


def test_bfloat16_weights_train_with_float32_adapters() -> None:
    ref = resident("bfloat16", "bfloat16").fresh()
    run(ref, stage(handoff="stack"))
    dtypes = {
        (".lora_" in name, parameter.dtype) for name, parameter in ref.model.named_parameters()
    }
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    run(ref, stage("dpo", handoff="merge"))
    assert ref.model.lm_head.weight.dtype == torch.bfloat16
