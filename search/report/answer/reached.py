"""What is reachable: the recommended recipe's scores against the untouched base's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.attribution.known import recipe_key
from search.attribution.recommend import TargetCheck
from search.attribution.verdicts import effect_text
from search.front import knee_heights
from search.records import TrialRecord
from search.report.analysis import Analysis
from search.report.answer.words import listed
from search.report.gains import (
    base_gains,
    is_better,
    nearest,
    shown_gains,
    shown_losses,
    times_text,
)
from search.report.numbers import count_text, interval_text, number_text
from search.report.view import trial_losses


def reached(analysis: Analysis) -> str:
    """Return what is reachable: the recommended recipe's scores against the base's."""
    view, found = analysis.view, analysis.recommendation
    if not view.finished:
        return "No trial has finished yet: the first answer comes with the first one."
    if found is None or (found.trial is None and found.nearest is None):
        return (
            "No finished trial has every score that the study asks for: see the reasons of failure."
        )
    if found.trial is None:
        assert found.nearest is not None
        missed = [_missed(check) for check in found.checks if check.shortfall > 0]
        return (
            f"None of {count_text(found.n_candidates, 'complete trial')} keeps every constraint; nearest is trial "
            f"{found.nearest.trial}, outside by {' and '.join(missed)}."
        )
    rule = "the knee of the front" if found.is_knee else "nearest to the front's best values"
    if found.is_knee and view.knee != found.trial.trial:
        rule += " where all seeds count"  # The front is drawn by what the search saw.
    trial = analysis.recommended
    if trial is None:
        untouched = analysis.by_number[found.trial.trial]
        return (
            f"Of {count_text(len(view.feasible), 'feasible trial')} none with stages is on the front: the untouched "
            f"base is at least as good in every objective ({_own_scores(analysis, untouched)})."
        )
    head = f"Trial {trial.number} ({trial.recipe.order_label()}), {rule}, reaches "
    if analysis.is_base_preferred:
        head = (
            f"The untouched base itself is {rule}; of what was trained, trial {trial.number} "
            f"({trial.recipe.order_label()}) comes nearest and reaches "
        )
    if view.base is None:
        return (
            f"{head}{_own_scores(analysis, trial)}; the base was not scored, so how much of it is gain is unknown: "
            "a baseline with `order: []` tells."
        )
    return f"{head}{_against_base(analysis, trial)}"


def _missed(check: TargetCheck) -> str:
    return f"{number_text(check.shortfall)} in {check.target.score} (at {number_text(check.value)})"


def _own_scores(analysis: Analysis, trial: TrialRecord) -> str:
    return ", ".join(f"{name} {_value_text(analysis, trial, name)}" for name in analysis.objectives)


def _value_text(analysis: Analysis, trial: TrialRecord, name: str) -> str:
    confirmed = (
        analysis.view.confirmation.trial(trial.number) if analysis.view.confirmation else None
    )
    score = confirmed.score(name) if confirmed is not None else None
    if score is not None and score.value is not None and score.low is not None:
        assert score.high is not None
        return f"{number_text(score.value)} ({number_text(score.low)} to {number_text(score.high)})"
    estimate = analysis.known.estimate(recipe_key(trial.recipe), name)
    if estimate is None:
        return "missing"
    variance = estimate.item_variance
    stderr = None if variance is None else (variance + estimate.seed_variance) ** 0.5
    return interval_text(estimate.value, stderr)


def _against_base(analysis: Analysis, trial: TrialRecord) -> str:
    view = analysis.view
    assert view.base is not None
    scores = ", ".join(
        f"{name} {_value_text(analysis, trial, name)} (base {_value_text(analysis, view.base, name)})"
        for name in analysis.objectives
    )
    effects = base_gains(analysis, trial)
    fresh = view.confirmed_gains(trial.number)
    gains = list(fresh) if fresh is not None else list(shown_gains(effects, analysis.objectives))
    losses = list(shown_losses(effects, analysis.objectives))
    told = []
    if gains:
        how = "with fresh seeds" if fresh is not None else "before correcting for having picked it"
        told.append(f"it gains on the base in {listed(gains)} ({how})")
    elif fresh is not None:
        told.append(
            "fresh seeds alone, corrected over all that was confirmed, show no gain over the base"
        )
    else:
        told.append("no gain over the base is shown")
        closest = nearest(
            {
                n: e
                for n, e in effects.items()
                if is_better(n, e, analysis.objectives) and not e.is_shown
            }
        )
        if closest is not None:
            name, effect, factor = closest
            told.append(
                f"the nearest, {name} {effect_text(effect)}, would take about {times_text(factor)} the items"
            )
    if losses:
        told.append(f"it loses in {listed(losses)}")
    same = [name for name in effects if name not in gains and name not in losses]
    if same and gains:
        told.append(f"no difference is shown in {listed(same)}")
    told += _gained_elsewhere(analysis, trial, same)
    return f"{scores}; {'; '.join(told)}."


def _gained_elsewhere(analysis: Analysis, trial: TrialRecord, names: Sequence[str]) -> list[str]:
    """Name the front trial that gains on the base where the recommended one does not; in most objectives, if several.

    Of those with equally many gains it is the one farthest on the ideal's side of the plane through the extremes.
    """
    front = [each for each in analysis.view.front_trials if each.recipe.stages]
    gains = {
        each.number: shown_gains(base_gains(analysis, each), analysis.objectives) for each in front
    }
    others = [each for each in front if each is not trial and set(names) & set(gains[each.number])]
    if not others:
        return []
    losses = [trial_losses(each, analysis.view.objectives) for each in front]
    heights = knee_heights(np.array(losses))
    height = {each.number: float(one) for each, one in zip(front, heights, strict=True)}
    best = max(others, key=lambda each: (len(gains[each.number]), height[each.number]))
    gained = listed([name for name in names if name in gains[best.number]])
    return [
        f"trial {best.number} ({best.recipe.order_label()}) gains in {gained}: {_own_scores(analysis, best)}"
    ]
