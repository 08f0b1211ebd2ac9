"""Whether order and repetition matter, by recipes that differ in nothing else."""

from __future__ import annotations

from search.attribution.noise import Effect
from search.attribution.verdicts import effect_text
from search.report.analysis import Analysis
from search.report.answer.words import results_path
from search.report.gains import is_better
from search.report.numbers import count_text
from search.report.orders import OrderRow, of_kind, order_price


def order(analysis: Analysis) -> str:
    """Return whether order and repetition matter."""
    rows = analysis.order_rows
    orders, repeats = of_kind(rows, "order"), of_kind(rows, "repeat")
    text = _order_text(analysis, orders)
    if repeats:
        text += f" {_repeat_text(analysis, repeats)}"
    return text


def _order_text(analysis: Analysis, rows: list[OrderRow]) -> str:
    if not rows:
        return _order_unknown(analysis)
    shown = _effects(analysis, rows, only_shown=True)
    n = count_text(len(rows), "comparison")
    if shown:
        row, name, effect = max(shown, key=lambda each: _in_margins(analysis, each))
        where = f" in trial {row.trial}" if row.trial is not None else ""
        verb = "improves" if is_better(name, effect, analysis.scores) else "worsens"
        return (
            f"Order matters: {row.comparison.what}{where} {verb} {name} by {effect_text(effect)}, the largest of "
            f"{n} of the same stages in another order, corrected over all."
        )
    every = _effects(analysis, rows, only_shown=False)
    if not every:
        return _order_unknown(analysis)
    row, name, effect = max(every, key=lambda each: _in_margins(analysis, each))
    if all(each.is_shown_within(analysis.margins[score]) for _, score, each in every):
        return (
            f"Order is shown not to matter here: in {n} of the same stages in another order no score differs by more "
            f"than its margin; the largest is {name} {effect_text(effect)}."
        )
    return (
        f"Order is not shown to matter, nor not to: of {n} of the same stages in another order, the largest difference "
        f"is {name} {effect_text(effect)} ({row.comparison.what}), {_why_not(effect)}."
    )


def _why_not(effect: Effect) -> str:
    if not effect.has_training_noise:
        return (
            "in these very trainings: no recipe was trained with two seeds, so nothing is claimed"
        )
    return "within noise after correction"


def _order_unknown(analysis: Analysis) -> str:
    text = "Whether order matters is not known: no two scored recipes have the same stages in different orders"
    trial = analysis.recommended
    if trial is None or len(trial.recipe.stages) < 2:
        return f"{text}."
    price = order_price(analysis.known, trial.recipe)
    if not price:
        return f"{text}."
    command = f"apportion explain {results_path(analysis.view)} {trial.number} --train --order"
    return f"{text}; `{command}` takes {price}."


def _repeat_text(analysis: Analysis, rows: list[OrderRow]) -> str:
    shown = _effects(analysis, rows, only_shown=True)
    n = count_text(len(rows), "comparison")
    if not shown:
        return f"Repeating a stage is not shown to change a score ({n})."
    row, name, effect = max(shown, key=lambda each: _in_margins(analysis, each))
    verb = "improves" if is_better(name, effect, analysis.scores) else "worsens"
    return f"Repeating: {row.comparison.what} {verb} {name} by {effect_text(effect)}, the largest of {n}."


Found = tuple[OrderRow, str, Effect]


def _effects(analysis: Analysis, rows: list[OrderRow], only_shown: bool) -> list[Found]:
    return [
        (row, name, effect)
        for row in rows
        for name, effect in row.comparison.effects.items()
        if name in analysis.scores and (effect.is_shown or not only_shown)
    ]


def _in_margins(analysis: Analysis, found: Found) -> float:
    margin = analysis.margins[found[1]]
    return abs(found[2].value) / margin if margin > 0 else 0.0
