"""The live table of `apportion status --watch`: how far a study is, from its files, until it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from search.cli.eta import seconds_left
from search.cli.output import duration
from search.failures import counts_text
from search.folders import StudyFile, StudyFolder
from search.holding import Holder, holder
from search.outcomes import Spent
from search.records import TrialRecord
from search.report.terminal import front_table
from search.report.view import StudyView, load_view

LOOK_SECONDS = 2.0
"""Between two looks at the files."""


@dataclass(frozen=True)
class Look:
    """What a study's files say at a moment."""

    file: StudyFile
    view: StudyView
    held: Holder | None
    now: datetime

    @classmethod
    def at(cls, folder: Path, now: datetime) -> Look:
        """Read the files.

        Raises:
            StudyError: There is no study here.
        """
        study = StudyFolder(folder)
        # Who holds it first: a driver records how it ended before it lets go.
        held = holder(study.path)
        return cls(study.read_file(), load_view(study.path), held, now)

    @property
    def is_over(self) -> bool:
        """Whether nobody runs it any more."""
        return self.held is None

    @property
    def running(self) -> list[TrialRecord]:
        """Trials in training."""
        return [trial for trial in self.view.trials if trial.state == "RUNNING"]

    def done(self) -> tuple[int, int, int]:
        """Return what grows: finished and running trials, and boundaries of the latter."""
        running = self.running
        n_boundaries = sum(len(trial.boundaries) for trial in running)
        return len(self.view.finished), len(running), n_boundaries

    def counts(self) -> str:
        """Return trials done, failed and running, tokens and time left, in one line."""
        finished = self.view.finished
        budget = self.file.budget
        spent = Spent(
            trials=len(finished),
            failed_trials=sum(trial.state == "FAIL" for trial in finished),
            train_tokens=sum(trial.trained_tokens for trial in finished),
            compute_seconds=sum(trial.seconds.total for trial in finished),
            wall_seconds=sum(launch.wall_seconds for launch in self.file.launches),
        )
        flying = [(trial.recipe, self._elapsed(trial)) for trial in self.running]
        left = seconds_left(self.view.spec, budget, spent, flying, finished)
        of = f"/{budget.trials}" if budget.trials else ""
        parts = [f"{spent.trials}{of} trials done"]
        parts += [counts_text(finished)] if spent.failed_trials else []
        parts += [f"{len(self.running)} running", f"{spent.train_tokens / 1000:.1f}k tokens"]
        parts += [f"ETA {duration(left)}"] if left is not None and not self.is_over else []
        return ", ".join(parts)

    def screen(self, width: int) -> RenderableType:
        """Return a table for a terminal of that many columns."""
        lines: list[RenderableType] = [
            Text(f"{self.view.spec.name}: {self.counts()}", style="bold", overflow="fold")
        ]
        for trial in self.running:
            text = f"  trial {trial.number}: {self._stage(trial)}"
            lines.append(Text(text, overflow="ellipsis", no_wrap=True))
        if self.view.finished:
            lines.append(front_table(self.view, width))
        return Group(*lines)

    def _elapsed(self, trial: TrialRecord) -> float:
        return max(0.0, (self.now - datetime.fromisoformat(trial.started_at)).total_seconds())

    def _stage(self, trial: TrialRecord) -> str:
        stages = trial.recipe.stages
        elapsed = duration(self._elapsed(trial))
        again = f", attempt {len(trial.lost_attempts) + 1}" if trial.lost_attempts else ""
        if not stages:
            return f"the untouched base, {elapsed}{again}"
        number = min(len(trial.boundaries) + 1, len(stages))
        return f"stage {number} of {len(stages)}, {elapsed}{again}: {trial.recipe.label()}"


def watch_study(folder: Path, as_json: bool) -> None:
    """Show a study until it ends."""
    console = Console(stderr=as_json)
    told: tuple[int, int, int] | None = None
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not (look := Look.at(folder, datetime.now(UTC))).is_over:
            if console.is_terminal:
                live.update(look.screen(console.width), refresh=True)
            elif (done := look.done()) != told:
                told = done
                typer.echo(look.counts(), err=as_json)
            time.sleep(LOOK_SECONDS)
