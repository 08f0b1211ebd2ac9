"""How long a study still takes, from what its trials took so far."""

from __future__ import annotations

from collections.abc import Sequence

from search.outcomes import Spent
from search.plan import Speeds, measured_speeds
from search.records import TrialRecord
from search.spec import BudgetSpec, StudySpec
from spaces.recipe import Recipe


def seconds_left(
    spec: StudySpec,
    budget: BudgetSpec,
    spent: Spent,
    in_flight: Sequence[tuple[Recipe, float]],
    records: Sequence[TrialRecord],
) -> float | None:
    """Return the estimated seconds until the budget ends, or None if nothing tells.

    From the mean duration of finished trials; before there are any, from the planned cost of the running ones.

    Args:
        spec: The study.
        budget: In force.
        spent: So far.
        in_flight: Recipes of running trials, with the seconds since each began.
        records: Of finished trials.
    """
    estimates = []
    if budget.trials is not None:
        items = spec.fidelity.items if spec.fidelity else 1.0
        speeds = measured_speeds(records, len(spec.stopping.used_rungs), items)
        mean = _mean_trial_seconds(records, in_flight, speeds)
        to_start = max(0, budget.trials - spent.trials - len(in_flight))
        left = sum(
            max(0.0, speeds.recipe_seconds(recipe) - elapsed) for recipe, elapsed in in_flight
        )
        if mean is not None:
            estimates.append((to_start * mean + left) / spec.compute.concurrent_trials)
    if budget.wall_seconds is not None:
        estimates.append(max(0.0, budget.wall_seconds - spent.wall_seconds))
    for used, total in (
        (spent.train_tokens, budget.train_tokens),
        (spent.compute_seconds, budget.compute_seconds),
    ):
        if total is not None and used:
            estimates.append(spent.wall_seconds * max(0.0, total / used - 1))
    return min(estimates, default=None)


def _mean_trial_seconds(
    records: Sequence[TrialRecord], in_flight: Sequence[tuple[Recipe, float]], speeds: Speeds
) -> float | None:
    recipes: list[Recipe] = [record.recipe for record in records if record.recipe.stages]
    recipes += [recipe for recipe, _ in in_flight]
    if not recipes:
        return None
    return sum(speeds.recipe_seconds(recipe) for recipe in recipes) / len(recipes)
