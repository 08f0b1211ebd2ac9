"""What a reader must know before believing a report: replies that look hacked, scores that are missing, warnings.

A model can gain in a score by writing nothing, one thing over and over, or one thing whatever it is asked. Replies of
the front are therefore held beside the base's, evaluator by evaluator, whatever the evaluator itself makes of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evaluators.reply_specs import PatternSpec
from evaluators.rule_specs import ContainsRule, flat
from evaluators.scores import Item, Score
from evaluators.stats import share_estimate
from evaluators.texts import repetition, words_of
from search.messages import one_line
from search.records import TrialRecord
from search.report.numbers import count_text, number_text
from search.report.view import INTERVAL_STDERRS, StudyView, holdout_scores

MIN_SHARE = 0.25
"""Of replies with one fault: below it nothing is said."""
MAX_REPETITION = 0.5
"""Share of repeated 4-grams of words above which a reply repeats itself, as in `pattern`."""
MAX_TRIALS = 60
"""Front members whose replies are looked at."""
LISTED_TRIALS = 20
"""Numbers of trials in one line; the rest is counted."""
MAX_LINES = 20
"""Warnings of one sort; the rest is counted."""
MAX_CHARACTERS = 500
"""Of a reason."""
ALIKE_BY_NATURE = ("consistency", "refusal", "harness")
"""Evaluators of which many replies may be equal for good reasons."""

EMPTY, REPEATED, EQUAL = "empty", "repeat themselves", "equal to the reply to another prompt"


@dataclass(frozen=True)
class Hack:
    """Replies of one trial to one evaluator that have a fault far more often than the base's, in a trial that gains."""

    trial: int
    """Number of the trial."""
    evaluator: str
    """Name of the evaluator."""
    is_holdout: bool
    """Whether the sampler never sees it."""
    fault: str
    """What is wrong with the replies."""
    n_faulty: int
    """Replies with the fault."""
    n_replies: int
    """Replies of the trial."""
    base_faulty: int | None
    """Replies of the base with the fault; None where the base was not asked."""
    gains: tuple[str, ...]
    """Objectives, and scores of the evaluator, in which the trial is better than the base."""

    @property
    def place(self) -> str:
        """The evaluator, and whether it is of the holdout."""
        return f"{self.evaluator} (holdout)" if self.is_holdout else self.evaluator

    @property
    def text(self) -> str:
        """The warning in one line."""
        before = (
            "" if self.base_faulty is None else f" (of the base's, {self.base_faulty:,} are so)"
        )
        gained = f"what it gains ({', '.join(self.gains)}) may be had by that alone"
        replies = count_text(self.n_replies, "reply", "replies")
        return (
            f"Trial {self.trial} may be a reward hack: {self.n_faulty:,} of {replies} to evaluator {self.place} "
            f"{'' if self.fault == REPEATED else 'are '}{self.fault}{before}; {gained}. Read them."
        )


def warning_lines(view: StudyView) -> list[str]:
    """Return what to tell at the top of a report, a line each: hacks, missing scores, the study's own warnings."""
    sorts = (
        hack_texts(hacks(view)),
        [missing_text(score, reason, found) for (score, reason), found in missing(view).items()],
        study_warnings(view),
    )
    return [line for lines in sorts for line in _shortened(lines)]


def hacks(view: StudyView) -> list[Hack]:
    """Return what looks like hacks among the front: gains together with replies that collapsed."""
    base = view.base
    theirs = _replies(view, base) if base is not None else {}
    found = []
    for trial in view.front_trials[:MAX_TRIALS]:
        if not trial.recipe.stages:
            continue
        for (evaluator, is_holdout), items in _replies(view, trial).items():
            gains = _gains(view, trial, evaluator)
            if base is not None and not gains:
                continue
            before = theirs.get((evaluator, is_holdout))
            for fault, n_faulty, base_faulty in _collapsed(view, evaluator, items, before):
                found.append(
                    Hack(
                        trial.number,
                        evaluator,
                        is_holdout,
                        fault,
                        n_faulty,
                        len(items),
                        base_faulty,
                        gains or tuple(objective.name for objective in view.objectives),
                    )
                )
    return found


def hack_texts(found: Sequence[Hack]) -> list[str]:
    """Return a line for each fault in replies to an evaluator: of one trial with its figures, of several together."""
    alike: dict[tuple[str, bool, str], list[Hack]] = {}
    for hack in found:
        alike.setdefault((hack.evaluator, hack.is_holdout, hack.fault), []).append(hack)
    return [group[0].text if len(group) == 1 else _together(group) for group in alike.values()]


def _together(group: Sequence[Hack]) -> str:
    first = group[0]
    listed = ", ".join(str(hack.trial) for hack in group[:LISTED_TRIALS])
    more = f" and {len(group) - LISTED_TRIALS:,} more" if len(group) > LISTED_TRIALS else ""
    worst = max(group, key=lambda hack: hack.n_faulty / hack.n_replies)
    before = "" if worst.base_faulty is None else f"; of the base's, {worst.base_faulty:,} are so"
    gained = dict.fromkeys(gain.split(" ")[0] for hack in group for gain in hack.gains)
    return (
        f"Trials {listed}{more} may be reward hacks: many replies to evaluator {first.place} "
        f"{'' if first.fault == REPEATED else 'are '}{first.fault} (trial {worst.trial}: {worst.n_faulty:,} of "
        f"{worst.n_replies:,}{before}); what they gain ({', '.join(gained)}) may be had by that alone. Read them."
    )


