"""Scores of some of an evaluator's items, by the formulas on its card: what a report of kinds needs. No torch.

scores = subset_scores("taste", spec, [item for item in items if item.kind == "sums"])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from evaluators.base import score
from evaluators.reply_specs import PatternSpec
from evaluators.scores import Item, Score, ScoreInfo
from evaluators.spec import EvaluatorSpec, LikelihoodSpec, PreferenceSpec
from evaluators.stats import Estimate, mean_estimate, ratio_estimate, share_estimate

Rows = Sequence[Mapping[str, float]]


def subset_scores(name: str, spec: EvaluatorSpec, items: Sequence[Item]) -> tuple[Score, ...]:
    """Return an evaluator's scores over some of its items, with their standard errors.

    Args:
        name: Of the evaluator in its suite.
        spec: Of the evaluator.
        items: Some of those it returned.

    Returns:
        A score for each of `spec.infos(name)`; missing where there are no items, they lack values, or the evaluator's
        scores are not computed from items alone.
    """
    infos = spec.infos(name)
    formulas = _FORMULAS.get(type(spec))
    if formulas is None:
        return _missing(infos, f"{spec.evaluator} has no formula from items to scores")
    if not items:
        return _missing(infos, "there are no items")
    rows = [item.values for item in items]
    return tuple(
        _estimated(info, formula, rows) for info, formula in zip(infos, formulas, strict=True)
    )


def _estimated(info: ScoreInfo, formula: Callable[[Rows], Estimate], rows: Rows) -> Score:
    try:
        return score(info, formula(rows), len(rows))
    except KeyError as error:
        return Score.missing(info, f"an item has no value {error}")
    except (ValueError, ZeroDivisionError) as error:
        return Score.missing(info, f"items make no score ({error})")


def _missing(infos: Sequence[ScoreInfo], reason: str) -> tuple[Score, ...]:
    return tuple(Score.missing(info, reason) for info in infos)


def _passed(rows: Rows) -> Estimate:
    return share_estimate([row["passed"] for row in rows])


def _margins(rows: Rows) -> list[float]:
    return [
        row["chosen_nats"] / row["chosen_tokens"] - row["rejected_nats"] / row["rejected_tokens"]
        for row in rows
    ]


def _gains(rows: Rows) -> list[float]:
    return [
        (row["chosen_nats"] - row["base_chosen_nats"])
        - (row["rejected_nats"] - row["base_rejected_nats"])
        for row in rows
    ]


def _positive_share(values: Sequence[float]) -> Estimate:
    return share_estimate([0.5 if value == 0 else float(value > 0) for value in values])


def _bits_per_byte(rows: Rows) -> Estimate:
    return ratio_estimate(
        [row["nats"] / math.log(2) for row in rows], [row["bytes"] for row in rows]
    )


_FORMULAS: dict[type, tuple[Callable[[Rows], Estimate], ...]] = {
    PatternSpec: (_passed,),
    PreferenceSpec: (
        lambda rows: _positive_share(_margins(rows)),
        lambda rows: mean_estimate(_margins(rows)),
        lambda rows: mean_estimate(_gains(rows)),
        lambda rows: _positive_share(_gains(rows)),
    ),
    LikelihoodSpec: (_bits_per_byte,),
}
"""Spec to a formula for each of its scores, in the order of its infos."""
