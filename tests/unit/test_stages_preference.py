"""Preference losses: their values by hand from the model's own logits, TRL's own trainers, and what they may not do."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from stage_tools import TRAINING, full, lora, resident, run, sources, stage, weights

from search.errors import DataError, StageError
from search.sources import Source
from search.spec import TrainingSpec
from search.stages.run import run_stage
from search.stages.schedule import make_optimizer
from search.stages.tokens import TokenRow, tokenise, unpaired
from search.stages.trainer import Memory, Setting, untouched
from spaces.loss import LOSS_SETTINGS
from spaces.recipe import Stage

METHODS = ("ipo", "orpo", "kto", "simpo")
SHIFTS = {
    "ref_chosen_logps": -2.0,
    "ref_rejected_logps": 1.0,
    "ref_logps": -0.7,
    "ref_KL_logps": -3,
}


def made(method: str, **changes: Any) -> Stage:
    return stage(method, **{"mix": {"pairs": 1.0}, **LOSS_SETTINGS[method], **changes})


@contextmanager
def trainer_of(
    this: Stage, folder: Path, micro: int = 8, training: TrainingSpec = TRAINING
) -> Iterator[Any]:
    """Give a trainer of one step of 8 rows on the fresh base, with reference values far from the model's own."""
    ref = resident().fresh()
    tokens = tokenise(sources()["pairs"], ref.tokenizer, ref.tokenizer_hash, 64, "completion")
    rows = unpaired(tokens).rows if this.method == "kto" else tokens.rows
    optimizers = make_optimizer(ref.model.parameters(), 1e-3, 1, training)
    batches = [[dict(row) for row in rows[:8]]]
    setting = Setting(ref, training, batches, optimizers, Memory(micro), 0, folder)
    with untouched(ref.model):
        trainer = import_module(f"search.stages.{this.method}").build(setting, this)
        trainer.add_reference()
        for row in trainer.batches[0]:
            for name, shift in SHIFTS.items():
                if name in row:
                    row[name] += shift
        yield trainer


def step(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.training_step(trainer.model, trainer.batches[0])
    named = trainer.model.named_parameters()
    gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
    trainer.model.zero_grad()
    return trainer.losses[-1], gradients


def logps(model: Any, prompt: list[int], answer: list[int]) -> list[float]:
    """Return the log-probability of each token of an answer: one row, no padding, no head of ours."""
    ids = torch.tensor(prompt + answer)
    with torch.no_grad():
        logp_TV = type(model).forward(model, input_ids=ids[None]).logits[0].log_softmax(-1)
    return [float(logp_TV[at - 1, ids[at]]) for at in range(len(prompt), len(ids))]


def both(model: Any, row: TokenRow) -> tuple[list[float], list[float]]:
    found = [logps(model, row["prompt_ids"], row[name]) for name in ("chosen_ids", "rejected_ids")]
    return found[0], found[1]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("micro", [8, 3])
def test_ipo_pulls_the_mean_gain_of_the_chosen_answer_to_half_of_one_over_beta(
    tmp_path: Path, micro: int
) -> None:
    with trainer_of(made("ipo", beta=0.4), tmp_path, micro) as trainer:
        found, _ = step(trainer)
        expected = []
        for row in trainer.batches[0]:
            chosen, rejected = both(trainer.model, row)
            # The reference is the model itself but for the shifts: the gains are 2 and -1 nats of each answer.
            gain = 2.0 / len(chosen) - -1.0 / len(rejected)
            expected.append((gain - 1 / (2 * 0.4)) ** 2)
    assert found == pytest.approx(mean(expected), abs=1e-4)


@pytest.mark.parametrize("micro", [8, 3])
@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_orpo_is_likelihood_and_log_odds_ratio(tmp_path: Path, micro: int, loss_on: str) -> None:
    training = TRAINING.model_copy(update={"loss_on": loss_on})
    with trainer_of(made("orpo", beta=0.3), tmp_path, micro, training) as trainer:
        found, _ = step(trainer)
        nats, n_tokens, odds = 0.0, 0, []
        for row in trainer.batches[0]:
            chosen, rejected = both(trainer.model, row)
            learnt = chosen
            if loss_on == "all":
                ids = row["prompt_ids"] + row["chosen_ids"]
                learnt = logps(trainer.model, ids[:1], ids[1:])
            nats -= sum(learnt)
            n_tokens += len(learnt)
            logits = [mean(part) - math.log1p(-math.exp(mean(part))) for part in (chosen, rejected)]
            odds.append(log_sigmoid(logits[0] - logits[1]))
    assert found == pytest.approx(nats / n_tokens - 0.3 * mean(odds), abs=1e-4)


@pytest.mark.parametrize("micro", [8, 3])
def test_simpo_asks_for_a_margin_of_scaled_means(tmp_path: Path, micro: int) -> None:
    with trainer_of(made("simpo", beta=1.5, gamma=0.6), tmp_path, micro) as trainer:
        found, _ = step(trainer)
        pairs = [both(trainer.model, row) for row in trainer.batches[0]]
    expected = [-log_sigmoid(1.5 * (mean(c) - mean(r)) - 0.6) for c, r in pairs]
    assert found == pytest.approx(mean(expected), abs=1e-4)


@pytest.mark.parametrize("micro", [8, 3])
def test_kto_weighs_gains_against_the_divergence_of_the_step(tmp_path: Path, micro: int) -> None:
    this = made("kto", beta=0.5, desirable_weight=1.2, undesirable_weight=0.8)
    with trainer_of(this, tmp_path, micro) as trainer:
        found, _ = step(trainer)
        labels = [row["label"] for row in trainer.batches[0]]
        own = [row["completion_ids"] for row in trainer.batches[0]]
        neighbours = [row["KL_completion_ids"] for row in trainer.batches[0]]
    assert labels == [True, False] * 4
    # Both halves of a pair get the rejected answer of the pair before; the last pair comes before the first.
    assert neighbours == [own[at] for at in (7, 7, 1, 1, 3, 3, 5, 5)]
    # The reference is the model itself but for the shifts: all gains are .7 nats, and the divergence is 3.
    desirable = 1.2 * (1 - 1 / (1 + math.exp(-0.5 * (0.7 - 3.0))))
    undesirable = 0.8 * (1 - 1 / (1 + math.exp(-0.5 * (3.0 - 0.7))))
    assert found == pytest.approx((desirable + undesirable) / 2, abs=1e-4)


def test_the_divergence_of_kto_is_never_below_zero(tmp_path: Path) -> None:
    with trainer_of(made("kto"), tmp_path) as trainer:
        for row in trainer.batches[0]:
            row["ref_KL_logps"] += 10.0
        step(trainer)
        assert trainer.divergence.item() == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_gradients_do_not_depend_on_how_a_step_is_split(tmp_path: Path, method: str) -> None:
    found = []
    for micro in (8, 3):
        with trainer_of(made(method), tmp_path, micro) as trainer:
            found.append(step(trainer))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert max(float(gradient.abs().max()) for gradient in found[0][1].values()) > 1e-4
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-5, rtol=1e-3)


