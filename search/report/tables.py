"""trials.csv and front.csv: one row per trial, missing values as empty cells. RFC 4180, UTF-8.

front.csv has more columns at its end: of each score what `apportion confirm` found, which members no objective tells
apart, and warnings.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from evaluators.scores import Score
from search.confirmation.records import ConfirmedScore
from search.records import TrialRecord
from search.report.view import StudyView, holdout_scores
from search.report.warnings import Hack, hacks

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets take text that starts so for a formula; such cells get a leading apostrophe."""

Cell = str | int | float | None


def trials_csv(view: StudyView) -> str:
    """Return the table of all trials, by number."""
    names = _param_names(view)
    return _csv([_row(view, trial, names) for trial in view.trials])


def front_csv(view: StudyView) -> str:
    """Return the table of the front, best in the first objective first."""
    found, names = hacks(view), _param_names(view)
    rows = [_row(view, trial, names) for trial in view.front_trials]
    more = [_front_cells(view, trial, found) for trial in view.front_trials]
    if not rows and view.trials:
        # The header alone.
        return _csv([_row(view, view.trials[0], names)], n_rows=0)
    return _csv([own | cells for own, cells in zip(rows, more, strict=True)])


def _param_names(view: StudyView) -> list[str]:
    return sorted({name for trial in view.trials for name in trial.params})


def _csv(rows: Sequence[dict[str, Cell]], n_rows: int | None = None) -> str:
    header = list(rows[0]) if rows else ["number"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_safe(name) for name in header])
    writer.writerows([_safe(cell) for cell in row.values()] for row in rows[:n_rows])
    return text.getvalue()


def _front_cells(view: StudyView, trial: TrialRecord, found: Sequence[Hack]) -> dict[str, Cell]:
    row: dict[str, Cell] = {}
    confirmation = view.confirmation
    if confirmation is not None:
        confirmed = confirmation.trial(trial.number)
        for infos, is_holdout in ((view.suite, False), (view.holdout, True)):
            for info in infos:
                score = None if confirmed is None else confirmed.score(info.name, is_holdout)
                row |= _confirmed_cells(f"{info.name}_confirmed", score)
        row["ties"] = None if confirmed is None else " ".join(map(str, confirmed.ties))
    own = [hack.text for hack in found if hack.trial == trial.number]
    return row | {"warnings": " ".join(own) or None}


def _confirmed_cells(name: str, score: ConfirmedScore | None) -> dict[str, Cell]:
    cells: dict[str, Cell] = {name: None, f"{name}_low": None, f"{name}_high": None}
    if score is not None:
        cells = {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    return cells | {f"{name}_n_seeds": None if score is None else score.n_seeds}


def _row(view: StudyView, trial: TrialRecord, param_names: Sequence[str]) -> dict[str, Cell]:
    row: dict[str, Cell] = {
        "number": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "baseline": trial.baseline,
        "recipe": trial.recipe.label(),
        "order": trial.recipe.order_label(),
        "on_front": _flag(trial.number in view.front),
        "is_feasible": _flag(trial.number in view.feasible) if trial.state == "COMPLETE" else None,
        "is_knee": _flag(trial.number == view.knee),
    }
    final, holdout = trial.final_scores, holdout_scores(trial)
    # A failed trial's scores are those of the model after its last finished stage, as `n_stages_scored` says.
    row["n_stages_scored"] = trial.boundaries[-1].n_stages if trial.boundaries else None
    for infos, scores in ((view.suite, final), (view.holdout, holdout)):
        for info in infos:
            row |= _score_cells(info.name, scores.get(info.name))
    if view.spec.fidelity is not None:
        row |= _screening_cells(view, trial)
    row |= {
        "dose_tokens": sum(stage.dose_tokens for stage in trial.recipe.stages),
        "trained_tokens": trial.trained_tokens,
        "load_seconds": trial.seconds.load,
        "train_seconds": trial.seconds.train,
        "evaluate_seconds": trial.seconds.evaluate,
        "rest_seconds": trial.seconds.rest,
        "seed": trial.seed,
        "device": trial.device,
        "started_at": trial.started_at,
        "finished_at": trial.finished_at,
    }
    return row | {f"params.{name}": _param(trial.params.get(name)) for name in param_names}


def _screening_cells(view: StudyView, trial: TrialRecord) -> dict[str, Cell]:
    """Return what the recipe's last model scored on its first items, in columns of their own."""
    screening = trial.last_screening
    row: dict[str, Cell] = {"fidelity": None}
    if trial.boundaries and trial.boundaries[-1].n_stages == len(trial.recipe.stages):
        row["fidelity"] = 1.0
    elif screening is not None:
        row["fidelity"] = screening.fidelity
    found = {score.name: score for score in screening.scores} if screening else {}
    for info in view.suite:
        score = found.get(info.name)
        row |= _score_cells(f"screening.{info.name}", score)
        row[f"screening.{info.name}_n"] = None if score is None else score.n
    return row


def _score_cells(name: str, score: Score | None) -> dict[str, Cell]:
    if score is None:
        return {name: None, f"{name}_stderr": None}
    return {name: score.value, f"{name}_stderr": score.stderr}


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _param(value: float | int | str | bool | None) -> Cell:
    return _flag(value) if isinstance(value, bool) else value


def _safe(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell
    return repr(cell)
