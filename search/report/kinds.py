"""Scores on kinds of rows that were trained and searched on, beside those on kinds that were held out.

The gap of a score is how much better it is on seen kinds than on unseen ones. The base has a gap too: unseen kinds may
be harder. A recipe whose gap is larger than the base's beyond chance has learnt something for the seen kinds that it
does not do elsewhere: it imitates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evaluators.scores import Score, ScoreInfo
from evaluators.stats import ratio_estimate, share_estimate
from evaluators.stats.terms import ItemTerms, item_terms
from search.data.parts import is_unseen
from search.data.spec import GeneralisationSpec
from search.records import TrialRecord
from search.report.numbers import interval_text, score_text
from search.report.view import INTERVAL_STDERRS, StudyView

IMITATES = "imitates"
"""Mark of a recipe whose gap exceeds the base's by more than `INTERVAL_STDERRS` standard errors."""
MAX_TRIALS = 40
"""Front members in the table."""


@dataclass(frozen=True)
class Gap:
    """How much better a score is on seen kinds than on unseen ones."""

    value: float
    """In the score's unit; above 0 it is better on seen kinds."""
    stderr: float | None
    """Standard error over items; None where one of the scores has none."""


@dataclass(frozen=True)
class KindRow:
    """One score of the holdout of one trial."""

    trial: TrialRecord
    """The trial."""
    seen: Score
    """Over items of seen kinds."""
    unseen: Score
    """Over items of unseen kinds."""
    gap: Gap | None
    """None where a score is missing."""
    base_gap: Gap | None
    """Of the untouched base; None where that is missing."""
    imitates: bool
    """Whether the gap exceeds the base's beyond chance."""

    @property
    def cells(self) -> tuple[str, ...]:
        """Score, seen, unseen, gap, gap of the base and mark, as text."""
        arrow = "\u2191" if self.seen.direction == "maximise" else "\u2193"
        return (
            f"{self.seen.name} {arrow}",
            f"{score_text(self.seen)} (n {self.seen.n})",
            f"{score_text(self.unseen)} (n {self.unseen.n})",
            _gap_text(self.gap),
            _gap_text(self.base_gap),
            IMITATES if self.imitates else "",
        )


HEADINGS = ("score", "seen kinds", "unseen kinds", "gap", "gap of the base", "")
"""Titles of `KindRow.cells`."""


def kind_rows(view: StudyView) -> list[KindRow]:
    """Return the holdout's scores by seen and unseen kinds: of the front, best first, then of the base.

    Empty where the study holds out no kinds, or the holdout has no items of both.
    """
    generalisation = view.spec.generalisation
    if generalisation is None:
        return []
    base_gaps = {}
    base_rows = [] if view.base is None else list(_split_scores(view, view.base, generalisation))
    for seen, unseen in base_rows:
        base_gaps[seen.name] = gap(seen, unseen)
    trials = list(view.front_trials[:MAX_TRIALS])
    if view.base is not None and view.base not in trials:
        trials.append(view.base)
    return [
        _row(view, trial, seen, unseen, base_gaps.get(seen.name))
        for trial in trials
        for seen, unseen in _split_scores(view, trial, generalisation)
    ]


def gap(seen: Score, unseen: Score) -> Gap | None:
    """Return how much better the first score is; the items are different ones, so the errors add up in squares."""
    if seen.value is None or unseen.value is None:
        return None
    sign = 1.0 if seen.direction == "maximise" else -1.0
    stderr = None
    if seen.stderr is not None and unseen.stderr is not None:
        stderr = math.hypot(seen.stderr, unseen.stderr)
    return Gap(sign * (seen.value - unseen.value), stderr)


