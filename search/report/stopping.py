"""What early stopping saved in a study and how often it was wrong, in sentences and rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.front import front_mask
from search.records import StopDecision, TrialRecord
from search.report.numbers import count_text, tokens_text
from search.report.screening import screening_sentence
from search.report.view import StudyView, keeps_goals, trial_losses


def stopping_sentence(view: StudyView) -> str:
    """Return what early stopping and screening did and what their audits found; empty where they did nothing."""
    done = (_saved(view), _audit(view))
    parts = (*done, _bounds(view), _unlisted(view)) if any(done) else ()
    parts = (*parts, screening_sentence(view))
    return " ".join(part for part in parts if part)


def stopped_rows(view: StudyView) -> list[tuple[str, list[int]]]:
    """Return why trials were stopped, without their own numbers, with the trials' numbers, the most frequent first."""
    by_reason: dict[str, list[int]] = {}
    for trial in stopped_trials(view):
        # What stands in brackets differs from trial to trial.
        reason = (trial.reason or "no reason recorded").split(" (")[0]
        by_reason.setdefault(reason, []).append(trial.number)
    return sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[1]))


def stopped_trials(view: StudyView) -> list[TrialRecord]:
    """Return the trials that were stopped early, by number; those that ended on their first items among them."""
    return [trial for trial in view.trials if trial.state == "PRUNED"]


def _cut_trials(view: StudyView) -> list[TrialRecord]:
    """Return the trials that were stopped before the end of their recipes."""
    return [trial for trial in stopped_trials(view) if not trial.is_screened_out]


def audited_trials(view: StudyView) -> list[TrialRecord]:
    """Return the trials that the rule would have stopped, and that ran to their end to see whether it is right."""
    return [
        trial
        for trial in view.trials
        if trial.state == "COMPLETE"
        and any(each.outcome == "audit" and each.fidelity == 1 for each in trial.stopping)
    ]


def is_exceeded(view: StudyView, decision: StopDecision, trial: TrialRecord) -> bool | None:
    """Return whether a finished trial's last scores are better than a bound it was judged by, in any of them.

    None where none is better and one is missing: nobody knows.
    """
    is_high = {objective.name: objective.direction == "maximise" for objective in view.objectives}
    is_high |= {each.score: each.at_most is None for each in view.spec.constraints}
    final = trial.final_scores
    is_known = True
    for name, bound in decision.bounds.items():
        value = final[name].value if name in final else None
        is_known = is_known and value is not None
        if value is not None and (value > bound if is_high.get(name, True) else value < bound):
            return True
    return False if is_known else None


def _saved(view: StudyView) -> str:
    stopped = _cut_trials(view)
    if not stopped:
        return ""
    n_stages = sum(len(trial.recipe.stages) for trial in stopped)
    n_left = n_stages - sum(t.boundaries[-1].n_stages for t in stopped if t.boundaries)
    saved = tokens_text(sum(trial.saved_tokens for trial in stopped))
    verb = "was" if len(stopped) == 1 else "were"
    at_rungs = " or not to their end" if any(trial.open_rung for trial in stopped) else ""
    return (
        f"{count_text(len(stopped), 'trial')} {verb} stopped early: {n_left:,} of their {n_stages:,} stages did not "
        f"run{at_rungs}, which saved up to {saved} stage tokens."
    )


def _audit(view: StudyView) -> str:
    audited = audited_trials(view)
    if not audited:
        return ""
    n_front = sum(trial.number in view.front for trial in audited)
    n_judged, n_exceeded = _held_against(view, audited, ("audit",))
    return (
        f"Of {len(audited):,} audited (to be stopped, and run on all the same), {n_front:,} reached the front; "
        f"{n_exceeded:,} of their {count_text(n_judged, 'bound')} did not hold where the rule said stop."
    )


def _bounds(view: StudyView) -> str:
    """Return how many bounds of all finished trials did not hold: the share that the error rate speaks of.

    It speaks of all bounds, not of those where the rule says stop: a bound that came out too low is what stops a trial,
    so these fail more often. Bounds of stopped trials are not among them, since nobody knows what they would have met.
    """
    complete = [trial for trial in view.trials if trial.state == "COMPLETE"]
    n_judged, n_exceeded = _held_against(view, complete, ("go on", "audit"))
    if not n_judged:
        return ""
    return (
        f"Over all trials that ran to their end, {n_exceeded:,} of {count_text(n_judged, 'bound')} did not hold "
        f"({100 * n_exceeded / n_judged:.3g} %; {100 * view.spec.stopping.alpha:.3g} % may fail)."
    )


def _held_against(
    view: StudyView, trials: Sequence[TrialRecord], outcomes: Sequence[str]
) -> tuple[int, int]:
    """Return how many bounds can be held against last scores, and how many of them did not hold."""
    found = [
        is_exceeded(view, decision, trial)
        for trial in trials
        for decision in trial.stopping
        if decision.outcome in outcomes and decision.fidelity == 1
    ]
    known = [each for each in found if each is not None]
    return len(known), sum(known)


def _unlisted(view: StudyView) -> str:
    """Return which stopped trials ended on a model that would be on the front as a recipe of its own."""
    stopped = [trial for trial in _cut_trials(view) if keeps_goals(trial, view.spec)]
    rows = [(trial, trial_losses(trial, view.objectives)) for trial in stopped]
    rows = [(trial, losses) for trial, losses in rows if losses is not None]
    if not rows:
        return ""
    front = [trial_losses(trial, view.objectives) for trial in view.front_trials]
    losses_NK = np.array([losses for losses in [*front, *(losses for _, losses in rows)] if losses])
    is_on_N = front_mask(losses_NK)[-len(rows) :]
    numbers = [trial.number for (trial, _), is_on in zip(rows, is_on_N, strict=True) if is_on]
    if not numbers:
        return ""
    return (
        f"The last model of stopped {'trial' if len(numbers) == 1 else 'trials'} "
        f"{', '.join(str(number) for number in numbers)} is dominated by no front trial: a shorter recipe worth a look."
    )
