"""How much each parameter of a space matters for each objective, and for reaching the front: Optuna's PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from evaluators.scores import Direction, Record
from search.records import TrialRecord
from spaces.params import Choice, Float, Parameter
from spaces.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

TOP_SHARE = 0.1
"""The share of trials that counts as good, of those in the region."""
MIN_TOP = 5
"""Trials that Optuna's documentation asks for among the good ones."""


class Importances(Record):
    """Shares of parameters that sum to 1 in each column."""

    n_trials: int
    """Completed trials behind it."""
    n_top: int
    """Trials that count as good."""
    n_front: int
    """Trials on the front, of those behind it."""
    by_objective: dict[str, dict[str, float]]
    """Objective to parameter to importance for being among the good ones, over all trials."""
    front: dict[str, float]
    """Parameter to importance for being on the front."""
    warning: str | None
    """Why the figures are not to be relied on; None where trials suffice."""


def importances(
    space: Space,
    trials: Sequence[TrialRecord],
    objectives: Mapping[str, Direction],
    front: frozenset[int],
) -> Importances | None:
    """Return importances by PED-ANOVA; None with fewer than four trials, or nothing that varies.

    The measure is how the density of a parameter among the good trials differs from that among all. A parameter that
    exists in some recipes only counts by how often it does.
    Source: Watanabe et al. 2023 (arXiv 2304.10255); for conditional parameters arXiv 2601.20800.

    Args:
        space: The study's.
        trials: Completed, with params; those without stages are left out.
        objectives: Score to direction.
        front: Numbers of the trials on the front.
    """
    known = {each.name: each for each in (*space.order_parameters(), *space.parameters())}
    rows = [trial for trial in trials if trial.recipe.stages and _values(trial, objectives)]
    n_front = sum(trial.number in front for trial in rows)
    if len(rows) < 4 or not known:
        return None
    study = optuna.create_study(directions=["minimize"] * (len(objectives) + 1))
    for trial in rows:
        # A value that the space does not allow says nothing of the space.
        matched = {
            name: known[name].match(value) for name, value in trial.params.items() if name in known
        }
        params = {name: value for name, value in matched.items() if value is not None}
        study.add_trial(
            create_trial(
                params=params,
                distributions={name: _distribution(known[name]) for name in params},
                values=[*_values(trial, objectives), float(trial.number not in front)],
            )
        )
    n_top = max(2, round(TOP_SHARE * len(rows)), min(MIN_TOP, len(rows) // 3))
    by_objective = {
        name: _shares(study, at, n_top / len(rows)) for at, name in enumerate(objectives)
    }
    on_front = (
        _shares(study, len(objectives), n_front / len(rows)) if 0 < n_front < len(rows) else {}
    )
    thin = n_top < MIN_TOP or len(rows) < 5 * len(known)
    return Importances(
        n_trials=len(rows),
        n_top=n_top,
        n_front=n_front,
        by_objective=by_objective,
        front=on_front,
        warning=f"thin data: {len(rows)} trials for {len(known)} parameters, {n_top} of them count as good"
        if thin
        else None,
    )


def _shares(study: optuna.Study, at: int, top: float) -> dict[str, float]:
    with warnings.catch_warnings():
        # It warns that lower targets count as better, which is what is meant, and of rare parameters.
        warnings.simplefilter("ignore")
        return get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=min(0.999, top)),
            target=lambda trial: trial.values[at],
        )


def _values(trial: TrialRecord, objectives: Mapping[str, Direction]) -> list[float]:
    """Return the objectives as losses; empty if one is missing."""
    scores, losses = trial.final_scores, []
    for name, direction in objectives.items():
        value = scores[name].value if name in scores else None
        if value is None:
            return []
        losses.append(value if direction == "minimise" else -value)
    return losses


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    if isinstance(parameter, Choice):
        return optuna.distributions.CategoricalDistribution(parameter.choices)
    if isinstance(parameter, Float):
        return optuna.distributions.FloatDistribution(
            parameter.low, parameter.high, log=parameter.log, step=parameter.step
        )
    return optuna.distributions.IntDistribution(
        parameter.low, parameter.high, log=parameter.log, step=parameter.step
    )
