"""What a model that was scored on its first items may reach on all of them: optimistic ends of intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluators.scores import Score
from search.stopping.past import Gains, Goals


def optimistic_gains(scores: Sequence[Score], goals: Goals, alpha: float) -> Gains | None:
    """Return gains, shape (K,), that those on all items exceed anywhere with a probability of about alpha at most.

    Of N items n were asked. Their mean differs from that of all N by s / sqrt(n) * sqrt(1 - n / N) as one standard
    error: the finite population correction (Cochran 1977, Sampling Techniques, 3rd edition, section 2.6). The bound is
    Student's quantile, n - 1 degrees of freedom, one-sided, alpha split over the columns that rest on part of the
    items (Bonferroni). A share stays in [0, 1].

    Args:
        scores: Of a suite, each with its fidelity n / N.
        goals: Which of them count, and which way is better.
        alpha: Error rate over all columns.

    Returns:
        None where a score is missing, or has no standard error and rests on part of the items.
    """
    from evaluators.stats.intervals import t_quantile  # late: scipy

    by_name = {score.name: score for score in scores}
    names = [*goals.objectives, *(constraint.score for constraint in goals.constraints)]
    gains_K = goals.gains(by_name)
    if gains_K is None:
        return None
    columns = [by_name[name] for name in names]
    n_partial = sum(score.fidelity < 1 for score in columns)
    above = []
    for score in columns:
        if score.fidelity >= 1:
            above.append(0.0)
        elif score.stderr is None or score.n < 2:
            return None
        else:
            quantile = t_quantile(score.n - 1, 1 - 2 * alpha / n_partial)
            above.append(quantile * score.stderr * math.sqrt(1 - score.fidelity))
    for at, score in enumerate(columns):
        if score.unit == "share" and score.value is not None:
            is_high = _is_better_high(goals, at)
            above[at] = min(above[at], 1 - score.value if is_high else score.value)
    return np.asarray(gains_K + np.array(above))


def _is_better_high(goals: Goals, at: int) -> bool:
    if at < goals.n_objectives:
        return goals.signs[at] > 0
    return goals.constraints[at - goals.n_objectives].at_most is None
