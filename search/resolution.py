"""How finely a suite can tell models apart: items, expected standard errors, items wanted. No torch, no scipy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass

from evaluators.scores import Score
from evaluators.spec import EvaluatorSpec
from evaluators.stats.resolution import WORST_SHARE_SD, items_needed, mean_stderr
from search.records import TrialRecord
from search.spec import StudySpec


@dataclass(frozen=True)
class Resolution:
    """What one objective can show."""

    score: str
    """Name of the objective."""
    unit: str
    """As in `ScoreInfo`."""
    n_items: int | None
    """Items of its evaluator; None where only measuring tells."""
    stderr: float | None
    """Standard error to expect of one model's score; None where nothing tells it."""
    items_needed: int | None
    """Items that show a true difference of the wanted resolution between two models with power 0.8, if the two answer
    unlike each other, which is the worst case."""
    is_measured: bool
    """Whether the spread between items comes from trials; else it is that of a share of one half."""


def resolutions(
    spec: StudySpec, sources: Mapping[str, Sized], records: Iterable[TrialRecord], wanted: float
) -> tuple[Resolution, ...]:
    """Return what each objective can show.

    A share's spread between items is taken at its worst, one half. Of other scores only trials tell: the median over
    trials of standard error times the root of n.

    Args:
        spec: The study.
        sources: Rows by name, of those that were read.
        records: Trials of this study; may be none.
        wanted: Difference that must be seen, in the unit of each score.
    """
    infos = spec.score_infos
    measured = [record.final_scores for record in records]
    found = []
    for objective in spec.objectives:
        info = infos[objective.score]
        evaluator = _evaluator(spec, objective.score)
        scores = [score for each in measured if (score := each.get(objective.score)) is not None]
        n_items = scores[0].n if scores and scores[0].n else _n_items(evaluator, sources)
        item_sd = WORST_SHARE_SD if info.unit == "share" else _item_sd(scores)
        found.append(
            Resolution(
                score=objective.score,
                unit=info.unit,
                n_items=n_items,
                stderr=mean_stderr(item_sd, n_items) if n_items and item_sd is not None else None,
                items_needed=items_needed(wanted, item_sd) if item_sd is not None else None,
                is_measured=info.unit != "share" and item_sd is not None,
            )
        )
    return tuple(found)


def _evaluator(spec: StudySpec, score: str) -> EvaluatorSpec:
    for name, evaluator in spec.full_suite.items():
        if any(info.name == score for info in evaluator.infos(name)):
            return evaluator
    raise KeyError(score)


def _n_items(evaluator: EvaluatorSpec, sources: Mapping[str, Sized]) -> int | None:
    """Return the rows that an evaluator uses; None for those that bring their own data and set no limit."""
    limit: int | None = getattr(evaluator, "limit", None)
    names = [name for name, _ in evaluator.sources()]
    if not names:
        return limit
    if names[0] not in sources:
        return limit  # On the hub: nobody has counted yet.
    n_rows = len(sources[names[0]])
    return n_rows if limit is None else min(n_rows, limit)


def _item_sd(scores: Iterable[Score]) -> float | None:
    spreads = sorted(
        score.stderr * math.sqrt(score.n)
        for score in scores
        if score.stderr is not None and score.stderr > 0
    )
    return spreads[len(spreads) // 2] if spreads else None
