"""What a trial gains on the untouched base in objectives and on the holdout, corrected over the scores looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evaluators.scores import Direction
from search.attribution.known import recipe_key
from search.attribution.noise import Effect, corrected_together, with_interval
from search.records import TrialRecord
from search.report.analysis import Analysis
from search.report.view import INTERVAL_STDERRS, difference, holdout_scores

Effects = dict[str, Effect]
"""Score to the trial's value less the base's."""


def base_gains(analysis: Analysis, trial: TrialRecord) -> Effects:
    """Return the differences in objectives, with Holm's correction over them; empty without a base."""
    base = analysis.view.base
    if base is None:
        return {}
    own, other = recipe_key(trial.recipe), recipe_key(base.recipe)
    found = {name: analysis.known.difference(own, other, name) for name in analysis.objectives}
    # This is said of these very models, and not of all that the recipe could become with other seeds.
    own_models = {"has_training_noise": True}
    return corrected(
        {n: each.model_copy(update=own_models) for n, each in found.items() if each is not None}
    )


def holdout_gains(analysis: Analysis, trial: TrialRecord) -> Effects:
    """Return the differences on the holdout, with Holm's correction over its scores; empty without a base."""
    base = analysis.view.base
    if base is None:
        return {}
    own, other = holdout_scores(trial), holdout_scores(base)
    found = {}
    for info in analysis.view.holdout:
        change = difference(own.get(info.name), other.get(info.name))
        if change is not None:
            value, stderr = change
            found[info.name] = Effect(value=value) if stderr is None else _effect(value, stderr)
    return corrected(found)


def corrected(effects: Effects) -> Effects:
    """Return effects with Holm's correction over all of them."""
    return dict(zip(effects, corrected_together(list(effects.values())), strict=True))


def shown_gains(effects: Effects, directions: Mapping[str, Direction]) -> Effects:
    """Return what is for the better beyond noise."""
    return {
        name: each
        for name, each in effects.items()
        if _sign(name, directions) * each.value > 0 and each.is_shown
    }


def shown_losses(effects: Effects, directions: Mapping[str, Direction]) -> Effects:
    """Return what is for the worse beyond noise."""
    return {
        name: each
        for name, each in effects.items()
        if _sign(name, directions) * each.value < 0 and each.is_shown
    }


def is_better(name: str, effect: Effect, directions: Mapping[str, Direction]) -> bool:
    """Tell whether a difference is for the better, noise or not."""
    return _sign(name, directions) * effect.value > 0


def items_factor(effect: Effect) -> float | None:
    """Return times how many items a difference would be beyond noise, were it as large; None where nothing tells.

    The standard error falls with the root of the number of items. Noise between seeds does not fall with it.
    """
    if effect.stderr is None or not effect.value:
        return None
    return (INTERVAL_STDERRS * effect.stderr / effect.value) ** 2


def nearest(effects: Effects) -> tuple[str, Effect, float] | None:
    """Return the difference that the fewest items more would tell from noise, with the factor."""
    found = [(items_factor(each), name, each) for name, each in effects.items()]
    known = [(factor, name, each) for factor, name, each in found if factor is not None]
    if not known:
        return None
    factor, name, each = min(known, key=lambda row: row[0])
    return name, each, factor


def times_text(factor: float) -> str:
    """Return a factor rounded up, such as `2.3 times`."""
    return f"{math.ceil(max(factor, 1.05) * 10) / 10:,.1f} times"


def _effect(value: float, stderr: float) -> Effect:
    return with_interval(value, stderr)


def _sign(name: str, directions: Mapping[str, Direction]) -> float:
    return 1.0 if directions[name] == "maximise" else -1.0
