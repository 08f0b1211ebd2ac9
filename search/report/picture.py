"""front.png: every pair of objectives as a panel, drawn without a browser or a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from search.front import front_mask
from search.records import TrialRecord
from search.report.view import INTERVAL_STDERRS, Objective, StudyView

MAX_BARS = 60
"""Above so many front members, marks would vanish behind their intervals."""
_FRONT, _DOMINATED, _BASE, _INK = "#0b6596", "#9aa3ad", "#c2570c", "#22272e"
_ARROWS = {"maximise": "higher is better", "minimise": "lower is better"}


def front_png(view: StudyView) -> bytes:
    """Return the chart as PNG. With one objective the other axis is the number of tokens trained."""
    pairs: list[tuple[Objective | None, Objective]] = list(combinations(view.objectives, 2))
    if not pairs:
        pairs = [(None, view.objectives[0])]
    n_columns = min(3, len(pairs))
    n_rows = -(-len(pairs) // n_columns)
    figure = Figure(figsize=(5.2 * n_columns, 4.4 * n_rows + 0.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        _plain(f"{view.spec.name}: front of {len(view.front)} of {len(view.trials)} trials"),
        color=_INK,
    )
    for place, (x, y) in enumerate(pairs, start=1):
        _draw(figure.add_subplot(n_rows, n_columns, place), view, x, y)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    text = io.BytesIO()
    figure.savefig(text, format="png", metadata={"Software": None})
    return text.getvalue()


def _draw(axes: Any, view: StudyView, x: Objective | None, y: Objective) -> None:
    front = [trial for trial in view.trials if trial.number in view.front]
    others = [trial for trial in view.trials if trial.number in view.feasible - view.front]
    infeasible = [
        trial
        for trial in view.trials
        if trial.state == "COMPLETE" and trial.number not in view.feasible
    ]
    dots: dict[str, Any] = {"linestyle": "none", "marker": "o"}
    _plot(axes, infeasible, x, y, "infeasible", markerfacecolor="none", color=_DOMINATED, **dots)
    _plot(axes, others, x, y, "dominated", color=_DOMINATED, markersize=5, **dots)
    with_bars = len(front) <= MAX_BARS
    style: dict[str, Any] = {"color": _FRONT, "markersize": 7, "zorder": 3, **dots}
    _plot(axes, front, x, y, "front", with_bars=with_bars, **style)
    _join(axes, front, x, y)
    if view.base is not None:
        style = {"linestyle": "none", "marker": "D", "color": _BASE, "zorder": 4}
        _plot(axes, [view.base], x, y, "base", with_bars=True, markersize=7, **style)
    knee = [trial for trial in view.trials if trial.number == view.knee]
    ring: dict[str, Any] = {
        "markersize": 15,
        "markerfacecolor": "none",
        "markeredgewidth": 1.6,
        "zorder": 5,
    }
    _plot(axes, knee, x, y, "knee", color=_INK, **dots, **ring)
    axes.set_xlabel(_label(x), color=_INK)
    axes.set_ylabel(_label(y), color=_INK)
    axes.grid(color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not front and not others and not infeasible:
        axes.text(0.5, 0.5, "no finished trial", ha="center", va="center", transform=axes.transAxes)


def _plot(
    axes: Any,
    trials: Sequence[TrialRecord],
    x: Objective | None,
    y: Objective,
    label: str,
    with_bars: bool = False,
    **style: Any,
) -> None:
    points = _points(trials, x, y)
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    if with_bars:
        style |= {
            "xerr": [INTERVAL_STDERRS * value[1] for value in xs],
            "yerr": [INTERVAL_STDERRS * value[1] for value in ys],
            "elinewidth": 0.8,
        }
    draw = axes.errorbar if with_bars else axes.plot
    draw([value[0] for value in xs], [value[0] for value in ys], label=label, **style)


def _join(axes: Any, front: Sequence[TrialRecord], x: Objective | None, y: Objective) -> None:
    """Join the front trials that no other one dominates in this panel's two objectives."""
    if x is None:
        return
    points = _points(front, x, y)
    if not points:
        return
    values_N2 = np.array([[at_x[0], at_y[0]] for at_x, at_y in points])
    values_N2 = values_N2[front_mask(values_N2 * np.array([x.sign, y.sign]))]
    values_N2 = values_N2[np.lexsort((values_N2[:, 1], values_N2[:, 0]))]
    axes.plot(values_N2[:, 0], values_N2[:, 1], color=_FRONT, linewidth=1.2, alpha=0.6)


Point = tuple[tuple[float, float], tuple[float, float]]


def _points(trials: Sequence[TrialRecord], x: Objective | None, y: Objective) -> list[Point]:
    """Return (value, stderr) in x and in y of the trials that have both."""
    pairs = [(_value(trial, x), _value(trial, y)) for trial in trials]
    return [(at_x, at_y) for at_x, at_y in pairs if at_x is not None and at_y is not None]


def _value(trial: TrialRecord, objective: Objective | None) -> tuple[float, float] | None:
    """Return value and standard error (0 where there is none to draw); None if missing."""
    if objective is None:
        return float(trial.trained_tokens), 0.0
    score = trial.final_scores.get(objective.name)
    if score is None or score.value is None:
        return None
    return score.value, score.stderr or 0.0


def _label(objective: Objective | None) -> str:
    if objective is None:
        return "tokens trained"
    unit = f"{objective.unit}, " if objective.unit else ""
    return _plain(f"{objective.name} ({unit}{_ARROWS[objective.direction]})")


def _plain(text: str) -> str:
    """Return a text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