def common(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "max_length": 64,
        "per_device_train_batch_size": 8,
        "remove_unused_columns": False,
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_loss_is_that_of_trls_own_trainer(tmp_path: Path, method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo import CPOConfig, CPOTrainer
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    training = TRAINING.model_copy(update={"loss_on": "all"})
    this = made(method, beta=0.3)
    model = resident().fresh().model
    with trainer_of(this, tmp_path, training=training) as ours:
        rows = [dict(row) for row in ours.batches[0]]
        found, gradients = step(ours)
    sample = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}] * 2)
    if method == "orpo":
        theirs = ORPOTrainer(
            model=model,
            args=ORPOConfig(**common(tmp_path), beta=0.3, disable_dropout=False),
            train_dataset=sample,
            processing_class=resident().tokenizer,
        )
    else:
        config = CPOConfig(
            **common(tmp_path), beta=0.3, loss_type="simpo", simpo_gamma=1.0, cpo_alpha=0.0
        )
        theirs = CPOTrainer(
            model=model, args=config, train_dataset=sample, processing_class=resident().tokenizer
        )
    model.zero_grad()
    loss = theirs.compute_loss(model, _as_trl(rows))
    loss.backward()
    assert found == pytest.approx(loss.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


def _as_trl(rows: list[TokenRow]) -> dict[str, Any]:
    """Return pairs in the form that TRL's experimental trainers pad and concatenate."""
    batch: dict[str, Any] = {}
    for answer in ("chosen", "rejected"):
        whole = [torch.tensor(row["prompt_ids"] + row[f"{answer}_ids"]) for row in rows]
        labels = [
            torch.tensor([-100] * len(row["prompt_ids"]) + row[f"{answer}_ids"]) for row in rows
        ]
        mask = [torch.ones_like(ids) for ids in whole]
        for name, tensors, padding in (
            ("input_ids", whole, 0),
            ("labels", labels, -100),
            ("attention_mask", mask, 0),
        ):
            batch[f"{answer}_{name}"] = torch.nn.utils.rnn.pad_sequence(
                tensors, batch_first=True, padding_value=padding
            )
    return batch


@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_reference_free_methods_compute_no_reference(tmp_path: Path, method: str) -> None:
    with trainer_of(made(method), tmp_path) as trainer:
        passes: list[int] = []
        norm = trainer.model.model.norm
        handle = norm.register_forward_pre_hook(lambda *_: passes.append(1))
        trainer.add_reference()
        handle.remove()
        assert passes == []
        assert not any(name.startswith("ref") for row in trainer.batches[0] for name in row)


@pytest.mark.parametrize("adapter", [lora(dropout=0.2), full()], ids=["lora", "full"])
@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(method: str, adapter: Any) -> None:
    runs = []
    for seed in (3, 3, 4):
        ref = resident().fresh()
        handoff = "merge" if adapter.kind == "full" else "stack"
        outcome = run(ref, made(method, adapter=adapter, handoff=handoff), seed=seed)
        runs.append(weights(ref.model))
        assert "forward" not in vars(ref.model)
        assert outcome.conflict_by_step == {}
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(method: str) -> None:
    outcome = run(resident().fresh(), made(method, dose_tokens=4000))
    first, last = outcome.loss_by_step[0], outcome.loss_by_step[-1]
    # KTO's loss is .5 while the model is its own reference; IPO's is 1 / (4 beta^2).
    start = {"kto": 0.5, "ipo": 25.0}.get(method, first)
    assert first == pytest.approx(start, rel=1e-4)
    assert last < 0.97 * first


def test_kto_reads_unpaired_answers_and_pairs_alike() -> None:
    # A pair and its two halves as rows of their own: the same answers, and twice as many rows.
    pairs = sources()["pairs"]
    rows = [
        {"prompt": row["prompt"], "completion": row[field], "label": label}
        for row in pairs.rows
        for field, label in (("chosen", True), ("rejected", False))
    ]
    single = Source("pairs", "unpaired-preference", rows, pairs.content_hash)
    losses = []
    for source in (pairs, single):
        ref = resident().fresh()
        outcome = run_stage(ref, made("kto"), {"pairs": source}, TRAINING, 3)
        losses.append((outcome.loss_by_step, outcome.n_rows, outcome.passes_by_source))
    assert losses[0] == losses[1]


def test_kto_refuses_steps_of_one_row_and_rows_without_preference() -> None:
    training = TRAINING.model_copy(update={"rows_per_step": 1})
    with pytest.raises(StageError, match=r"set training\.rows_per_step to 2 or more"):
        run_stage(resident().fresh(), made("kto"), sources(), training, 0)
    with pytest.raises(
        DataError, match="source done: kto cannot train on format prompt-completion; it takes pref"
    ):
        run_stage(resident().fresh(), made("kto", mix={"done": 1.0}), sources(), TRAINING, 0)


def test_neighbours_of_kto_are_cut_to_the_longest_row(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"max_length": 26})
    ref = resident().fresh()
    tokens = unpaired(
        tokenise(sources()["pairs"], ref.tokenizer, ref.tokenizer_hash, 26, "completion")
    )
    batch = [dict(row) for row in tokens.rows[:8]]
    assert max(len(row["prompt_ids"]) + len(row["completion_ids"]) for row in batch) == 26
    optimizers = make_optimizer(ref.model.parameters(), 1e-3, 1, training)
    setting = Setting(ref, training, [batch], optimizers, Memory(8), 0, tmp_path)
    with untouched(ref.model):
        trainer = import_module("search.stages.kto").build(setting, made("kto"))
    for row in trainer.batches[0]:
        assert 1 <= len(row["KL_completion_ids"]) <= 26 - len(row["prompt_ids"])


