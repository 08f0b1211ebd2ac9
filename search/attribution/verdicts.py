"""What an explanation says, in sentences that code makes from its numbers.

A verdict is claimed only where an effect is beyond noise after correction, or where it is shown to lie within the
margin: absence of evidence is called just that. The noise of training must be known, from recipes with several seeds:
explanations from one seed claimed an effect in 168 of 200 worlds without any (results/benchmarks/attribution.md).
"""

from __future__ import annotations

from typing import Literal

from evaluators.scores import Record
from search.attribution.explanation import Explanation, Worth
from search.attribution.known import pairs
from search.attribution.noise import Effect

VerdictKind = Literal["gives", "takes", "useless", "harmful", "redundant", "synergy"]


class Verdict(Record):
    """One claim about a unit or two."""

    kind: VerdictKind
    """`gives` and `takes`: by Shapley value, or where that is not known exactly, joining the others. `harmful`: the
    recipe is better without. `redundant`: either of two would do. `synergy`: two gain more together than apart.
    `useless`: leaving it out changes nothing."""
    units: tuple[str, ...]
    """Of `harmful`, the unit itself and then the one before it that it does not go with, if that is shown."""
    score: str | None
    """None where it is about all scores."""
    text: str
    """The claim as a sentence."""


def verdicts(explanation: Explanation) -> list[Verdict]:
    """Return every claim that the numbers support, the units in order."""
    found: list[Verdict] = []
    for score in explanation.scores:
        for unit in explanation.units:
            found += (shares := _shares(explanation, score, unit))
            harm = _harm(explanation, score, unit)
            # That it would be better without is nothing new of a unit that worsens it on the whole.
            is_new = not any(each.kind == "takes" for each in shares)
            found += [each for each in harm if is_new or len(each.units) > 1]
        for one, other in pairs(len(explanation.units)):
            found += _together(explanation, score, explanation.units[one], explanation.units[other])
    for unit in explanation.units:
        found += _useless(explanation, unit)
    return found


def number(value: float) -> str:
    """Return a change with its sign, such as `+0.06`."""
    if value and abs(value) < 0.005:
        return f"{value:+.1e}" if abs(value) < 1e-4 else f"{value:+.4f}"
    return f"{value:+.2f}" if abs(value) < 100 else f"{value:+,.0f}"


def effect_text(effect: Effect) -> str:
    """Return a change with its interval, such as `+0.06 (+0.02..+0.10)`."""
    if effect.low is None or effect.high is None:
        return f"{number(effect.value)} (no interval)"
    return f"{number(effect.value)} ({number(effect.low)}..{number(effect.high)})"


def _sign(explanation: Explanation, score: str) -> float:
    return 1.0 if explanation.scores[score] == "maximise" else -1.0


def _shares(explanation: Explanation, score: str, unit: str) -> list[Verdict]:
    worth, how = explanation.worth("shapley", score, unit), ""
    if worth is None or worth.is_partial:
        worth, how = explanation.worth("left_out", score, unit), ", joining the others,"
    if worth is None or not worth.effect.is_shown:
        return []
    is_gain = worth.effect.value * _sign(explanation, score) > 0
    verb = "improves" if is_gain else "worsens"
    return [
        Verdict(
            kind="gives" if is_gain else "takes",
            units=(unit,),
            score=score,
            text=f"{unit}{how} {verb} {score}: {effect_text(worth.effect)}.",
        )
    ]


def _harm(explanation: Explanation, score: str, unit: str) -> list[Verdict]:
    """Return that the recipe is better without a unit, and after which other one it does not go well."""
    worth = explanation.worth("left_out", score, unit)
    sign = _sign(explanation, score)
    if worth is None or not worth.effect.is_shown or worth.effect.value * sign >= 0:
        return []
    text = f"Without {unit} the recipe's {score} would be better: {unit} changes it by {effect_text(worth.effect)}"
    alone = explanation.worth("alone", score, unit)
    clashing = [
        other
        for other in explanation.units[: explanation.units.index(unit)]
        if _is_clash(explanation.worth("interaction", score, other, unit), sign)
    ]
    if alone is not None and clashing:
        text += f" after {clashing[0]}, and by {effect_text(alone.effect)} on the base alone"
    return [Verdict(kind="harmful", units=(unit, *clashing[:1]), score=score, text=f"{text}.")]


def _is_clash(worth: Worth | None, sign: float) -> bool:
    return worth is not None and worth.effect.is_shown and worth.effect.value * sign < 0


def _together(explanation: Explanation, score: str, one: str, other: str) -> list[Verdict]:
    """Return that either of two would do, or that two gain more together than apart."""
    sign, margin = _sign(explanation, score), explanation.margins[score]
    found = []
    both = explanation.worth("both_left_out", score, one, other)
    overlap = explanation.worth("overlap", score, one, other)
    leaving = [explanation.worth("left_out", score, unit) for unit in (one, other)]
    is_loss = overlap is not None and overlap.effect.is_shown and overlap.effect.value * sign > 0
    if both and is_loss and all(each and each.effect.is_shown_within(margin) for each in leaving):
        text = (
            f"Either of {one} and {other} would do for {score}: without one of them it changes by less than "
            f"{margin:.2g}, with both it is {effect_text(both.effect)} against with neither."
        )
        found.append(Verdict(kind="redundant", units=(one, other), score=score, text=text))
    joint = explanation.worth("interaction", score, one, other)
    if joint is not None and joint.effect.is_shown and joint.effect.value * sign > 0:
        text = f"{one} and {other} do more for {score} together than apart: {effect_text(joint.effect)}."
        found.append(Verdict(kind="synergy", units=(one, other), score=score, text=text))
    return found


def _useless(explanation: Explanation, unit: str) -> list[Verdict]:
    """Return that leaving a unit out changes no score, and that it does nothing among the others either."""
    for score in explanation.scores:
        for kind in ("left_out", "shapley"):
            worth = explanation.worth(kind, score, unit)
            if worth is None or worth.is_partial:
                return []
            margin = explanation.margins[score]
            if worth.effect.is_shown or not worth.effect.is_shown_within(margin):
                return []
    within = ", ".join(f"{score} {explanation.margins[score]:.2g}" for score in explanation.scores)
    text = f"{unit} could be left out: no score changes by more than its margin ({within})."
    return [Verdict(kind="useless", units=(unit,), score=None, text=text)]
