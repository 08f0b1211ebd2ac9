"""`--to axolotl`: one configuration of axolotl per stage, its rows as tokens, and a script that runs them.

Rows go as token ids and labels, which axolotl takes as they are, since its own rendering of conversations and its masks
differ. Supervised stages alone: axolotl draws pairs in random order and has no setting against it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.export.chain import Chain, Run, read_chain
from search.export.folder import whole_folder, write_jsonl, write_yaml
from search.export.huggingface import schedule_settings
from search.export.job import Job, Means
from search.export.runs import Start, run_place, starts, write_runs
from search.export.tool import Tool, check_precision
from spaces.adapter import Full, Lora

_SHUFFLES = "axolotl draws pairs in random order and has no setting against it"
TOOL = Tool(
    name="axolotl",
    methods=frozenset({"sft"}),
    why_not=dict.fromkeys(("dpo", "ipo", "orpo", "kto", "simpo"), _SHUFFLES),
    lora=frozenset({"dora", "rslora", "lr_ratio"}),
    can_freeze=True,
    can_continue=True,
)
REQUIREMENTS = {
    "axolotl": "0.19.0",
    "transformers": "5.16.1",
    "peft": "0.20.0",
    "trl": "1.9.0",
    "accelerate": "1.13.0",
    "datasets": "4.8.4",
}
"""axolotl pins the versions of all others itself."""


def export(job: Job, out: Path, means: Means) -> list[str]:
    """Write configurations, rows and the script.

    Raises:
        SpecError: axolotl cannot express the recipe, or `out` cannot be made.
        ApportionError: The base or a source cannot be read.
    """
    check_precision(job, TOOL)
    chain = read_chain(job, TOOL)
    with whole_folder(out) as part:
        part.mkdir()
        commands = []
        for run, start in zip(chain.runs, starts(chain), strict=True):
            rows, name = f"data/{run_place(run)}.jsonl", f"{run_place(run)}.yaml"
            write_jsonl(
                part / rows,
                (
                    {
                        "input_ids": list(row["input_ids"]),
                        "attention_mask": [1] * len(row["input_ids"]),
                        "labels": list(row["labels"]),
                    }
                    for row in run.tokens
                ),
            )
            write_yaml(part / name, run_config(chain, run, start, rows))
            commands.append(f'axolotl train {name} --launcher python "$@"')
        lines = write_runs(chain, part, TOOL.name, commands, REQUIREMENTS)
    return [f"runs:  {out}", *lines]


def run_config(chain: Chain, run: Run, start: Start, rows: str) -> dict[str, Any]:
    """Return what axolotl reads for one stage."""
    training, stage = chain.job.spec.training, run.stage
    micro = training.micro_batch_rows or training.rows_per_step
    schedule = schedule_settings(training)
    is_half = training.precision == "bfloat16"
    config: dict[str, Any] = {
        "base_model": start.model,
        "datasets": [{"path": rows, "ds_type": "json", "type": None}],
        "dataset_prepared_path": f"out/prepared/{run_place(run)}",
        "val_set_size": 0,
        "curriculum_sampling": True,
        "shuffle_merged_datasets": False,
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "sequence_len": training.max_length,
        "num_epochs": 1,
        "micro_batch_size": micro,
        "gradient_accumulation_steps": training.rows_per_step // micro,
        "learning_rate": stage.learning_rate,
        "lr_scheduler": schedule["lr_scheduler_type"],
        "warmup_steps": schedule["warmup_steps"],
        "optimizer": "adamw_torch_fused",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "bf16": is_half,
        "fp16": False,
        "tf32": False,
        "gradient_checkpointing": training.gradient_checkpointing,
        "attn_implementation": "sdpa",
        "output_dir": f"out/{run_place(run)}",
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": run.seed,
    }
    if "lr_scheduler_kwargs" in schedule:
        config["lr_scheduler_kwargs"] = schedule["lr_scheduler_kwargs"]
    if start.revision != "main":
        config["revision_of_model"] = start.revision
    if isinstance(stage.adapter, Lora):
        config |= {
            "adapter": "lora",
            "lora_r": stage.adapter.rank,
            "lora_alpha": int(stage.adapter.alpha),
            "lora_dropout": stage.adapter.dropout,
            "lora_target_modules": list(run.modules),
            "peft_use_rslora": stage.adapter.rslora,
            "peft_use_dora": stage.adapter.dora,
        }
        if stage.adapter.lr_ratio != 1.0:
            config["loraplus_lr_ratio"] = stage.adapter.lr_ratio
        if start.adapter is not None:
            config["lora_model_dir"] = start.adapter
    elif isinstance(stage.adapter, Full) and run.parameters:
        # axolotl takes the dots for dots.
        config["unfrozen_parameters"] = [f"^{name}$" for name in run.parameters]
    return config