def neighbours(prompts: list[int], folder: Path) -> list[int]:
    """Return which row's answer belongs to each row of a step with these prompts."""
    rows = [
        {"prompt_ids": [prompt], "completion_ids": [at], "label": True}
        for at, prompt in enumerate(prompts)
    ]
    ref = resident().fresh()
    optimizers = make_optimizer(ref.model.parameters(), 1e-3, 1, TRAINING)
    setting = Setting(ref, TRAINING, [rows], optimizers, Memory(8), 0, folder)
    with untouched(ref.model):
        trainer = import_module("search.stages.kto").build(setting, made("kto"))
    return [row["KL_completion_ids"][0] for row in trainer.batches[0]]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([1, 2, 3], [2, 0, 1]),
        # Answers to prompt 1 at both ends of the step are not each other's neighbours.
        ([1, 2, 2, 1], [2, 0, 0, 2]),
        ([1, 1, 1, 2], [3, 3, 3, 2]),
        ([1, 1, 1], [2, 0, 1]),
    ],
)
def test_a_neighbour_of_kto_answers_another_prompt_if_the_step_has_one(
    prompts: list[int], expected: list[int], tmp_path: Path
) -> None:
    assert neighbours(prompts, tmp_path) == expected


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_near_float32(method: str) -> None:
    exact = run(resident().fresh(), made(method)).loss_by_step[0]
    rounded = run(resident("bfloat16").fresh(), made(method)).loss_by_step[0]
    assert rounded == pytest.approx(exact, rel=0.05)
