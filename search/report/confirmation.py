"""What fresh seeds say of the front, in sentences and rows shared by report.html, report.md and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from search.confirmation.records import ConfirmedScore, ConfirmedTrial, NoiseFloor
from search.confirmation.selection import WITHOUT
from search.report.numbers import MISSING, count_text, number_text
from search.report.view import INTERVAL_STDERRS, StudyView

HEAD = ("trial", "score", "searched", "fresh seeds", "95 % interval", "gap", "seeds", "items")
"""Columns of `score_rows`."""
HOW = (
    "Each recipe was trained again with fresh seeds. The interval is over seeds and items; the searched value, which "
    "was the reason for the choice, does not enter it. The gap is how much better the search saw the trial than fresh "
    "seeds do: luck that came with being selected. Trials tie where no objective tells them apart (paired over items, "
    "Holm's correction over all pairs and objectives, 5 %)."
)
FRESH_ITEMS = (
    "Scores on fresh items come from rows of the selection, which neither training nor search saw: in them luck with "
    "the items is gone too, and gaps and ties are of them."
)


def how(view: StudyView) -> str:
    """Return how the table is to be read."""
    found = view.confirmation
    return f"{HOW} {FRESH_ITEMS if found is not None and found.has_fresh_items else f'{WITHOUT}.'}"


def confirmation_sentence(view: StudyView) -> str:
    """Return what was confirmed, in a few sentences; empty where nothing was."""
    found = view.confirmation
    if found is None:
        return ""
    trials = [trial for trial in found.trials if trial.number != found.base]
    text = f"{count_text(len(trials), 'trial')} trained again with {count_text(len(found.seeds), 'fresh seed')}."
    gaps = [
        f"{objective.name} {number_text(fmean(known))}"
        for objective in view.objectives
        if (known := _gaps(trials, objective.name))
    ]
    if gaps:
        text += f" Mean gap, above 0 where the search flattered them: {', '.join(gaps)}."
    pairs = {(trial.number, other) for trial in trials for other in trial.ties}
    n_ties = len({frozenset(pair) for pair in pairs if found.base not in pair})
    n_pairs = len(trials) * (len(trials) - 1) // 2
    if n_pairs:
        text += f" {n_ties:,} of {count_text(n_pairs, 'pair')} of them tie."
    left = sorted(view.front - {trial.number for trial in found.trials})
    if left:
        text += f" Not confirmed: {', '.join(str(number) for number in left)}."
    return text


def tie_note(view: StudyView, number: int) -> str | None:
    """Return which confirmed trials tie with this one; None if none does or it was not confirmed."""
    trial = view.confirmation.trial(number) if view.confirmation else None
    if trial is None or not trial.ties:
        return None
    assert view.confirmation is not None
    base = view.confirmation.base
    names = ["the base" if other == base else str(other) for other in trial.ties]
    return f"ties with {', '.join(names)}"


def score_rows(view: StudyView) -> list[tuple[str, ...]]:
    """Return one row per trial and score, columns as in `HEAD`: objectives, then the holdout."""
    found = view.confirmation
    if found is None:
        return []
    names = {objective.name for objective in view.objectives}
    return [
        _row(trial, score, is_base=trial.number == found.base)
        for trial in found.trials
        for score in trial.scores
        if score.is_holdout or score.name in names
    ]


def tie_rows(view: StudyView) -> list[tuple[str, str, str]]:
    """Return per confirmed trial its number, its recipe, and what it ties with and gains."""
    found = view.confirmation
    if found is None:
        return []
    rows = []
    for trial in found.trials:
        notes = [note for note in (tie_note(view, trial.number), _gain_note(view, trial)) if note]
        rows.append((str(trial.number), trial.label, "; ".join(notes)))
    return rows


def noise_rows(view: StudyView) -> list[tuple[str, str, str, str]]:
    """Return per score: its name, the standard deviation between seeds, its interval, and what two single trainings
    of one recipe differ by in 95 % of cases."""
    if view.confirmation is None:
        return []
    return [_noise_row(floor) for floor in view.confirmation.noise]


def missing_rows(view: StudyView) -> list[tuple[str, str, str]]:
    """Return trial, seed and reason of every replicate, or score of one, that is missing; each reason once."""
    if view.confirmation is None:
        return []
    rows = {
        (str(trial.number), str(seed), reason): None
        for trial in view.confirmation.trials
        for score in trial.scores
        for seed, reason in score.missing.items()
    }
    return list(rows)


def confirmation_lines(view: StudyView) -> Iterator[str]:
    """Yield the confirmation for a terminal, a fact a line."""
    yield confirmation_sentence(view)
    assert view.confirmation is not None
    if not view.confirmation.has_fresh_items:
        yield f"{WITHOUT}."
    names = {objective.name for objective in view.objectives}
    for trial in view.confirmation.trials:
        marks = [note for note in (tie_note(view, trial.number), _gain_note(view, trial)) if note]
        yield f"trial {trial.number}: {trial.label}" + (f" [{'; '.join(marks)}]" if marks else "")
        for score in trial.scores:
            if score.name in names and not score.is_holdout:
                is_base = trial.number == view.confirmation.base
                _, name, searched, fresh, interval, gap, seeds, _ = _row(trial, score, is_base)
                told = f", searched {searched}, gap {gap}, {seeds} seeds" if not is_base else ""
                yield f"  {name}: {fresh} ({interval}){told}"
    for number, seed, reason in missing_rows(view):
        yield f"missing: trial {number}, seed {seed}: {reason}"


def _noise_row(floor: NoiseFloor) -> tuple[str, str, str, str]:
    name = _name(floor)
    if floor.sd == 0:
        # As with shares of few items: no spread was seen, which is no proof that there is none.
        return name, "none seen", "", ""
    return (
        name,
        f"{number_text(floor.sd)} {floor.unit}",
        f"{number_text(floor.low)} to {number_text(floor.high)}",
        number_text(INTERVAL_STDERRS * 2**0.5 * floor.sd),
    )


def _row(trial: ConfirmedTrial, score: ConfirmedScore, is_base: bool) -> tuple[str, ...]:
    has_interval = score.low is not None and score.high is not None
    interval = f"{_number(score.low)} to {_number(score.high)}" if has_interval else "unknown"
    return (
        str(trial.number),
        _name(score),
        _number(score.searched),
        _number(score.value),
        interval,
        "" if is_base else _number(score.gap),
        "untrained" if is_base else str(score.n_seeds),
        str(score.n_items),
    )


def _name(score: ConfirmedScore | NoiseFloor) -> str:
    if score.is_selection:
        return f"{score.name} (fresh items)"
    return f"{score.name} (holdout)" if score.is_holdout else score.name


def _number(value: float | None) -> str:
    return MISSING if value is None else number_text(value)


def _gaps(trials: Sequence[ConfirmedTrial], name: str) -> list[float]:
    scores = [trial.score(name) for trial in trials]
    return [score.gap for score in scores if score is not None and score.gap is not None]


def _gain_note(view: StudyView, trial: ConfirmedTrial) -> str | None:
    gains = view.confirmed_gains(trial.number)
    if gains is None:
        return None
    return (
        f"gains on the base in {', '.join(gains)}" if gains else "no gain over the base confirmed"
    )
