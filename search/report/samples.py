"""Sample generations of the trials that a report shows in full, beside the base's for the same prompt."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.scores import Item
from search.records import TrialRecord
from search.report.view import StudyView

MAX_TRIALS = 60
"""Trials with generations in a report: base, front, baselines, then the others by number."""
PER_EVALUATOR = 6
"""Generations shown per evaluator."""
MAX_CHARACTERS = 1200
"""Longest text shown; the items files hold all of it."""


@dataclass(frozen=True)
class Sample:
    """One generation and the base's for the same prompt."""

    evaluator: str
    """Name of the evaluator."""
    index: int
    """Position in the evaluator's data."""
    is_holdout: bool
    """True for evaluators that the sampler never sees."""
    kind: str
    """Kind of prompt; empty where the source has none."""
    prompt: str
    """What was asked, shortened."""
    output: str
    """What the trial's model wrote, shortened."""
    values: dict[str, float]
    """The numbers that the item counted with."""
    base_output: str | None
    """What the base wrote, shortened; None where it was not asked the same."""
    base_values: dict[str, float]
    """The numbers of the base's item."""


def sampled_trials(view: StudyView) -> list[TrialRecord]:
    """Return the trials whose generations a report shows, at most `MAX_TRIALS`."""
    knee = [trial for trial in view.trials if trial.number == view.knee]
    baselines = [trial for trial in view.trials if trial.baseline is not None]
    rest = [trial for trial in view.trials if trial.state == "COMPLETE"]
    base = [view.base] if view.base else []
    wanted = [*base, *knee, *view.front_trials, *baselines, *rest]
    chosen = {trial.number: trial for trial in wanted if trial.boundaries}
    return list(chosen.values())[:MAX_TRIALS]


def load_samples(view: StudyView) -> dict[int, list[Sample]]:
    """Return sample generations by trial number; trials without generated items are left out."""
    base = _items(view, view.base) if view.base else {}
    samples = {}
    for trial in sampled_trials(view):
        items = base if view.base and trial.number == view.base.number else _items(view, trial)
        found = [_sample(key, item, base.get(key)) for key, item in items.items()]
        if found:
            samples[trial.number] = found
    return samples


Key = tuple[bool, str, int]


def _items(view: StudyView, trial: TrialRecord) -> dict[Key, Item]:
    """Return the first generated items of each evaluator at the last boundary."""
    folder = view.files.trial(trial.number)
    n_stages = trial.boundaries[-1].n_stages if trial.boundaries else 0
    chosen: dict[Key, Item] = {}
    n_by_evaluator: dict[tuple[bool, str], int] = {}
    for is_holdout in (False, True):
        for item in folder.read_items(n_stages, is_holdout):
            group = (is_holdout, item.evaluator)
            if item.output is None or n_by_evaluator.get(group, 0) >= PER_EVALUATOR:
                continue
            n_by_evaluator[group] = n_by_evaluator.get(group, 0) + 1
            chosen[(*group, item.index)] = item
    return chosen


def _sample(key: Key, item: Item, base: Item | None) -> Sample:
    same = base if base is not None and base.prompt == item.prompt else None
    return Sample(
        evaluator=item.evaluator,
        index=item.index,
        is_holdout=key[0],
        kind=item.kind or "",
        prompt=shortened(item.prompt or ""),
        output=shortened(item.output or ""),
        values=item.values,
        base_output=shortened(same.output or "") if same else None,
        base_values=same.values if same else {},
    )


def shortened(text: str) -> str:
    """Return a text cut to `MAX_CHARACTERS`, saying so."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} [... {len(text) - MAX_CHARACTERS:,} more characters]"
