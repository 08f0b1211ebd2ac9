"""`--to llamafactory`: one configuration of LLaMA-Factory per stage, its rows as tokens, and a script that runs them.

LLaMA-Factory renders conversations with templates of its own, not the tokenizer's, so rows go as token ids and labels
(`tokenized_path`), which it takes as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.export.chain import Chain, Run, read_chain
from search.export.folder import whole_folder, write_tokens, write_yaml
from search.export.huggingface import trainer_settings
from search.export.job import Job, Means
from search.export.runs import Start, run_place, starts, write_runs
from search.export.tool import Tool, check_precision, refuse
from search.stages.tokens import IGNORED, TokenRow
from spaces.adapter import Lora
from spaces.stage import Stage

TOOL = Tool(
    name="LLaMA-Factory",
    methods=frozenset({"sft", "dpo", "simpo"}),
    why_not={
        "ipo": "LLaMA-Factory 0.9.5 asks for IPO in a way that trl 0.24 no longer hears, and trains DPO instead",
        "orpo": "LLaMA-Factory averages ORPO's likelihood over answers, apportion over tokens",
        "kto": "LLaMA-Factory pairs answers for KTO's reference point otherwise than apportion",
    },
    lora=frozenset({"dora", "rslora", "lr_ratio"}),
    can_continue=True,
)
REQUIREMENTS = {
    "llamafactory": "0.9.5",
    "transformers": "5.6.0",
    "peft": "0.18.1",
    "trl": "0.24.0",
    "accelerate": "1.11.0",
    "datasets": "4.0.0",
}
"""Versions with which exports were trained; transformers and others are older than apportion's own."""
_NO_MEDIA: dict[str, Any] = {"images": None, "videos": None, "audios": None}


def export(job: Job, out: Path, means: Means) -> list[str]:
    """Write configurations, rows and the script.

    Raises:
        SpecError: LLaMA-Factory cannot express the recipe, or `out` cannot be made.
        ApportionError: The base or a source cannot be read.
    """
    _check(job)
    chain = read_chain(job, TOOL)
    with whole_folder(out) as part:
        part.mkdir()
        commands = []
        for run, start in zip(chain.runs, starts(chain), strict=True):
            rows, name = f"data/{run_place(run)}", f"{run_place(run)}.yaml"
            write_tokens(part / rows, [token_row(row) for row in run.tokens])
            write_yaml(part / name, run_config(chain, run, start, rows))
            commands.append(f'llamafactory-cli train {name} "$@"')
        lines = write_runs(chain, part, TOOL.name, commands, REQUIREMENTS)
    return [f"runs:  {out}", *lines]


def run_config(chain: Chain, run: Run, start: Start, rows: str) -> dict[str, Any]:
    """Return what LLaMA-Factory reads for one stage."""
    training, stage = chain.job.spec.training, run.stage
    config: dict[str, Any] = {
        "model_name_or_path": start.model,
        "model_revision": start.revision,
        "stage": "sft" if stage.method == "sft" else "dpo",
        "do_train": True,
        # It must be named, and is not read: rows come from tokenized_path.
        "dataset": run_place(run),
        "tokenized_path": rows,
        "template": "empty",
        "cutoff_len": training.max_length,
        "disable_shuffling": True,
        "output_dir": f"out/{run_place(run)}",
        "disable_gradient_checkpointing": not training.gradient_checkpointing,
        **trainer_settings(training, stage.learning_rate, run.seed),
    }
    config.pop("gradient_checkpointing")
    if isinstance(stage.adapter, Lora):
        config |= {
            "finetuning_type": "lora",
            "lora_rank": stage.adapter.rank,
            "lora_alpha": int(stage.adapter.alpha),
            "lora_dropout": stage.adapter.dropout,
            "lora_target": ",".join(run.modules),
            "use_rslora": stage.adapter.rslora,
            "use_dora": stage.adapter.dora,
        }
        if stage.adapter.lr_ratio != 1.0:
            config["loraplus_lr_ratio"] = stage.adapter.lr_ratio
        if start.adapter is not None:
            config["adapter_name_or_path"] = start.adapter
    else:
        config["finetuning_type"] = "full"
    if stage.method != "sft":
        config |= {
            "pref_loss": {"dpo": "sigmoid", "simpo": "simpo"}[stage.method],
            "pref_beta": stage.beta,
        }
    if stage.method == "simpo":
        config["simpo_gamma"] = stage.gamma
    return config


def token_row(row: TokenRow) -> dict[str, Any]:
    """Return a row as LLaMA-Factory keeps it once it has made tokens of it."""
    if "input_ids" in row:
        return {**_part("", row["input_ids"], row["labels"]), **_NO_MEDIA}
    found: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        prompt, answer = row["prompt_ids"], row[f"{side}_ids"]
        found |= _part(f"{side}_", prompt + answer, [IGNORED] * len(prompt) + answer)
    return {**found, **_NO_MEDIA}


def _part(prefix: str, ids: list[int], labels: list[int]) -> dict[str, list[int]]:
    return {
        f"{prefix}input_ids": list(ids),
        f"{prefix}attention_mask": [1] * len(ids),
        f"{prefix}labels": list(labels),
    }


def _check(job: Job) -> None:
    """Refuse what concerns LLaMA-Factory alone."""
    check_precision(job, TOOL)
    for number, stage in enumerate(job.record.recipe.stages, 1):
        if not isinstance(stage, Stage) or stage.method == "sft":
            continue
        if isinstance(stage.adapter, Lora) and stage.adapter.dropout:
            refuse(
                job,
                number,
                f"adapter.dropout: {stage.adapter.dropout:g}",
                "LLaMA-Factory switches dropout off while it trains on pairs; use --to trl, or dropout 0",
            )
