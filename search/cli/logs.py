"""`apportion logs`: what happened in a trial, line by line, also while it trains."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from search.cli.output import visible
from search.errors import StudyError
from search.folders import StudyFolder
from search.holding import holder
from search.trial_log import read_log

EXAMPLES = """\b
Examples:
  apportion logs results/inner_voice 7
  apportion logs results/inner_voice 7 --follow
  apportion logs results/inner_voice 7 --json | jq 'select(.level == "error")'"""
LOOK_SECONDS = 1.0


def logs(
    folder: Annotated[
        Path, typer.Argument(help="Folder such as results/<study>.", metavar="RESULTS")
    ],
    number: Annotated[int, typer.Argument(help="Number of the trial.", metavar="TRIAL", min=0)],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on printing until the trial ends.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are.")] = False,
) -> None:
    """Print a trial's log: stages, optimizer steps, scores, warnings, and how it ended."""
    study = StudyFolder(folder)
    study.read_file()
    trial = study.trial(number)
    if not trial.log.exists():
        raise StudyError(
            f"{folder}: trial {number} has no log; `apportion status` says what there is"
        )
    n_told = 0
    while True:
        record = trial.read_record()
        is_open = (
            record is not None and record.state == "RUNNING" and holder(study.path) is not None
        )
        lines = list(read_log(trial.log))
        if len(lines) < n_told:
            n_told = 0  # The trial was begun anew, or its log was cut.
        for line in lines[n_told:]:
            typer.echo(json.dumps(line) if as_json else visible(_text(line)))
        n_told = len(lines)
        if not (follow and is_open):
            return
        time.sleep(LOOK_SECONDS)


def _text(line: dict[str, Any]) -> str:
    fields = {name: value for name, value in line.items() if name not in ("time", "level", "event")}
    told = " ".join(f"{name}={_value(each)}" for name, each in fields.items() if each is not None)
    level = str(line.get("level", ""))
    return f"{line.get('time', '')}  {level:7}  {line.get('event', '')}  {told}".replace("\n", " ")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{_value(each)}" for name, each in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(value) if isinstance(value, str) and " " in value else str(value)
