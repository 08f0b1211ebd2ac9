"""`apportion export`: a trial for others to use: its model, its recipe, or the files of another training tool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from search.cli.output import print_json
from search.errors import SpecError

EXAMPLES = """\b
Examples:
  apportion export results/inner_voice 7 --to merged                 # a plain model with a card
  apportion export results/inner_voice 7 --to peft --out my_adapter
  apportion export results/inner_voice 7 --to merged --train         # train again what the store has lost
  apportion export results/inner_voice 7 --to recipe --out my_recipe
  apportion export results/inner_voice 7 --to trl --out my_runs      # then: bash my_runs/run.sh"""


def export(
    folder: Annotated[
        Path, typer.Argument(help="Folder such as results/<study>.", metavar="RESULTS")
    ],
    number: Annotated[int, typer.Argument(help="Number of a trial.", metavar="TRIAL", min=0)],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="`peft` (an adapter), `merged` (a model), `recipe` (recipe.yaml with its rows), or what "
            "another tool reads, with rows and a script: `trl`, `llamafactory`, `axolotl`, `mergekit`.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="New folder; default: <study>-<trial>-<target> here."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train the model again if the store has lost it.")
    ] = False,
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hand a trial over: as adapter or merged model, or as runs of another tool.

    What a target cannot express is refused with the reason, never approximated.
    """
    from search.export.job import Job, Means
    from search.export.targets import target

    if device not in ("auto", "cpu", "cuda"):
        raise SpecError(f"--device: {device!r} is not known; choose auto, cpu or cuda")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch reads it once, when it is imported
    write = target(to)
    job = Job.open(folder, number)
    place = out or Path(f"{job.spec.name}-{number}-{to}")
    if place.exists() or place.is_symlink():
        raise SpecError(f"--out: {place} exists already; name a new folder")
    lines = write(job, place, Means(train, device, _say))
    if as_json:
        print_json({"to": to, "trial": number, "out": str(place), "lines": lines})
        return
    for line in lines:
        typer.echo(line)


def _say(line: str) -> None:
    typer.echo(line, err=True)
