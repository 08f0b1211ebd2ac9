"""A recommendation in sentences that code makes from its numbers."""

from __future__ import annotations

import math

from search.attribution.recommend import Certainty, Recommendation, TargetCheck
from search.attribution.verdicts import effect_text, number

_RULES = {
    "weights": "the least weighted loss, {weights}, with the front's best value at 0 and its worst at 1",
    "lexicographic": "the best in {priorities}, each among those that noise does not tell from the best before",
}


def reasons(recommendation: Recommendation) -> list[str]:
    """Return why this trial, what was given up, and how sure that is; or why there is none."""
    if recommendation.trial is None:
        return _unreachable(recommendation)
    found = [_why(recommendation)]
    found += [_check_text(check) for check in recommendation.checks]
    for given in recommendation.given_up:
        low, high = given.effect.low, given.effect.high
        is_noise = low is not None and high is not None and low <= 0 <= high
        found.append(
            f"Given up: {given.score} is {effect_text(given.effect)} against trial {given.best}, the best of those "
            f"that keep all bounds{'; that is within noise' if is_noise else ''}."
        )
    if not recommendation.given_up:
        found.append(
            "Given up: nothing; no trial that keeps all bounds is better in any objective."
        )
    if recommendation.certainty is not None:
        found += _certainty(recommendation.certainty)
    return found


def _why(recommendation: Recommendation) -> str:
    n_within, n_all = recommendation.n_within, recommendation.n_candidates
    of = f"among the {n_within} of {n_all} completed trials that keep all bounds"
    if recommendation.rule == "weights":
        weights = " + ".join(f"{value:g} {name}" for name, value in recommendation.weights.items())
        how = _RULES["weights"].format(weights=weights)
    elif recommendation.rule == "lexicographic":
        how = _RULES["lexicographic"].format(priorities=", then ".join(recommendation.priorities))
    elif recommendation.is_knee:
        how = "the knee: the trial on the front farthest from the plane through its extremes"
    else:
        how = "the trial on the front with the least mean distance from its best values, since it has no knee"
    return f"Why: {how}, {of}."


def _check_text(check: TargetCheck) -> str:
    kept = "kept" if check.shortfall <= 0 else f"missed by {abs(check.shortfall):.3g}"
    sure = "beyond noise" if check.is_beyond_noise else "within noise of the bound"
    kind = "Constraint" if check.target.is_constraint else "Target"
    return f"{kind} {check.target.text}: {kept} at {check.value:.3g}, {sure}."


def _certainty(certainty: Certainty) -> list[str]:
    share = f"{100 * certainty.share:.0f} %"
    if certainty.rival is None:
        return [f"Sure: chosen in {share} of redraws within the noise of the scores."]
    found = [
        f"Sure: chosen in {share} of redraws within the noise of the scores; trial {certainty.rival} comes next."
    ]
    if certainty.item_factor is None or certainty.effect is None:
        found.append(f"Nothing that was measured tells it from trial {certainty.rival}.")
    elif certainty.item_factor <= 1:
        found.append(
            f"They differ beyond noise in {certainty.score} ({effect_text(certainty.effect)}): what you want "
            "more decides between them, and not more measuring."
        )
    else:
        times = math.ceil(certainty.item_factor * 10) / 10
        found.append(
            f"More certainty: {certainty.score} differs by {number(certainty.effect.value)}; to tell that from noise "
            f"takes {times:,.1f} times the items. Training both once more with another seed takes "
            f"{certainty.retrain_tokens:,} tokens."
        )
    return found


def _unreachable(recommendation: Recommendation) -> list[str]:
    if recommendation.nearest is None:
        return ["None: no completed trial has all scores that are asked for."]
    found = [
        f"None of {recommendation.n_candidates} completed trials keeps all bounds. Nearest is trial "
        f"{recommendation.nearest.trial}: {recommendation.nearest.recipe}."
    ]
    found += [_check_text(check) for check in recommendation.checks]
    found += [
        f"Closest to {text} alone is trial {trial}."
        for text, trial in recommendation.best_of.items()
    ]
    for way in recommendation.ways:
        found.append(
            f"In the way: {way.target.text}. Without it trial {way.trial} keeps all the rest; it misses this one by "
            f"{way.shortfall:.3g}."
        )
    if not recommendation.ways:
        found.append("No single bound stands in the way: giving up any one would not do.")
    return found
