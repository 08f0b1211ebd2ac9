"""The one figure of the start page: two objectives of all trials, the recommended one marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.front import front_mask
from search.records import TrialRecord
from search.report.analysis import Analysis
from search.report.numbers import score_text
from search.report.plots import Axis, linear_axis
from search.report.view import INTERVAL_STDERRS, Objective

WIDTH, HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 18, 52


@dataclass(frozen=True)
class Mark:
    """One trial with its intervals, in pixels."""

    trial: int
    x: float
    y: float
    x_half: float
    y_half: float
    title: str
    """For the pointer."""


@dataclass(frozen=True)
class Figure:
    """What the SVG is drawn from."""

    x: Axis
    y: Axis
    x_title: str
    y_title: str
    dominated: str
    """Path of dots: feasible trials off the front."""
    front: tuple[Mark, ...]
    base: Mark | None
    recommended: Mark | None
    line: str
    """Path that joins the front members which hold out in these two objectives alone."""
    chosen: str
    """What the recommended trial is called; where the base is recommended, what comes next."""
    text: str
    """What it shows, in words."""


def figure(analysis: Analysis) -> Figure | None:
    """Return the figure; None while no feasible trial is there."""
    view = analysis.view
    if not view.front:
        return None
    x, y = _pair(view.objectives)
    points = {
        trial.number: point
        for trial in view.trials
        if (trial.number in view.feasible or trial is view.base)
        and (point := _point(trial, x, y)) is not None
    }
    if not points:
        return None
    # Intervals are drawn of the front and the base, so they must fit in.
    drawn = view.front | ({view.base.number} if view.base is not None else set())
    ends = [
        [value + way * half * (number in drawn) for value, half in pair]
        for number, pair in points.items()
        for way in (-1, 1)
    ]
    (x_low, y_low), (x_high, y_high) = np.min(ends, axis=0), np.max(ends, axis=0)
    x_axis = linear_axis(float(x_low), float(x_high), _LEFT, WIDTH - _RIGHT, 6)
    y_axis = linear_axis(float(y_low), float(y_high), HEIGHT - _BOTTOM, _TOP, 5)

    def mark(trial: TrialRecord | None) -> Mark | None:
        if trial is None or trial.number not in points:
            return None
        (at_x, err_x), (at_y, err_y) = points[trial.number]
        return Mark(
            trial=trial.number,
            x=round(x_axis.at(at_x), 1),
            y=round(y_axis.at(at_y), 1),
            x_half=round(abs(x_axis.at(at_x + err_x) - x_axis.at(at_x)), 1),
            y_half=round(abs(y_axis.at(at_y + err_y) - y_axis.at(at_y)), 1),
            title=f"trial {trial.number}: {trial.recipe.label()}; {_scores(trial, x, y)}",
        )

    others = [points[number] for number in sorted(view.feasible - view.front) if number in points]
    found = [mark(trial) for trial in view.front_trials]
    return Figure(
        x=x_axis,
        y=y_axis,
        x_title=_title(x, is_across=True),
        y_title=_title(y, is_across=False),
        dominated="".join(f"M{x_axis.at(p[0][0]):.1f} {y_axis.at(p[1][0]):.1f}h0" for p in others),
        front=tuple(each for each in found if each is not None),
        base=mark(view.base),
        recommended=mark(analysis.recommended),
        line=_line(x_axis, y_axis, x, y, [points[n] for n in view.front if n in points]),
        chosen="best of what was trained" if analysis.is_base_preferred else "recommended",
        text=_text(analysis, x, y),
    )


Pair = tuple[tuple[float, float], tuple[float, float]]
"""Value and half-width of its interval, across and up."""


def _pair(objectives: Sequence[Objective]) -> tuple[Objective | None, Objective]:
    """Return the first two objectives; with one, the tokens trained go across."""
    return (objectives[0], objectives[1]) if len(objectives) > 1 else (None, objectives[0])


def _point(trial: TrialRecord, x: Objective | None, y: Objective) -> Pair | None:
    at_x, at_y = _value(trial, x), _value(trial, y)
    return None if at_x is None or at_y is None else (at_x, at_y)


def _value(trial: TrialRecord, objective: Objective | None) -> tuple[float, float] | None:
    if objective is None:
        return float(sum(stage.dose_tokens for stage in trial.recipe.stages)), 0.0
    score = trial.final_scores.get(objective.name)
    if score is None or score.value is None:
        return None
    return score.value, INTERVAL_STDERRS * (score.stderr or 0.0)


def _line(x_axis: Axis, y_axis: Axis, x: Objective | None, y: Objective, points: list[Pair]) -> str:
    if x is None or not points:
        return ""
    values_N2 = np.array([[p[0][0], p[1][0]] for p in points])
    values_N2 = values_N2[front_mask(values_N2 * np.array([x.sign, y.sign]))]
    values_N2 = values_N2[np.lexsort((values_N2[:, 1], values_N2[:, 0]))]
    return "M" + " L".join(f"{x_axis.at(a):.1f} {y_axis.at(b):.1f}" for a, b in values_N2.tolist())


def _title(objective: Objective | None, is_across: bool) -> str:
    if objective is None:
        return "tokens of all stages"
    unit = f" ({objective.unit})" if objective.unit else ""
    if objective.direction == "maximise":
        return f"{objective.name}{unit}, better {'→' if is_across else '↑'}"
    return f"{objective.name}{unit}, better {'←' if is_across else '↓'}"


def _scores(trial: TrialRecord, x: Objective | None, y: Objective) -> str:
    shown = [each for each in (x, y) if each is not None]
    return ", ".join(f"{o.name} {score_text(trial.final_scores.get(o.name))}" for o in shown)


def _text(analysis: Analysis, x: Objective | None, y: Objective) -> str:
    view = analysis.view
    names = f"{y.name} over {x.name if x is not None else 'tokens of all stages'}"
    text = f"{names} of {len(view.feasible):,} feasible trials, {len(view.front):,} of them on the front."
    if analysis.recommended is not None:
        trial = analysis.recommended
        what = "Best of what was trained" if analysis.is_base_preferred else "Recommended"
        text += f" {what}: trial {trial.number} at {_scores(trial, x, y)}."
    if view.base is not None:
        text += f" The untouched base: {_scores(view.base, x, y)}."
    return text
