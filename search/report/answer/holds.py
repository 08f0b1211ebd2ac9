"""Whether gains hold: fresh seeds, holdout, kinds that were held out."""

from __future__ import annotations

from search.records import TrialRecord
from search.report.analysis import Analysis
from search.report.answer.words import effects_text, listed, results_path
from search.report.gains import holdout_gains, shown_gains, shown_losses
from search.report.kinds import kind_rows
from search.report.numbers import count_text
from search.report.warnings import REPEATED


def holds(analysis: Analysis) -> str:
    """Return whether it holds: fresh seeds, holdout, kinds that were held out."""
    trial = analysis.recommended
    if trial is None:
        return "There is no recommended recipe whose gains could hold or not."
    parts = [
        _confirmed(analysis, trial),
        _held_out(analysis, trial),
        _imitated(analysis, trial),
        _hacked(analysis, trial),
    ]
    return " ".join(part for part in parts if part)


def _confirmed(analysis: Analysis, trial: TrialRecord) -> str:
    view = analysis.view
    gains = view.confirmed_gains(trial.number)
    confirmed = view.confirmation.trial(trial.number) if view.confirmation is not None else None
    if view.confirmation is None or confirmed is None or gains is None:
        return f"Not trained again with fresh seeds: `apportion confirm {results_path(view)}` does."
    seeds = count_text(len(view.confirmation.seeds), "fresh seed")
    text = (
        f"{seeds} confirm a gain on the base in {listed(list(gains))}"
        if gains
        else f"{seeds} confirm no gain over the base"
    )
    base = view.confirmation.base
    ties = [str(number) for number in confirmed.ties if number != base]
    if ties:
        text += f"; trial {trial.number} ties with {'trial' if len(ties) == 1 else 'trials'} {listed(ties)}"
    return f"{text}."


def _held_out(analysis: Analysis, trial: TrialRecord) -> str:
    view = analysis.view
    if not view.holdout:
        return "The study has no holdout, so whether gains are fitted to the search's own items is not known."
    effects = holdout_gains(analysis, trial)
    if not effects:
        return "The holdout was not measured of both trial and base."
    directions = {info.name: info.direction for info in view.holdout}
    gains, losses = shown_gains(effects, directions), shown_losses(effects, directions)
    told = []
    if gains:
        told.append(f"gains on the base in {effects_text(gains)}")
    if losses:
        told.append(f"loses in {effects_text(losses)}")
    n_same = len(effects) - len(gains) - len(losses)
    if not told:
        return f"On the holdout no difference from the base is shown in {count_text(len(effects), 'score')}."
    rest = f"; {n_same} of {len(effects)} holdout scores are not told apart" if n_same else ""
    return f"On the holdout it {' and '.join(told)}{rest}."


def _imitated(analysis: Analysis, trial: TrialRecord) -> str:
    own = [row for row in kind_rows(analysis.view) if row.trial.number == trial.number]
    if not own:
        return ""
    marked = [row.seen.name for row in own if row.imitates]
    if marked:
        return f"In {listed(marked)} it imitates: on kinds that were held out it gains less than on seen ones."
    return "On kinds that were held out it is not shown to do worse than on seen ones."


def _hacked(analysis: Analysis, trial: TrialRecord) -> str:
    own = [hack for hack in analysis.hacks if hack.trial == trial.number]
    if not own:
        return ""
    worst = max(own, key=lambda hack: hack.n_faulty / hack.n_replies)
    replies = count_text(worst.n_replies, "reply", "replies")
    verb = "" if worst.fault == REPEATED else "are "
    return f"Read its replies first: {worst.n_faulty:,} of {replies} to {worst.evaluator} {verb}{worst.fault}."
