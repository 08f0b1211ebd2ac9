"""Which stage of the recommended recipe did most, and what it cost."""

from __future__ import annotations

from search.attribution.explanation import Explanation, Kind
from search.attribution.lattice import Lattice
from search.attribution.noise import Effect
from search.attribution.verdicts import effect_text
from search.records import TrialRecord
from search.report.analysis import Analysis
from search.report.answer.words import results_path
from search.report.attribution import boundary_effects
from search.report.gains import is_better, nearest, times_text
from search.report.numbers import tokens_text

_HOW: dict[Kind, str] = {
    "shapley": "over all orders in which its stages may join",
    "left_out": "against the recipe without it",
    "boundary": "from before it to after it",
}
"""What is looked at first, and how it was measured."""


def decided(analysis: Analysis) -> str:
    """Return which stage of the recommended recipe did most, and what it cost."""
    trial = analysis.recommended
    if trial is None:
        return "There is no recommended recipe with stages, so there is nothing to attribute."
    found = analysis.explanation(trial.number)
    if found is None:
        return f"Trial {trial.number} has too many stages to tell apart within a report: see `apportion explain`."
    train = f"`apportion explain {results_path(analysis.view)} {trial.number} --train`"
    for kind, how in _HOW.items():
        effects = _stage_effects(found, kind)
        gains = {
            key: each
            for key, each in effects.items()
            if each.is_shown and key[0] in analysis.objectives and _is_gain(found, key, each)
        }
        if gains:
            text = _decisive(analysis, trial, found, effects, gains, how)
            rest = f"; what it gives elsewhere, {train} tells" if kind == "boundary" else ""
            return f"{text}{rest if len(found.units) > 1 else ''}."
    return f"No stage of trial {trial.number} is shown to improve an objective beyond noise{_closest_stage(found)}."


Key = tuple[str, str]
"""Score and stage."""


def _stage_effects(found: Explanation, kind: Kind) -> dict[Key, Effect]:
    if kind == "boundary":
        return boundary_effects(found)
    return {
        (worth.score, worth.units[0]): worth.effect
        for worth in found.worths
        if worth.kind == kind and not worth.is_partial
    }


def _is_gain(found: Explanation, key: Key, effect: Effect) -> bool:
    return is_better(key[0], effect, found.scores)


def _size(found: Explanation, key: Key, effect: Effect) -> float:
    """Return an effect in margins of its score, so that scores of different units compare."""
    margin = found.margins[key[0]]
    return abs(effect.value) / margin if margin > 0 else 0.0


def _decisive(
    analysis: Analysis,
    trial: TrialRecord,
    found: Explanation,
    effects: dict[Key, Effect],
    gains: dict[Key, Effect],
    how: str,
) -> str:
    (score, unit), effect = max(gains.items(), key=lambda pair: _size(found, *pair))
    costs = {
        key: each
        for key, each in effects.items()
        if key[1] == unit and each.is_shown and not _is_gain(found, key, each)
    }
    tokens = _unit_tokens(found, trial, unit)
    price = f"{tokens_text(tokens)} training tokens" if tokens else "no training"
    if costs:
        (name, _), cost = max(costs.items(), key=lambda pair: _size(found, *pair))
        paid = f"it costs {name} {effect_text(cost)} and {price}"
    else:
        paid = f"it costs {price}; no loss in another score is shown"
    which = "the only stage" if len(found.units) == 1 else f"one of {len(found.units)} stages"
    return f"The stage {unit}, {which} of trial {trial.number}, changes {score} by {effect_text(effect)} {how}; {paid}"


def _unit_tokens(found: Explanation, trial: TrialRecord, unit: str) -> int:
    lattice = Lattice(trial.recipe)
    return sum(stage.dose_tokens for stage in lattice.units[lattice.labels.index(unit)])


def _closest_stage(found: Explanation) -> str:
    effects = {
        f"{score} at {unit}": effect
        for (score, unit), effect in boundary_effects(found).items()
        if is_better(score, effect, found.scores)
    }
    closest = nearest(effects)
    if closest is None:
        return ""
    name, effect, factor = closest
    if not effect.has_training_noise and factor < 1:
        return (
            f": the nearest is {name}, {effect_text(effect)} in these very trainings, and no recipe was trained with "
            "two seeds, which `--train --seeds 2` of `apportion explain` does"
        )
    return f"; the nearest is {name}, {effect_text(effect)}, which would take about {times_text(factor)} the items"
