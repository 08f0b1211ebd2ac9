"""How doses act, whether a stage could be left out, and what is not at full strength."""

from __future__ import annotations

from search.attribution.dose import MIN_POINTS, DoseResponse
from search.records import TrialRecord
from search.report.analysis import Analysis
from search.report.answer.words import listed
from search.report.attribution import claims
from search.report.degree import dose_text, highest_doses, used_doses
from search.report.numbers import count_text, tokens_text


def degree(analysis: Analysis) -> str:
    """Return how doses act, whether a stage could be left out, and whether everything is at full strength."""
    parts = [_dose_part(analysis), _useless_part(analysis), _strength_part(analysis)]
    return " ".join(part for part in parts if part)


def _dose_part(analysis: Analysis) -> str:
    used = used_doses(analysis)
    shown = [each for each in analysis.doses if each.is_shown]
    if not shown:
        return _no_dose(analysis.doses)
    # What is in the recommended recipe first, then what says most, then objectives.
    best = min(
        shown,
        key=lambda each: (
            each.influence not in used,
            each.turns_at is None,
            each.saturates_at is None,
            each.score not in analysis.objectives,
            each.holm,
        ),
    )
    own = used.get(best.influence)
    number = analysis.recommended.number if analysis.recommended is not None else None
    if best.turns_at is not None:
        text = f"More of {best.influence} than {dose_text(best.turns_at)} makes {best.score} worse again"
        at = best.turns_at
        place = own and (
            "less" if own[0] < at.low else "more" if own[0] > at.high else "about that"
        )
    elif best.saturates_at is not None:
        at = best.saturates_at
        text = f"{best.influence} has 95 % of its effect on {best.score} by {dose_text(at)}"
        place = own and (
            "less" if own[0] < at.low else "more" if own[0] > at.high else "about that"
        )
    else:
        span = f"{tokens_text(int(best.lowest))} to {tokens_text(int(best.highest))}"
        text = (
            f"The dose of {best.influence} matters for {best.score} over {span} tokens; no point of saturation or harm "
            "is supported"
        )
        place = None
    if not own:
        return f"{text}."
    comment = f", {place}" if place else ""
    return f"{text}; trial {number} takes {tokens_text(own[0])}{comment}."


def _no_dose(responses: list[DoseResponse]) -> str:
    fitted = [each for each in responses if each.shape is not None]
    if fitted:
        n = max(each.n for each in fitted)
        return f"No dose is shown to play a part ({len(fitted)} curves, up to {count_text(n, 'stage')} each)."
    thin = [each for each in responses if each.n < MIN_POINTS]
    if thin:
        most = max(thin, key=lambda each: each.n)
        return (
            f"How doses act is not known: {most.influence} was scored at {count_text(most.n, 'dose')}, a curve takes "
            f"{MIN_POINTS}."
        )
    return "How doses act is not known: no stage was scored at doses that differ."


def _useless_part(analysis: Analysis) -> str:
    trial = analysis.recommended
    found = analysis.explanation(trial.number) if trial is not None else None
    if trial is None or found is None or len(found.units) < 2:
        return ""
    idle = [claim.units[0] for claim in claims(found) if claim.kind == "useless"]
    if idle:
        return f"{listed(idle)} could be left out of trial {trial.number}: no score changes by more than its margin."
    harm = [claim for claim in claims(found) if claim.kind == "harmful"]
    if harm:
        return harm[0].text
    names = [
        unit
        for unit in found.units
        if found.worth("left_out", next(iter(found.scores)), unit) is None
    ]
    if names:
        return f"Whether {listed(names, 'or')} could be left out was not tried."
    return f"No stage of trial {trial.number} is shown to be useless."


def _strength_part(analysis: Analysis) -> str:
    trial, highest = analysis.recommended, highest_doses(analysis)
    shares = {
        name: sum(doses) / len(doses) / highest[name]
        for name, doses in used_doses(analysis).items()
        if name in highest
    }
    if trial is None or not shares:
        return ""
    told = ", ".join(f"{name} at {100 * share:.0f} %" for name, share in shares.items())
    left = [name for name in analysis.view.spec.influences if name not in _used(trial)]
    text = f"Of the largest dose allowed, trial {trial.number} takes {told}"
    return f"{text}; it does without {listed(left)}." if left else f"{text}."


def _used(trial: TrialRecord) -> set[str]:
    found = set()
    for stage in trial.recipe.stages:
        found |= {stage.influence, *(part.influence for part in stage.trainings)}
    return found
