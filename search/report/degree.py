"""How much of each influence: curves of dose and response as figures, sentences, and which parameters matter."""

from __future__ import annotations

from dataclasses import dataclass

from search.attribution.dose import DoseResponse, Interval
from search.attribution.verdicts import number
from search.report.analysis import Analysis
from search.report.numbers import tokens_text
from search.report.plots import Axis, linear_axis, log_axis
from spaces.influence import InfluenceSpec
from spaces.recipe import Stage
from spaces.spec import ends

MAX_CURVES = 24
"""Figures on a page; the table has every curve."""
MAX_POINTS = 400
"""Boundaries drawn in one figure, evenly over all of them."""
MAX_PARAMETERS = 20
"""Rows of the table of parameters."""
WIDTH, HEIGHT = 300, 190


@dataclass(frozen=True)
class Curve:
    """One figure: points in the coordinates of an SVG of `WIDTH` by `HEIGHT`."""

    response: DoseResponse
    """What is drawn."""
    title: str
    """Influence and score."""
    text: str
    """What it shows, in words: the figure's equivalent."""
    x: Axis
    y: Axis
    line: str
    """Path of the mean."""
    band: str
    """Path of the 95 % band."""
    points: tuple[tuple[float, float], ...]
    """Boundaries."""
    marks: tuple[tuple[float, str], ...]
    """Where it saturates or turns: place across, and word."""
    used: float | None
    """Place across of the recommended trial's dose; None if it has no such stage."""


@dataclass(frozen=True)
class ParameterRow:
    """How much one parameter matters."""

    name: str
    """As in `params`."""
    shares: tuple[float, ...]
    """One a column of `ParameterTable`; each column sums to 1 over all parameters."""


@dataclass(frozen=True)
class ParameterTable:
    """Which parameters matter, the most important first."""

    columns: tuple[str, ...]
    """Objectives, then `front`."""
    rows: tuple[ParameterRow, ...]
    """At most `MAX_PARAMETERS`."""
    n_left_out: int
    """Parameters beyond them."""
    how: str
    """What it rests on."""
    warning: str
    """Why it is not to be relied on; empty where trials suffice."""


def dose_sentences(response: DoseResponse) -> list[str]:
    """Return what a curve supports, a sentence each; nothing where nothing is."""
    if not response.is_shown:
        return []
    what = f"{response.influence}, {response.score}"
    found = []
    if response.turns_at is not None:
        found.append(f"{what}: beyond {dose_text(response.turns_at)} more does harm.")
    if response.saturates_at is not None:
        found.append(f"{what}: 95 % of the gain is reached by {dose_text(response.saturates_at)}.")
    if not found:
        found.append(f"{what}: the dose matters; no point of saturation or harm is supported.")
    return found


def dose_text(at: Interval) -> str:
    """Return a dose with its interval, such as `3.1k tokens (2.5k to 3.9k)`."""
    low, high = tokens_text(int(at.low)), tokens_text(int(at.high))
    return f"{tokens_text(int(at.value))} tokens ({low} to {high})"


def ends_text(response: DoseResponse) -> str:
    """Return how the score changes at the lowest and the highest dose; why not, where nothing was fitted."""
    if not response.curve:
        return response.reason or "nothing was fitted"
    texts = [
        f"{number(mean)} ({number(low)}..{number(high)}) at {tokens_text(int(dose))}"
        for dose, mean, low, high in (response.curve[0], response.curve[-1])
    ]
    return f"{texts[0]}, {texts[1]} tokens"


def used_doses(analysis: Analysis) -> dict[str, list[int]]:
    """Return the doses of the recommended trial by influence, repeats one by one."""
    trial = analysis.recommended
    found: dict[str, list[int]] = {}
    for stage in trial.recipe.stages if trial is not None else ():
        if isinstance(stage, Stage):
            found.setdefault(stage.influence, []).append(stage.dose_tokens)
    return found


def highest_doses(analysis: Analysis) -> dict[str, float]:
    """Return the largest dose that study.yaml allows one run of an influence, where it searches the dose."""
    found = {}
    for name, influence in analysis.view.spec.influences.items():
        if isinstance(influence, InfluenceSpec) and influence.dose_tokens is not None:
            low, high = ends(influence.dose_tokens)
            if high > low:
                found[name] = float(high)
    return found


def curves(analysis: Analysis) -> tuple[Curve, ...]:
    """Return the figures, those that show something first."""
    fitted = [each for each in analysis.doses if each.curve]
    fitted.sort(key=lambda each: not each.is_shown)
    used = used_doses(analysis)
    return tuple(_curve(analysis, each, used) for each in fitted[:MAX_CURVES])


def parameter_table(analysis: Analysis) -> ParameterTable | None:
    """Return which parameters matter; None with too few trials."""
    matter = analysis.importances
    if matter is None:
        return None
    columns = {**matter.by_objective, **({"front": matter.front} if matter.front else {})}
    names = {name for column in columns.values() for name in column}
    totals = {name: sum(column.get(name, 0.0) for column in columns.values()) for name in names}
    ordered = sorted(names, key=lambda name: (-totals[name], name))
    rows = (
        ParameterRow(name, tuple(column.get(name, 0.0) for column in columns.values()))
        for name in ordered[:MAX_PARAMETERS]
    )
    return ParameterTable(
        columns=tuple(columns),
        rows=tuple(rows),
        n_left_out=max(0, len(ordered) - MAX_PARAMETERS),
        how=f"PED-ANOVA over {matter.n_trials} trials: share of what tells the best {matter.n_top} in an objective, "
        f"and the {matter.n_front} on the front, from the rest.",
        warning=matter.warning or "",
    )


def _curve(analysis: Analysis, response: DoseResponse, used: dict[str, list[int]]) -> Curve:
    rows_N4 = analysis.dose_rows[response.influence, response.score]
    measured = sorted((float(row[0]), float(row[3])) for row in rows_N4)
    points = measured[:: -(-len(measured) // MAX_POINTS)]
    x = log_axis(response.lowest, response.highest, 46, WIDTH - 12)
    values = [value for _, value in points]
    ends_ = [end for _, _, low, high in response.curve for end in (low, high)]
    y = linear_axis(min([0.0, *values, *ends_]), max([0.0, *values, *ends_]), HEIGHT - 34, 10)
    line = " L".join(f"{x.at(d):.1f} {y.at(m):.1f}" for d, m, _, _ in response.curve)
    upper = [f"{x.at(d):.1f} {y.at(h):.1f}" for d, _, _, h in response.curve]
    lower = [f"{x.at(d):.1f} {y.at(low):.1f}" for d, _, low, _ in reversed(response.curve)]
    marks = [
        (x.at(at.value), word)
        for at, word in ((response.saturates_at, "saturates"), (response.turns_at, "turns"))
        if at is not None
    ]
    own = used.get(response.influence)
    return Curve(
        response=response,
        title=f"{response.influence}, {response.score}",
        text=f"{response.influence} changes {response.score} by {ends_text(response)}; {response.n} boundaries, "
        f"shape: {response.shape}{'' if response.is_shown else ', not beyond noise'}.",
        x=x,
        y=y,
        line=f"M{line}",
        band=f"M{' L'.join([*upper, *lower])} Z",
        points=tuple((round(x.at(dose), 1), round(y.at(value), 1)) for dose, value in points),
        marks=tuple(marks),
        used=x.at(own[0]) if own else None,
    )