def is_larger(own: Gap | None, base: Gap | None) -> bool:
    """Tell whether a gap exceeds the base's by more than `INTERVAL_STDERRS` standard errors.

    The two count as independent. They come from the same items, so the true standard error is mostly smaller: what is
    called larger here is so all the more. False where a standard error is missing: nobody knows.
    """
    if own is None or base is None or own.stderr is None or base.stderr is None:
        return False
    return own.value - base.value > INTERVAL_STDERRS * math.hypot(own.stderr, base.stderr)


def kinds_sentence(view: StudyView, rows: Sequence[KindRow]) -> str:
    """Return what was held out and which recipes imitate; empty where no kinds are held out."""
    generalisation = view.spec.generalisation
    if generalisation is None:
        return ""
    if not rows:
        return "Kinds are held out, and no holdout evaluator has items of both seen and unseen kinds yet."
    numbers = list(dict.fromkeys(row.trial.number for row in rows if row.imitates))
    found = "No recipe of the front does so beyond chance."
    if numbers:
        many = "trials" if len(numbers) > 1 else "trial"
        found = f"So it is with {many} {', '.join(map(str, numbers))}."
    return (
        "Training and search saw no rows of the unseen kinds. A gap is how much better a score is on seen kinds; a "
        f"recipe whose gap exceeds the base's by more than {INTERVAL_STDERRS:g} standard errors is marked: it "
        f"{IMITATES} what it saw. {found}"
    )


def leaks_sentence(view: StudyView) -> str:
    """Return which sources share rows by permission; empty where none may."""
    pairs = [f"{first} and {second}" for first, second in view.spec.allow_leaks]
    if not pairs:
        return ""
    return f"The study allows shared rows between {'; '.join(pairs)}: scores on them may be of what was memorised."


def _row(
    view: StudyView, trial: TrialRecord, seen: Score, unseen: Score, base_gap: Gap | None
) -> KindRow:
    own = gap(seen, unseen)
    is_base = view.base is not None and trial.number == view.base.number
    return KindRow(trial, seen, unseen, own, base_gap, not is_base and is_larger(own, base_gap))


def _split_scores(
    view: StudyView, trial: TrialRecord, generalisation: GeneralisationSpec
) -> Iterator[tuple[Score, Score]]:
    """Yield each score of the holdout over seen and over unseen kinds; none of evaluators that lack one of them."""
    if not trial.boundaries:
        return
    last = trial.boundaries[-1]
    items = list(view.files.trial(trial.number).read_items(last.n_stages, holdout=True))
    for score in last.holdout:
        own = [item for item in items if item.evaluator == score.name.partition(".")[0]]
        kinds = {item.index: item.kind for item in own if item.kind is not None}
        unseen = {index for index, kind in kinds.items() if is_unseen(kind, generalisation)}
        seen = kinds.keys() - unseen
        if seen and unseen:
            terms = item_terms(score, own)
            yield _over(score, terms, seen), _over(score, terms, unseen)


def _over(score: Score, terms: ItemTerms | None, indices: set[int]) -> Score:
    """Return a score over some of its items."""
    info = ScoreInfo(name=score.name, unit=score.unit, direction=score.direction)
    if score.value is None:
        return Score.missing(info, score.reason or "no reason recorded")
    if terms is None:
        return Score.missing(info, "its items do not give its value back")
    own = {index: term for index, term in terms.by_item.items() if index in indices}
    numerators = [term.numerator for term in own.values()]
    denominators = [term.denominator for term in own.values()]
    if sum(denominators) <= 0:
        return Score.missing(info, "it counts no such items")
    if score.unit == "share" and set(denominators) == {1.0}:
        estimate = share_estimate(numerators)
    else:
        prompts = [terms.clusters[index] for index in own]
        estimate = ratio_estimate(numerators, denominators, prompts)
    return Score(
        name=score.name,
        value=estimate.value,
        stderr=estimate.stderr,
        n=len(own),
        unit=score.unit,
        direction=score.direction,
    )


def _gap_text(found: Gap | None) -> str:
    return "not known" if found is None else interval_text(found.value, found.stderr)
