"""Two trials, or a trial and the base, side by side, with a verdict that says nothing inside the noise. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.scores import Record
from search.compare.outputs import OutputDifference
from search.compare.recipes import StageDifference
from search.compare.scores import ScoreDifference


class Cost(Record):
    """What it takes to make a model from the base, whoever trained it."""

    n_stages: int
    """Stages."""
    trained_tokens: int
    """Tokens that the stages consumed, those from the stage store too."""
    train_seconds: float
    """Seconds in optimizer loops, when and where they were trained."""
    most_trainable: int
    """Parameters that moved, of the stage that moved most."""
    trial_seconds: float
    """Seconds that the trial itself took; what came from the stage store cost none."""


class Compared(Record):
    """Two models side by side; the second is judged beside the first."""

    a: str
    """Such as `trial 3`, or `the base`."""
    b: str
    """The second one."""
    a_recipe: str
    """In one line."""
    b_recipe: str
    """In one line."""
    stages: tuple[StageDifference, ...]
    """Of both recipes, aligned."""
    scores: tuple[ScoreDifference, ...]
    """Objectives first, the holdout last."""
    a_cost: Cost
    """Of the first one."""
    b_cost: Cost
    """Of the second one."""
    a_broken: tuple[str, ...]
    """Constraints that the first one does not keep."""
    b_broken: tuple[str, ...]
    """Those of the second one."""
    outputs: tuple[OutputDifference, ...]
    """Replies that differ most."""
    knows_training: bool
    """Whether intervals know how far trainings of one recipe lie apart."""
    notes: tuple[str, ...]
    """What a reader must know beside the numbers."""


def verdict(compared: Compared) -> list[str]:
    """Return what is shown, in sentences: objectives together, then other scores, then the holdout."""
    a, b = compared.a, compared.b
    objectives = [score for score in compared.scores if score.is_objective]
    others = [s for s in compared.scores if not s.is_objective and not s.is_holdout]
    holdout = [score for score in compared.scores if score.is_holdout]
    overall = _overall(objectives, a, b)
    if not compared.knows_training and any(s.verdict in ("better", "worse") for s in objectives):
        overall = f"As models, one training each: {overall[:1].lower()}{overall[1:]}"
    told = [overall]
    told += [_detail(score, b) for score in objectives if score.verdict in ("better", "worse")]
    unseen = [score for score in objectives if score.verdict == "no difference seen"]
    told += [_unseen(score) for score in unseen]
    told += [
        f"{score.name}: not compared, for {score.reason}."
        for score in objectives
        if score.verdict == "unknown"
    ]
    shown = [score for score in others if score.verdict in ("better", "worse")]
    if others:
        told += [_detail(score, b) for score in shown]
        if not shown:
            told.append(f"Of {_count(others)} beside the objectives none is shown to differ.")
    if holdout:
        found = [score for score in holdout if score.verdict in ("better", "worse")]
        told += [f"On the holdout: {_detail(score, b)}" for score in found]
        if not found:
            told.append(f"On the holdout none of {_count(holdout)} is shown to differ.")
    for name, broken in ((a, compared.a_broken), (b, compared.b_broken)):
        if broken:
            told.append(
                f"{_start(name)} does not keep {', '.join(broken)} (by its searched value)."
            )
    return told


def _overall(objectives: Sequence[ScoreDifference], a: str, b: str) -> str:
    better = [score.name for score in objectives if score.verdict == "better"]
    worse = [score.name for score in objectives if score.verdict == "worse"]
    rest = len(objectives) - len(better) - len(worse)
    others = f" In {_number(rest)} no difference is shown." if rest else ""
    if better and worse:
        return f"{_start(b)} and {a} trade: {b} is better in {_list(better)} and worse in {_list(worse)}.{others}"
    if better or worse:
        word = "better" if better else "worse"
        return f"{_start(b)} is {word} than {a} in {_list(better or worse)}.{others}"
    return f"{_start(b)} and {a} cannot be told apart: no objective differs beyond the noise."


def _detail(score: ScoreDifference, b: str) -> str:
    effect = score.difference
    assert effect is not None
    assert effect.low is not None
    assert effect.high is not None
    sizes = sorted(abs(each) for each in (effect.low, effect.high))
    return (
        f"{score.name}: {b} is {score.verdict} by {abs(effect.value):.3g} {score.unit} "
        f"({sizes[0]:.3g} to {sizes[1]:.3g})."
    )


def _unseen(score: ScoreDifference) -> str:
    effect = score.difference
    assert effect is not None
    assert effect.low is not None
    assert effect.high is not None
    return (
        f"{score.name}: the difference is {effect.value:+.3g} {score.unit}, and anything from {effect.low:+.3g} to "
        f"{effect.high:+.3g} fits what was measured."
    )


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _number(n: int) -> str:
    return "one objective" if n == 1 else f"{n} objectives"


def _count(scores: Sequence[ScoreDifference]) -> str:
    return "1 score" if len(scores) == 1 else f"{len(scores)} scores"
