"""What the terminal shows while a study runs: trials done, stages in training, ETA and the current front."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from search.cli.eta import seconds_left
from search.cli.output import duration
from search.records import Proposal, TrialRecord
from search.report.numbers import score_text, tokens_text
from search.report.terminal import front_table
from search.report.view import StudyView, load_view
from search.study import Study

DRAW_SECONDS = 0.5
"""Between two pictures."""
TOUCH_SECONDS = 10.0
"""Between two records of how long a launch has lasted; a killed one loses at most so much."""


@dataclass
class Running:
    """A trial in training."""

    proposal: Proposal
    started: float
    n_done: int = 0
    """Boundaries reached."""


@dataclass
class Progress:
    """Follows a study: a Watcher of `search.runner`. A terminal shows a live picture; elsewhere, a line per event."""

    study: Study
    console: Console
    running: dict[int, Running] = field(default_factory=dict)
    finished_records: list[TrialRecord] = field(default_factory=list)
    view: StudyView | None = None
    _live: Live | None = None
    _drawn_at: float = 0.0
    _touched_at: float = 0.0

    def __enter__(self) -> Progress:
        self.finished_records = self.study.folder.records()
        self.view = load_view(self.study.folder.path) if self.finished_records else None
        if self.console.is_terminal:
            # Drawn from `tick` alone: a thread of its own would read the study while it changes.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, proposal: Proposal) -> None:
        """Take note of a trial that starts."""
        self.running[proposal.number] = Running(proposal, time.monotonic())
        if self._live is None:
            self._say(f"trial {proposal.number} starts: {proposal.recipe.label()}")

    def stage_done(self, number: int, n_boundaries: int) -> None:
        """Take note of a stage that was trained and scored; 0 boundaries: the worker can run no trial."""
        if number not in self.running or n_boundaries == 0:
            return
        run = self.running[number]
        run.n_done = n_boundaries
        n_stages = len(run.proposal.recipe.stages)
        if n_boundaries < n_stages and self._live is None:
            self._say(f"trial {number}: stage {n_boundaries} of {n_stages} is trained and scored")

    def finished(self, record: TrialRecord) -> None:
        """Take note of a trial that ended."""
        self.running.pop(record.number, None)
        self.finished_records.append(record)
        self.view = load_view(self.study.folder.path)
        if record.state == "FAIL":
            self._say(f"trial {record.number} failed: {record.reason}")
        elif record.state == "PRUNED":
            saved = tokens_text(record.saved_tokens)
            saved = "" if record.is_screened_out else f"; up to {saved} stage tokens saved"
            self._say(f"trial {record.number} {record.reason}{saved}")
        elif self._live is None:
            names = [objective.score for objective in self.study.spec.objectives]
            told = (f"{name} {score_text(record.final_scores.get(name))}" for name in names)
            self._say(f"trial {record.number} done: {', '.join(told)}; {self._counts()}")

    def retried(self, record: TrialRecord, seconds: float) -> None:
        """Take note of a trial that the machines failed, and that is tried again after so many seconds."""
        self.running.pop(record.number, None)
        self._say(f"trial {record.number} is tried again in {duration(seconds)}: {record.reason}")

    def warn(self, line: str) -> None:
        """Take note of something that a person should know, and that stops nothing."""
        self._say(f"warning: {line}")

    def tick(self) -> None:
        """Take note that time went by: redraw, and record how long the launch has lasted."""
        now = time.monotonic()
        if now - self._touched_at > TOUCH_SECONDS:
            self._touched_at = now
            self.study.touch()
        if self._live is not None and now - self._drawn_at > DRAW_SECONDS:
            self._drawn_at = now
            self._live.update(self._screen(), refresh=True)

    def _say(self, line: str) -> None:
        console = self.console if self._live is None else self._live.console
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _screen(self) -> RenderableType:
        lines: list[RenderableType] = [
            Text(f"{self.study.spec.name}: {self._counts()}", style="bold")
        ]
        for number, run in sorted(self.running.items()):
            text = f"  trial {number}: {_stage_text(run)}"
            lines.append(Text(text, overflow="ellipsis", no_wrap=True))
        if self.view is not None and self.view.finished:
            lines.append(front_table(self.view, self.console.width))
        return Group(*lines)

    def _counts(self) -> str:
        spent, budget = self.study.spent(), self.study.budget
        of = f" of {budget.trials}" if budget.trials else ""
        failed = f", {spent.failed_trials} failed" if spent.failed_trials else ""
        records = [record for record in self.finished_records if record.state == "PRUNED"]
        saved = tokens_text(sum(record.saved_tokens for record in records))
        stopped = f", {len(records)} stopped early ({saved} tokens saved)" if records else ""
        flying = [
            (run.proposal.recipe, time.monotonic() - run.started) for run in self.running.values()
        ]
        left = seconds_left(self.study.spec, budget, spent, flying, self.finished_records)
        eta = f", ETA {duration(left)}" if left is not None else ""
        return (
            f"{spent.trials}{of} trials done{failed}{stopped}, {spent.train_tokens / 1000:.1f}k tokens trained, "
            f"{duration(spent.wall_seconds)} so far{eta}"
        )


def _stage_text(run: Running) -> str:
    stages = run.proposal.recipe.stages
    elapsed = duration(time.monotonic() - run.started)
    if not stages:
        return f"the untouched base, {elapsed}"
    number = min(run.n_done + 1, len(stages))
    return f"stage {number} of {len(stages)} ({stages[number - 1].influence}), {elapsed}: {run.proposal.recipe.label()}"
