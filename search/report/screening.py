"""What scoring models on their first items saved in a study, and how often it was wrong, in sentences."""

from __future__ import annotations

from search.records import TrialRecord
from search.report.numbers import count_text
from search.report.view import StudyView


def screening_sentence(view: StudyView) -> str:
    """Return how many models were scored on their first items alone, and what the audit found; empty without any."""
    screened = [trial for trial in view.trials if trial.last_screening is not None]
    if not screened:
        return ""
    given_up = [trial for trial in screened if trial.is_screened_out]
    share = min(trial.last_screening.fidelity for trial in screened if trial.last_screening)
    audited = [trial for trial in screened if any(_is_audit(trial))]
    text = (
        f"Of {count_text(len(screened), 'recipe')} whose last model was scored on {100 * share:.3g} % of the items "
        f"first, {len(given_up):,} could not reach the front, or not keep a constraint, even at the optimistic ends of "
        f"their intervals, and ended there; their scores are in trials.csv and on no front."
    )
    if not audited:
        return text
    n_front = sum(trial.number in view.front for trial in audited)
    return (
        f"{text} Of {len(audited):,} audited (to end there, and scored on all items all the same), {n_front:,} "
        f"reached the front."
    )


def _is_audit(trial: TrialRecord) -> list[bool]:
    return [each.outcome == "audit" and each.fidelity < 1 for each in trial.stopping]
