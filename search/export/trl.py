"""`--to trl`: one configuration of TRL's command line per stage, its rows, and a script that runs them in turn.

Rows are written as TRL reads them where that gives the very tokens and loss mask of the trial; supervised rows that
TRL's formats cannot express (several answers in one conversation, formats mixed in one stage, messages with more than
role and content) are written as token ids and labels, which TRL takes as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search.errors import SpecError
from search.export.chain import Chain, Run, read_chain
from search.export.folder import whole_folder, write_jsonl, write_yaml
from search.export.huggingface import trainer_settings
from search.export.job import Job, Means
from search.export.runs import Start, run_place, starts, write_runs
from search.export.tool import Tool
from search.rows import Row
from spaces.adapter import Lora

TOOL = Tool(
    name="TRL",
    methods=frozenset({"sft", "dpo", "ipo"}),
    why_not={
        "kto": "TRL's KTO compares an answer with the row before it, apportion with the nearest of another prompt",
        "orpo": "TRL's command line has no ORPO",
        "simpo": "TRL's command line has no SimPO",
    },
)
PACKAGES = ("trl", "transformers", "peft", "accelerate", "datasets", "torch")
COMMANDS = {"sft": "sft", "dpo": "dpo", "ipo": "dpo"}


def export(job: Job, out: Path, means: Means) -> list[str]:
    """Write configurations, rows and the script.

    Raises:
        SpecError: TRL cannot express the recipe, or `out` cannot be made.
        ApportionError: The base or a source cannot be read.
    """
    chain = read_chain(job, TOOL)
    with whole_folder(out) as part:
        part.mkdir()
        commands = []
        for run, start in zip(chain.runs, starts(chain), strict=True):
            rows, name = f"data/{run_place(run)}.jsonl", f"{run_place(run)}.yaml"
            data, settings = run_data(job, run)
            write_jsonl(part / rows, data)
            config = run_config(chain, run, start, rows) | settings
            write_yaml(part / name, config)
            commands.append(
                f'trl {COMMANDS[run.stage.method]} --config {name} --num_processes 1 "$@"'
            )
        requirements = {name: version(name).partition("+")[0] for name in PACKAGES}
        lines = write_runs(chain, part, TOOL.name, commands, requirements)
    return [f"runs:  {out}", *lines]


def run_config(chain: Chain, run: Run, start: Start, rows: str) -> dict[str, Any]:
    """Return what TRL's command line reads for one stage, without what depends on the form of the rows."""
    spec, stage = chain.job.spec, run.stage
    config: dict[str, Any] = {
        "model_name_or_path": start.model,
        "model_revision": start.revision,
        "dtype": spec.base.dtype,
        "output_dir": f"out/{run_place(run)}",
        "datasets": [{"path": "json", "data_files": rows}],
        "train_sampling_strategy": "sequential",
        "max_length": spec.training.max_length,
        **trainer_settings(spec.training, stage.learning_rate, run.seed),
    }
    if isinstance(stage.adapter, Lora):
        config |= {
            "use_peft": True,
            "lora_r": stage.adapter.rank,
            "lora_alpha": int(stage.adapter.alpha),
            "lora_dropout": stage.adapter.dropout,
            "lora_target_modules": list(run.modules),
            "use_rslora": stage.adapter.rslora,
            "use_dora": stage.adapter.dora,
        }
    if stage.method != "sft":
        has_dropout = isinstance(stage.adapter, Lora) and stage.adapter.dropout > 0
        config |= {
            "loss_type": {"dpo": "sigmoid", "ipo": "ipo"}[stage.method],
            "beta": stage.beta,
            # The reference is the model that the run starts from.
            "precompute_ref_log_probs": True,
            "disable_dropout": not has_dropout,
        }
    return config


def run_data(job: Job, run: Run) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows of a run in one of TRL's formats, and the settings that go with it.

    Raises:
        SpecError: They have no common form that TRL reads without change.
    """
    if run.stage.method == "sft":
        loss_on = job.spec.training.loss_on
        readable = [
            readable_row(row, one, loss_on) for row, one in zip(run.rows, run.formats, strict=True)
        ]
        shown = [row for row in readable if row is not None]
        if len(shown) == len(readable) and _is_uniform(shown):
            has_prompts = "prompt" in shown[0]
            return shown, {"completion_only_loss": loss_on == "completion"} if has_prompts else {}
        fields = ("input_ids", "labels")
        return [{name: list(row[name]) for name in fields} for row in run.tokens], {}
    pairs = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in run.rows]
    if not _is_uniform(pairs) or not all(map(_is_plain, pairs)):
        raise SpecError(
            f"{job.name}: stages[{run.number - 1}].mix: its pairs are text and messages, or messages with more than "
            "role and content, which TRL would read otherwise; use --to recipe, or sources of one kind"
        )
    return pairs, {}


def readable_row(row: Row, row_format: str, loss_on: str) -> Row | None:
    """Return a supervised row in a format of TRL's that gives our tokens and loss mask; None if none does."""
    if row_format == "messages":
        messages = row["messages"]
        answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        if loss_on == "all":
            shown = {"messages": messages}
        elif answers == [len(messages) - 1] and len(messages) > 1:
            shown = {"prompt": messages[:-1], "completion": messages[-1:]}
        else:
            return None
    elif row_format == "prompt-completion":
        shown = {"prompt": row["prompt"], "completion": row["completion"]}
    else:
        shown = {"text": row["text"]}
    return shown if _is_plain(shown) else None


def _is_plain(row: Row) -> bool:
    """Tell whether all messages hold role and content alone: a table would add what is missing in some as null."""
    messages = [one for value in row.values() if isinstance(value, list) for one in value]
    return all(
        set(one) == {"role", "content"} and isinstance(one["content"], str) for one in messages
    )


def _is_uniform(rows: Sequence[Row]) -> bool:
    """Tell whether all rows have the same fields, of the same kinds."""
    kinds = {tuple((name, type(value)) for name, value in sorted(row.items())) for row in rows}
    return len(kinds) == 1
