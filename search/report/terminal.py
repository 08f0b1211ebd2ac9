"""The front as a table for a terminal, during runs and in `apportion status`."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from search.records import TrialRecord
from search.report.numbers import count_text, number_text, score_text
from search.report.view import StudyView

WIDE = 100
"""Columns from which on intervals and whole recipes are shown."""


def front_table(view: StudyView, width: int, max_rows: int = 20) -> Table:
    """Return the front, the base beside it, as a table that fits `width` columns.

    Args:
        view: The study.
        width: Columns of the terminal. Below `WIDE`, and with many objectives, intervals are left out.
        max_rows: Most rows; what is left out is counted in the caption.
    """
    has_room = width >= WIDE - 30 and width / (len(view.objectives) + 2) >= 16
    table = Table(
        title=Text(f"Front of {view.spec.name}"),
        caption=Text(_caption(view, has_room, max_rows)),
        width=width,
        expand=True,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("recipe", ratio=1, overflow="fold", min_width=16)
    for objective in view.objectives:
        arrow = "↑" if objective.direction == "maximise" else "↓"
        table.add_column(Text(f"{objective.name} {arrow}"), justify="right", overflow="fold")
    for trial in _rows(view)[:max_rows]:
        table.add_row(
            Text(str(trial.number)),
            _recipe(view, trial, width),
            *(Text(_cell(trial, objective.name, has_room)) for objective in view.objectives),
            style="dim" if trial.number not in view.front else None,
        )
    return table


def _rows(view: StudyView) -> list[TrialRecord]:
    rows = list(view.front_trials)
    if view.base is not None and view.base.number not in view.front:
        rows.append(view.base)
    return rows


def _recipe(view: StudyView, trial: TrialRecord, width: int) -> Text:
    text = Text(trial.recipe.label() if width >= WIDE else trial.recipe.order_label())
    marks = []
    if trial.number == view.knee:
        marks.append("knee")
    if trial.baseline and trial.recipe.stages:
        marks.append(f"baseline {trial.baseline}")
    if trial.number not in view.front:
        marks.append("not on the front")
    note = view.noise_note(trial)
    if note is not None:
        marks.append(note if width >= WIDE else "no gain shown")
    return text.append(f" [{', '.join(marks)}]", style="italic") if marks else text


def _cell(trial: TrialRecord, name: str, has_room: bool) -> str:
    score = trial.final_scores.get(name)
    if has_room or score is None or score.value is None:
        return score_text(score)
    return number_text(score.value)


def _caption(view: StudyView, has_room: bool, max_rows: int) -> str:
    n_running = sum(trial.state == "RUNNING" for trial in view.trials)
    n_failed = sum(trial.state == "FAIL" for trial in view.trials)
    n_stopped = sum(trial.state == "PRUNED" for trial in view.trials)
    stopped = f", {n_stopped:,} stopped early" if n_stopped else ""
    parts = [
        f"{count_text(len(view.finished), 'trial')} finished, {n_failed:,} of them failed{stopped}, "
        f"{n_running:,} running"
    ]
    n_more = len(_rows(view)) - max_rows
    if n_more > 0:
        parts.append(f"{n_more:,} more rows in front.csv")
    if view.finished and not view.front:
        parts.append("no trial is feasible")
    if has_room and view.front:
        parts.append("± is 1.96 standard errors over items")
    return "; ".join(parts)
