"""`apportion status`, `apportion report` and `apportion show`: look at a study, running or not."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.output import duration, print_json
from search.errors import SpecError, StudyError
from search.failures import counts_text, failure_text
from search.folders import StudyFolder
from search.holding import Holder, holder
from search.records import Screening, TrialRecord

if TYPE_CHECKING:
    from search.report.inside import Grid

STATUS_EXAMPLES = """\b
Examples:
  apportion status results/inner_voice
  apportion status results/inner_voice --watch    # until the study ends
  apportion status results/inner_voice --json"""
REPORT_EXAMPLES = """\b
Examples:
  apportion report results/inner_voice            # also while the study runs
  apportion report results/inner_voice --watch    # live in a browser on this machine, until Ctrl-C
  apportion report results/inner_voice --watch --once --port 8080  # ... until the study has ended"""
SHOW_EXAMPLES = """\b
Examples:
  apportion show results/inner_voice 7
  apportion show results/inner_voice 7 --samples 5
  apportion show results/inner_voice 7 --json"""

Folder = Annotated[Path, typer.Argument(help="Folder such as results/<study>.", metavar="RESULTS")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def status(
    folder: Folder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep showing it until the study ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how far a study is: trials by state, budget spent, the current front."""
    if watch:
        from search.cli.watch import watch_study

        watch_study(folder, as_json)
    show_status(folder, as_json)


def show_status(folder: Path, as_json: bool) -> None:
    """Print what `apportion status` prints."""
    from search.report.view import load_view

    study = StudyFolder(folder)
    file = study.read_file()
    view = load_view(study.path)
    states = {state: 0 for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")}
    for trial in view.trials:
        states[trial.state] += 1
    tokens = sum(trial.trained_tokens for trial in view.trials)
    saved = sum(trial.saved_tokens for trial in view.trials)
    seconds = sum(launch.wall_seconds for launch in file.launches)
    compute = sum(trial.seconds.total for trial in view.trials)
    budget = file.budget.model_dump(exclude_none=True)
    front = [trial.number for trial in view.front_trials]
    held = holder(study.path)
    ended = file.launches[-1].ended if file.launches and held is None else None
    if as_json:
        print_json(
            {
                "study": view.spec.name,
                "trials": states,
                "train_tokens": tokens,
                "saved_tokens": saved,
                "compute_seconds": round(compute, 1),
                "wall_seconds": seconds,
                "budget": budget,
                "front": front,
                "failures": dict(
                    Counter(trial.failure.kind for trial in view.trials if trial.failure)
                ),
                "lost_attempts": sum(len(trial.lost_attempts) for trial in view.trials),
                "held_by": None if held is None else held.owner,
                "ended": ended,
            }
        )
        return
    from rich.console import Console

    from search.report.stopping import stopping_sentence
    from search.report.terminal import front_table

    console = Console()
    lost = sum(len(trial.lost_attempts) for trial in view.trials)
    for line in (
        f"study    {view.spec.name}",
        f"trials   {states['COMPLETE']} complete, {states['PRUNED']} stopped early, {counts_text(view.trials)}, "
        f"{states['RUNNING']} running or abandoned"
        + (f"; tried again {lost} times after failures of the machines" if lost else ""),
        f"spent    {tokens:,} training tokens, {duration(compute)} of compute, {duration(seconds)} of wall time",
        *([f"stopping {told}"] if (told := stopping_sentence(view)) else []),
        f"budget   {', '.join(f'{name} {value:,}' for name, value in budget.items())}",
        f"state    {_state_text(held, ended)}",
    ):
        typer.echo(line)
    if view.finished:
        console.print(front_table(view, console.width))


def _state_text(held: Holder | None, ended: str | None) -> str:
    if held is None:
        return ended or "killed: `apportion resume` goes on"
    doubt = "" if held.is_alive else ", or was killed there"
    return f"runs{doubt} ({held.owner})"


def report(
    folder: Folder,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Serve the page here, made anew as the study goes on."),
    ] = False,
    port: Annotated[
        int, typer.Option(help="Of --watch, on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 0,
    once: Annotated[
        bool, typer.Option("--once", help="End --watch when the study has ended.")
    ] = False,
) -> None:
    """Write the report: html, Markdown, CSV and a picture; or serve it live."""
    study = StudyFolder(folder)
    study.read_file()
    if watch:
        from search.report.watch import watch as serve

        def say(address: str) -> None:
            typer.echo(f"watch    {address}")
            sys.stdout.flush()

        serve(study.path, port, say, until_end=once)
        return
    if once or port:
        raise SpecError("--once and --port: are for --watch; add it")
    from search.report.write import write_report

    typer.echo(write_report(study.path))


def show(
    folder: Folder,
    number: Annotated[int, typer.Argument(help="Number of the trial.", metavar="TRIAL", min=0)],
    samples: Annotated[
        int, typer.Option(help="Generations to show per evaluator.", min=0, max=1000)
    ] = 2,
    as_json: Json = False,
) -> None:
    """Show one trial: its stages, the scores after each, where the time went, and what the model wrote."""
    study = StudyFolder(folder)
    study.read_file()
    record = study.trial(number).read_record()
    if record is None:
        numbers = [str(known.number) for known in study.records()]
        raise StudyError(
            f"{folder}: no trial {number}; known: {', '.join(numbers[-20:]) or 'none yet'}"
        )
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    _print_trial(record)
    _print_samples(study, record, samples)


def _print_trial(record: TrialRecord) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from search.report.inside import grids
    from search.report.numbers import score_text

    console = Console()
    typer.echo(
        f"trial    {record.number}, {record.state}{f': {_why(record)}' if record.reason else ''}"
    )
    typer.echo(f"recipe   {record.recipe.label()}")
    for position, stage in enumerate(record.stages, 1):
        typer.echo(f"stage {position}  {_stage_line(stage.model_dump())}")
        for name, parts in stage.branches.items():
            for part in parts:
                typer.echo(f"    {name}  {_stage_line(part.model_dump())}")
    seconds = record.seconds
    storing = sum(boundary.store_seconds or 0.0 for boundary in record.boundaries)
    typer.echo(
        f"seconds  load {seconds.load:.1f}, train {seconds.train:.1f}, "
        f"evaluate {seconds.evaluate:.1f}, rest {seconds.rest:.1f}"
        + (f"; storing beside evaluation {storing:.1f}" if storing else "")
    )
    if record.rungs:
        console.print(_rung_table(record))
    for screening in record.screenings:
        console.print(_screening_table(screening))
    table = Table("score", box=None, pad_edge=False)
    for boundary in record.boundaries:
        place = "base" if not boundary.n_stages else f"after {boundary.n_stages}"
        table.add_column(place, justify="right")
    for position, score in enumerate(record.boundaries[0].scores if record.boundaries else ()):
        table.add_row(
            score.name, *(score_text(boundary.scores[position]) for boundary in record.boundaries)
        )
    for score in record.boundaries[-1].holdout if record.boundaries else ():
        empty = [""] * (len(record.boundaries) - 1)
        table.add_row(f"holdout {score.name}", *empty, score_text(score))
    console.print(table)
    for position, stage in enumerate(record.stages, 1):
        for grid in grids(stage):
            console.print(Text(f"stage {position}, {stage.stage.influence}: {grid.title}"))
            console.print(_grid_table(grid))


def _why(record: TrialRecord) -> str:
    return failure_text(record) if record.state == "FAIL" else record.reason or ""


def _grid_table(grid: Grid) -> Any:
    """Return a table of a stage. Its texts are untrusted and must not be read as markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in grid.head:
        table.add_column(Text(name))
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


def _screening_table(screening: Screening) -> Any:
    """Return the scores on the first items."""
    from rich.table import Table

    from search.report.numbers import score_text

    head = f"score on the first items, after {screening.n_stages}"
    table = Table(head, "", "items", box=None, pad_edge=False)
    for score in screening.scores:
        part = f"{score.n:,} ({100 * score.fidelity:.3g} %)" if score.value is not None else ""
        table.add_row(score.name, score_text(score), part)
    return table


def _rung_table(record: TrialRecord) -> Any:
    """Return the scores in the middle of stages."""
    from rich.table import Table

    from search.report.numbers import score_text

    table = Table("score at a rung", box=None, pad_edge=False)
    for rung in record.rungs:
        table.add_column(f"{100 * rung.share:.4g} % of {rung.n_stages + 1}", justify="right")
    for position, score in enumerate(record.rungs[0].scores):
        table.add_row(score.name, *(score_text(rung.scores[position]) for rung in record.rungs))
    return table


def _stage_line(stage: dict[str, Any]) -> str:
    decided = stage["stage"]
    if "adapter" not in decided:
        return (
            f"{decided['influence']}: {decided['method']} by {decided['combination']['how']}, "
            f"{stage['trained_tokens']:,} tokens in {stage['n_steps']} steps, {stage['n_trainable']:,} weights changed"
        )
    settings = ", ".join(
        f"{name} {value}"
        for name, value in {**decided["adapter"], **decided}.items()
        if name in ("rank", "alpha", "targets", "layers", "learning_rate", "beta", "handoff")
        and value is not None
    )
    passes = ", ".join(f"{name} x{n:.2f}" for name, n in stage["passes_by_source"].items())
    return (
        f"{decided['influence']}: {decided['method']} {decided['adapter']['kind']}, "
        f"{stage['trained_tokens']:,} of {decided['dose_tokens']:,} tokens in {stage['n_steps']} steps, "
        f"{settings}; passes {passes}"
    )


def _print_samples(study: StudyFolder, record: TrialRecord, n_samples: int) -> None:
    if not record.boundaries:
        return
    n_stages = record.boundaries[-1].n_stages
    shown: dict[str, int] = {}
    for is_holdout in (False, True):
        for item in study.trial(record.number).read_items(n_stages, is_holdout):
            if item.output is None or shown.get(item.evaluator, 0) >= n_samples:
                continue
            shown[item.evaluator] = shown.get(item.evaluator, 0) + 1
            # repr keeps control characters of untrusted text out of the terminal.
            typer.echo(f"{item.evaluator}  {item.prompt!r}\n    {item.output!r}")
