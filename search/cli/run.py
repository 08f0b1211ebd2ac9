"""`apportion run` and `apportion resume`: search until the budget is met."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.check import checked_study
from search.cli.output import print_json
from search.compute_spec import checked_address
from search.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from search.compute_spec import ComputeSpec
    from search.runner.cluster import Joining
    from search.spec import BudgetSpec
    from search.study import Study

RUN_EXAMPLES = """\b
Examples:
  apportion run study.yaml
  apportion run study.yaml --results /shared/results
  apportion run study.yaml --address auto               # on the cluster that this machine belongs to
  apportion run study.yaml --json | tail -n 1"""
RESUME_EXAMPLES = """\b
Examples:
  apportion resume results/inner_voice
  apportion resume results/inner_voice --trials 40        # extend the budget
  apportion resume results/inner_voice --wall-seconds 7200"""

Address = Annotated[
    str | None,
    typer.Option(
        help="Run on this Ray cluster: HOST:PORT, or auto for the one that this machine belongs to. Default: "
        "compute.address, else a Ray of its own.",
        metavar="HOST:PORT",
    ),
]
AllowUnauthenticated = Annotated[
    bool,
    typer.Option(
        "--allow-unauthenticated",
        help="Join also a cluster that asks nobody for a token: whoever reaches it can run code on it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end, on stdout.")]


def run(
    study: Annotated[Path, typer.Argument(help="Study file.", metavar="STUDY")],
    results: Annotated[
        Path, typer.Option("--results", help="Folder of all studies; this one gets its own inside.")
    ] = Path("results"),
    or_resume: Annotated[
        bool,
        typer.Option(
            "--or-resume", help="Go on with the study if it was begun: for jobs that are restarted."
        ),
    ] = False,
    address: Address = None,
    allow_unauthenticated: AllowUnauthenticated = False,
    as_json: Json = False,
) -> None:
    """Start a study and run it until its budget is met. Interrupt it at any time; `resume` goes on.

    Exit codes: 0 done; 1 more trials failed than allowed, or all of them; 2 bad input; 130 interrupted.
    """
    joining = _joining(address, allow_unauthenticated)
    checked = checked_study(study)
    from search.folders import StudyFolder
    from search.study import Study

    place = _prepared(checked.spec.compute, joining)

    begun = results / checked.spec.name
    if or_resume and StudyFolder(begun).study_json.exists():
        _drive(_gone_on(begun, study), as_json, place)
        return
    warnings = checked.warning_lines
    created = Study.create(checked.spec, study, results, _command(), warnings=warnings, say=_say)
    _drive(created, as_json, place)


def resume(
    folder: Annotated[
        Path, typer.Argument(help="Folder such as results/<study>.", metavar="RESULTS")
    ],
    trials: Annotated[int | None, typer.Option(help="New total of trials.", min=1)] = None,
    train_tokens: Annotated[
        int | None, typer.Option(help="New total of training tokens.", min=1)
    ] = None,
    compute_seconds: Annotated[
        float | None, typer.Option(help="New total of seconds that trials take.", min=1)
    ] = None,
    wall_seconds: Annotated[
        float | None, typer.Option(help="New total of seconds, over all launches.", min=1)
    ] = None,
    failed_trials: Annotated[
        int | None, typer.Option(help="New total of failed trials to put up with.", min=0)
    ] = None,
    address: Address = None,
    allow_unauthenticated: AllowUnauthenticated = False,
    as_json: Json = False,
) -> None:
    """Go on with a study that was interrupted or killed, or extend its budget.

    Finished trials are kept and not trained again; trials that were in flight start again under their numbers.
    """
    from search.folders import StudyFolder
    from search.study import Study
    from search.yaml_file import load_study

    joining = _joining(address, allow_unauthenticated)
    changes = {
        "trials": trials,
        "train_tokens": train_tokens,
        "compute_seconds": compute_seconds,
        "wall_seconds": wall_seconds,
        "failed_trials": failed_trials,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    at = StudyFolder(folder)
    file = at.read_file()
    budget = _extended(file.budget, given) if given else None
    place = _prepared(load_study(at.study_yaml).compute, joining)
    _drive(Study.open(folder, _command(), budget, say=_say), as_json, place)


def _gone_on(begun: Path, study: Path) -> Study:
    """Return a study that was begun, with its data where the study file is now."""
    from search.folders import StudyFolder
    from search.study import Study

    if StudyFolder(begun).study_yaml.read_text() != study.read_text():
        raise SpecError(
            f"{study}: differs from the study that was begun in {begun}; go on with that one by `apportion resume`, or "
            "give the new one another name"
        )
    return Study.open(begun, _command(), root=study.absolute().parent, say=_say)


def _joining(address: str | None, allow_unauthenticated: bool) -> Joining:
    from search.runner.cluster import Joining

    try:
        checked = None if address is None else checked_address(address)
    except ValueError as error:
        raise SpecError(f"--address: {error}") from None
    return Joining(checked, allow_unauthenticated)


def _prepared(compute: ComputeSpec, joining: Joining) -> str | None:
    """Return the cluster to join, None for a Ray of our own; refused before there is a study."""
    from search.runner.cluster import prepare

    return prepare(compute, joining, Path.home())


def _extended(budget: BudgetSpec, given: dict[str, Any]) -> BudgetSpec:
    for name, value in given.items():
        before = getattr(budget, name)
        if before is not None and value < before:
            option = f"--{name.replace('_', '-')}"
            raise SpecError(
                f"{option}: {value} is below the {before} the study has; totals only grow"
            )
    return budget.model_copy(update=given)


def _drive(study: Study, as_json: bool, address: str | None) -> None:
    """Run a study to the end of its budget, say how it went, and exit with 1 if it did not go well."""
    from rich.console import Console

    from search.cli.live import Progress
    from search.runner.launch import run_study

    console = Console(stderr=as_json)
    # What ends a job on a cluster ends a study as an interrupt does: recorded and resumable.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ended = "crashed"
    try:
        if not study.is_done():
            with Progress(study, console) as progress:
                run_study(study, progress, address)
        ended = study.stop_reason or "ended"
    except KeyboardInterrupt:
        ended = "interrupted"
        raise
    finally:
        study.close(ended)
        if ended != "crashed":
            _print_end(study, console, ended, as_json)
    spent, allowed = study.spent(), study.budget.failed_trials
    if (
        study.is_broken
        or (allowed is not None and spent.failed_trials > allowed)
        or 0 < spent.trials == spent.failed_trials
    ):
        raise typer.Exit(1)


def _print_end(study: Study, console: Console, ended: str, as_json: bool) -> None:
    from search.report.terminal import front_table
    from search.report.view import load_view
    from search.report.write import write_report

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    report = write_report(study.folder.path) if study.folder.records() else None
    view = load_view(study.folder.path)
    if view.finished:
        console.print(front_table(view, console.width))
    say(f"ended: {ended}")
    if ended == "interrupted" or study.is_broken:
        say(f"go on with: apportion resume {shlex.quote(_near(study.folder.path))}")
    if report is not None:
        say(f"report: {_near(report)}")
    if as_json:
        spent = study.spent()
        print_json(
            {
                "study": study.spec.name,
                "ended": ended,
                "trials": spent.trials,
                "failed_trials": spent.failed_trials,
                "train_tokens": spent.train_tokens,
                "compute_seconds": round(spent.compute_seconds, 1),
                "wall_seconds": round(spent.wall_seconds, 1),
                "front": [trial.number for trial in view.front_trials],
                "report": str(report) if report else None,
            }
        )


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _near(path: Path) -> str:
    """Return a path as a person would type it from here."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # a job's folder is removed as soon as it leaves the cluster
        return str(path)
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _command() -> str:
    return shlex.join(["apportion", *sys.argv[1:]])
