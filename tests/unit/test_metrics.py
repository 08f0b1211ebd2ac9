"""What Prometheus hears of a study's budget."""

from __future__ import annotations

from search.outcomes import Spent
from search.runner.metrics import shares_left
from search.spec import BudgetSpec


def test_share_of_each_part_of_the_budget_that_is_left() -> None:
    spent = Spent(
        trials=3, failed_trials=1, train_tokens=500, compute_seconds=90.0, wall_seconds=130.0
    )
    budget = BudgetSpec(trials=4, train_tokens=400, wall_seconds=260.0)
    # One trial of four; more tokens than allowed, since a trial ends what it has begun; half of the time.
    assert dict(shares_left(budget, spent)) == {
        "trials": 0.25,
        "train_tokens": 0.0,
        "wall_seconds": 0.5,
    }
