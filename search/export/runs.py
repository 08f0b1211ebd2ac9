"""What all exports to other trainers share: run.sh, requirements.txt, the card, and how runs hand on to each other."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.export.card import model_card
from search.export.chain import Chain, Run
from spaces.adapter import Full

MERGE = "merge_adapter.py"
SCRIPTS = Path(__file__).parent / "scripts"
LOAD = """\
python -m venv .venv && . .venv/bin/activate
pip install -r requirements.txt
bash run.sh"""
_RUN = """\
#!/usr/bin/env bash
# Repeats {what} with {tool}: each line trains, or merges what the one before it left in out/.
# Install requirements.txt first. What is given to this script goes to each training command.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
export CUDA_VISIBLE_DEVICES="${{CUDA_VISIBLE_DEVICES-0}}"  # one device: several would make each batch larger

{lines}
echo "model: {final}"
"""
_ORIGIN = (
    "This folder repeats the trial with {tool}: `run.sh` runs its stages in turn and leaves the model in `{final}`. "
    "Each run makes one pass over its rows as they lie, which is the dose that the trial consumed; losses, batches, "
    "optimizer, schedule and seed are the trial's. A tool may draw random numbers in another order, where "
    "adapters begin or dropout drops; then scores agree as those of trainings with different seeds do."
)


@dataclass(frozen=True)
class Start:
    """What a run starts from."""

    model: str
    """An id on the hub, or a folder."""
    revision: str
    """Of an id on the hub."""
    adapter: str | None
    """Folder of the adapter on it that is trained on; None for a new one, or for full weights."""


def run_place(run: Run) -> str:
    """Return the name of a run's files and of its folder in out/."""
    return f"stage{run.number}"


def result_place(run: Run) -> str:
    """Return where a run's result is once it is handed on: its own folder, or that of the merged model."""
    return f"out/{run_place(run)}{'-merged' if _is_merged(run) else ''}"


def starts(chain: Chain) -> list[Start]:
    """Return what each run starts from."""
    found = [Start(chain.base, chain.revision, None)]
    for run in chain.runs[:-1]:
        if run.stage.handoff == "continue":
            found.append(Start(found[-1].model, found[-1].revision, f"out/{run_place(run)}"))
        else:
            found.append(Start(result_place(run), "main", None))
    return found


def write_runs(
    chain: Chain,
    folder: Path,
    tool: str,
    commands: Sequence[str],
    requirements: Mapping[str, str],
) -> list[str]:
    """Write run.sh, requirements.txt, the card, the base, and what merges adapters; return lines for the user.

    Args:
        chain: The runs.
        folder: Where; it exists.
        tool: Its name.
        commands: A line of shell for each run.
        requirements: Package to version.
    """
    job, final = chain.job, result_place(chain.runs[-1])
    lines: list[str] = []
    for run, start, command in zip(chain.runs, starts(chain), commands, strict=True):
        lines.append(command)
        if _is_merged(run):
            places = (start.model, start.revision, f"out/{run_place(run)}", result_place(run))
            lines.append(shlex.join(("python", MERGE, *places, job.spec.base.dtype)))
    what = f"trial {job.record.number} of the study {job.spec.name}"
    text = _RUN.format(what=what, tool=tool, lines="\n".join(lines), final=final)
    script = folder / "run.sh"
    script.write_text(text, encoding="utf-8")
    script.chmod(0o755)
    if any(map(_is_merged, chain.runs)):
        (folder / MERGE).write_bytes((SCRIPTS / f"{MERGE}.txt").read_bytes())
    pins = "".join(f"{name}=={pin}\n" for name, pin in requirements.items())
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    chain.copy_base(folder)
    card = model_card(job, "apportion", LOAD, _ORIGIN.format(tool=tool, final=final))
    (folder / "README.md").write_text(card, encoding="utf-8")
    return [f"steps: {len(lines)}, in run.sh", f"model: {final}, once it has run"]


def _is_merged(run: Run) -> bool:
    return not isinstance(run.stage.adapter, Full) and run.stage.handoff == "merge"