def missing(view: StudyView) -> dict[tuple[str, str], list[int]]:
    """Return which scores of complete trials are missing and why, with the numbers of the trials."""
    found: dict[tuple[str, str], list[int]] = {}
    for trial in view.trials:
        if trial.state != "COMPLETE":
            continue  # Why a trial failed is told elsewhere.
        of_holdout = [(f"{name} (holdout)", each) for name, each in holdout_scores(trial).items()]
        for name, score in [*trial.final_scores.items(), *of_holdout]:
            if score.value is None:
                reason = score.reason or "no reason recorded"
                found.setdefault((name, reason), []).append(trial.number)
    return found


def missing_text(score: str, reason: str, numbers: Sequence[int]) -> str:
    """Return in one line which score is missing, where and why."""
    listed = ", ".join(map(str, numbers[:20]))
    more = f" and {len(numbers) - 20:,} more" if len(numbers) > 20 else ""
    many = "trial" if len(numbers) == 1 else "trials"
    return f"{score} is missing in {many} {listed}{more}: {one_line(reason)[:MAX_CHARACTERS]}"


def study_warnings(view: StudyView) -> list[str]:
    """Return what `check` warned of when the study was made, as study.json has it."""
    listed = view.study_file.get("warnings")
    if not isinstance(listed, list):
        return []
    texts = [one_line(text) for text in listed if isinstance(text, str)]
    return [f"Known before the first trial: {text[:MAX_CHARACTERS]}" for text in texts]


def _shortened(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:MAX_LINES]
    if len(lines) > MAX_LINES:
        yield f"... and {len(lines) - MAX_LINES:,} more of the kind of the line before."


def _replies(view: StudyView, trial: TrialRecord) -> dict[tuple[str, bool], list[Item]]:
    """Return the generated items of a trial's last boundary by evaluator, those of the holdout apart."""
    found: dict[tuple[str, bool], list[Item]] = {}
    n_stages = trial.boundaries[-1].n_stages if trial.boundaries else 0
    for is_holdout in (False, True):
        for item in view.files.trial(trial.number).read_items(n_stages, is_holdout):
            if item.output is not None:
                found.setdefault((item.evaluator, is_holdout), []).append(item)
    return found


def _gains(view: StudyView, trial: TrialRecord, evaluator: str) -> tuple[str, ...]:
    """Return which objectives, and which scores of an evaluator, are better than the base's."""
    if view.base is None:
        return ()
    signs = {objective.name: -objective.sign for objective in view.objectives}
    pairs = (
        (trial.final_scores, view.base.final_scores),
        (holdout_scores(trial), holdout_scores(view.base)),
    )
    found = []
    for own, theirs in pairs:
        for name, score in own.items():
            if name in signs or name.partition(".")[0] == evaluator:
                sign = signs.get(name, 1.0 if score.direction == "maximise" else -1.0)
                found += _gain(name, score, theirs.get(name), sign)
    return tuple(found)


def _gain(name: str, score: Score, before: Score | None, sign: float) -> list[str]:
    if score.value is None or before is None or before.value is None:
        return []
    if sign * (score.value - before.value) <= 0:
        return []
    return [f"{name} {number_text(score.value)}, the base {number_text(before.value)}"]


def _collapsed(
    view: StudyView, evaluator: str, items: Sequence[Item], before: Sequence[Item] | None
) -> Iterator[tuple[str, int, int | None]]:
    """Yield each fault that is frequent and far more so than in the base, with how often it is in both."""
    own = _faulty(items)
    theirs = None if before is None else _faulty(before)
    for fault, faulty in own.items():
        if fault == EQUAL and _is_alike_by_nature(view, evaluator):
            continue
        if sum(faulty) < MIN_SHARE * len(faulty):
            continue
        if theirs is None:
            yield fault, sum(faulty), None
        elif _is_more(faulty, theirs[fault]):
            yield fault, sum(faulty), sum(theirs[fault])


def _is_more(own: Sequence[bool], theirs: Sequence[bool]) -> bool:
    """Tell whether one share exceeds another by more than `INTERVAL_STDERRS` standard errors; never for single ones."""
    one, other = share_estimate(own), share_estimate(theirs)
    if one.stderr is None or other.stderr is None:
        return False
    return one.value - other.value > INTERVAL_STDERRS * math.hypot(one.stderr, other.stderr)


def _faulty(items: Sequence[Item]) -> Mapping[str, list[bool]]:
    """Return for each fault which replies have it."""
    words = [tuple(words_of(item.output or "")) for item in items]
    # Twice the same prompt rightly gets the same reply.
    asked = {(own, item.prompt) for own, item in zip(words, items, strict=True) if own}
    n_prompts = Counter(own for own, _ in asked)
    return {
        EMPTY: [not (item.output or "").strip() for item in items],
        REPEATED: [(repetition(own, 4) or 0.0) > MAX_REPETITION for own in words],
        EQUAL: [n_prompts[own] > 1 for own in words],
    }


def _is_alike_by_nature(view: StudyView, evaluator: str) -> bool:
    """Tell whether equal replies to different prompts are nothing odd: there are few answers, or the row has it."""
    spec = {**view.spec.holdout, **view.spec.full_suite}.get(evaluator)
    if spec is None or spec.evaluator in ALIKE_BY_NATURE:
        return True
    if not isinstance(spec, PatternSpec):
        return False
    return any(isinstance(rule, ContainsRule) and rule.field for rule in flat(spec.rules))
