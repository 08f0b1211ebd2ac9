"""`apportion confirm`: train the front again with fresh seeds, and say what of it holds."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.output import duration
from search.errors import SpecError, StudyError

if TYPE_CHECKING:
    from search.confirmation.replicates import Done
    from search.records import TrialRecord
    from search.report.view import StudyView

EXAMPLES = """\b
Examples:
  apportion confirm results/inner_voice
  apportion confirm results/inner_voice --seeds 5         # two more than before: only they are trained
  apportion confirm results/inner_voice --trials 7,12
  apportion confirm results/inner_voice --json"""


def confirm(
    folder: Annotated[
        Path, typer.Argument(help="Folder such as results/<study>.", metavar="RESULTS")
    ],
    seeds: Annotated[int, typer.Option(help="Fresh seeds for each trial.", min=2, max=100)] = 3,
    trials: Annotated[
        str | None, typer.Option(help="Numbers such as 7,12. Default: the front.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the confirmation as JSON, progress on stderr.")
    ] = False,
) -> None:
    """Train the front again with fresh seeds, and report intervals, ties and what selection had flattered.

    Interrupt it at any time; called again, it trains only what is missing.

    Exit codes: 0 done; 1 no replicate of any trial could be scored; 2 bad input; 130 interrupted.
    """
    from search.report.view import load_view

    view = load_view(folder)
    root = Path(view.files.read_file().root)
    chosen = _chosen(view, trials)
    # What ends a job on a cluster ends this as an interrupt does: resumable.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Spinning threads slow each other down on a busy machine; torch reads this once, when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from search.confirmation.analysis import analyse
    from search.confirmation.records import write_confirmation
    from search.confirmation.replicates import (
        fresh_seeds,
        missing_replicates,
        only_one,
        train_replicates,
    )
    from search.confirmation.selection import WITHOUT, selected_evaluators
    from search.plan import measured_speeds
    from search.report.confirmation import confirmation_lines
    from search.report.numbers import count_text
    from search.report.write import write_report

    drawn = fresh_seeds(view.spec.sampler.seed, seeds)
    has_selection = bool(selected_evaluators(view.spec))
    if not has_selection:
        _say(f"note: {WITHOUT}")
    with only_one(view.files, _say) as files:
        base = view.base if has_selection else None
        wanted = missing_replicates(files, chosen, drawn, base)
        if wanted:
            speeds = measured_speeds(view.trials)
            planned = sum(speeds.recipe_seconds(trial.recipe) for trial, _ in wanted)
            _say(
                f"{count_text(len(chosen), 'trial')}, {seeds} fresh seeds each: "
                f"{count_text(len(wanted), 'replicate')} to train, about {duration(planned)}"
            )
            for done in train_replicates(view.spec, root, files, wanted, speeds):
                _say(_progress(view, done))
        names = [objective.name for objective in view.objectives]
        found = analyse(view.files, view.trials, view.base, names)
        if found is None:
            raise StudyError(f"{folder}: no replicate is there to report; call it again")
        write_confirmation(view.files, found)
    report = write_report(view.files.path)
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        for line in confirmation_lines(load_view(folder)):
            typer.echo(line)
        typer.echo(f"report: {report}")
    if not any(
        score.n_seeds
        for trial in found.trials
        if trial.number != found.base
        for score in trial.scores
    ):
        raise typer.Exit(1)


def _chosen(view: StudyView, numbers: str | None) -> list[TrialRecord]:
    """Return the trials to be confirmed.

    Raises:
        SpecError: A number is none, or its trial cannot be confirmed.
        StudyError: The front is empty.
    """
    if numbers is None:
        front = [trial for trial in view.front_trials if trial.recipe.stages]
        if not front:
            raise StudyError(
                f"{view.files.path}: the front holds no trained recipe; name trials with --trials"
            )
        return front
    return [_trial(view, number) for number in dict.fromkeys(_numbers(numbers))]


def _numbers(text: str) -> Iterator[int]:
    for word in text.split(","):
        if not word.strip().isdecimal():
            raise SpecError(f"--trials: {word!r} is no trial number; give such as 7,12")
        yield int(word)


def _trial(view: StudyView, number: int) -> TrialRecord:
    known = {trial.number: trial for trial in view.trials}
    trial = known.get(number)
    if trial is None:
        complete = [str(each.number) for each in view.trials if each.state == "COMPLETE"]
        raise SpecError(f"--trials: no trial {number}; complete: {', '.join(complete[-20:])}")
    if trial.state != "COMPLETE":
        raise SpecError(f"--trials: trial {number} is {trial.state}; choose one that is complete")
    if not trial.recipe.stages:
        raise SpecError(
            f"--trials: trial {number} is the untouched base, which needs no training and is compared with all; "
            "leave it out"
        )
    return trial


def _progress(view: StudyView, done: Done) -> str:
    from search.report.numbers import score_text

    record = done.record
    head = f"replicate {done.n_done} of {done.n_all}: trial {record.number}, seed {record.seed}"
    left = f"; about {duration(done.seconds_left)} left" if done.n_done < done.n_all else ""
    if record.state != "COMPLETE":
        return f"{head} failed: {record.reason}{left}"
    scores = record.final_scores
    told = (f"{each.name} {score_text(scores.get(each.name))}" for each in view.objectives)
    return f"{head}: {', '.join(told)}{left}"


def _say(line: str) -> None:
    typer.echo(line, err=True)
