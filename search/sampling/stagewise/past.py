"""What Optuna's trials say about models, steps and seconds, read once per trial."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.sampling.stagewise.cost import CostModel
from search.sampling.stagewise.model import Observation, counts_of
from search.sampling.stagewise.tree import Node, Tree

Array = NDArray[np.float64]

NOT_TRAINED = "not_trained"
"""User attribute of a failed trial that nobody trained, since its recipe had been tried or is not legal."""
REASON = "reason"
"""User attribute of a failed trial: why."""
DIVERGED = ("not finite", "the loss is")
"""What the reason of a trial says whose training or scores diverged."""
MAX_FAULTS = 2
"""A recipe that failed so often, for whatever reason, is not tried again."""
BOUNDARIES = "boundaries"
"""User attribute of a trial: what was found after each number of stages, as `as_boundary` gives it."""


def as_boundary(
    n_stages: int,
    values: Sequence[float],
    violations: Mapping[str, float],
    train_seconds: float | None = None,
    evaluate_seconds: float | None = None,
    errors: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return one entry of a trial's attribute `boundaries`: a prefix of its recipe that was scored.

    Args:
        n_stages: Stages of the prefix.
        values: Its objectives, in the study's order.
        violations: By constraint, how far it is outside (above 0) or inside, as for `Trial.set_constraint`.
        train_seconds: Of its last stage; None if it was not trained in this trial.
        evaluate_seconds: Of the evaluation; None if it was not evaluated in this trial.
        errors: Of a model that was scored on part of the items: standard errors of its values, then of its violations
            in the order of their names. None: on all.
    """
    found = {
        "n_stages": n_stages,
        "values": list(values),
        "violations": dict(violations),
        "train_seconds": train_seconds,
        "evaluate_seconds": evaluate_seconds,
    }
    return found if errors is None else found | {"errors": list(errors)}


@dataclass
class Past:
    """Models, steps and costs seen so far. Losses: objectives, lower is better, then violations of constraints."""

    losses: dict[Node, Array] = field(default_factory=dict)
    """By model, in the order in which they were seen, shape (K + constraints,)."""
    screened: dict[Node, tuple[Array, Array]] = field(default_factory=dict)
    """By model that was scored on part of the items: losses, and their standard errors. Paths may start there, with
    that much doubt; on the front, and among what is had already, are models alone that were scored on all."""
    running: list[Node] = field(default_factory=list)
    """Recipes in training."""
    closed: set[Node] = field(default_factory=set)
    """Recipes that are not to be tried again: they failed, were stopped early, or are one that was tried."""
    observations: list[Observation] = field(default_factory=list)
    """Steps whose scores before and after are known."""
    cost: CostModel = field(default_factory=CostModel)
    n_faults: Counter[Node] = field(default_factory=Counter)
    """How often a recipe failed for a reason that says nothing of it, such as a dead worker."""

    def taken(self) -> set[Node]:
        """Return all models that are known, closed or in training."""
        on_the_way = {node[:n] for node in self.running for n in range(1, len(node) + 1)}
        return set(self.losses) | self.closed | on_the_way

    def known(self) -> list[Node]:
        """Return the models that have scores; those on all items first."""
        return [*self.losses, *(node for node in self.screened if node not in self.losses)]

    def scored(self, node: Node) -> tuple[Array, Array] | None:
        """Return a model's losses and their standard errors, 0 where all items were asked; None if it has none."""
        losses_C = self.losses.get(node)
        return self.screened.get(node) if losses_C is None else (losses_C, np.zeros_like(losses_C))


class Reader:
    """Turns trials into a Past; what it has read of trials that have ended it does not read again."""

    def __init__(self, tree: Tree) -> None:
        """Start without trials."""
        self._tree = tree
        self._past = Past()
        self._numbers: list[int] = []

    def past(self, study: optuna.Study, asked: int) -> Past:
        """Return what is known when trial number `asked` is proposed; valid until the next call."""
        trials = [
            trial
            for trial in study.get_trials(deepcopy=False)
            if trial.number != asked and trial.state != TrialState.WAITING
        ]
        ended = [trial for trial in trials if trial.state != TrialState.RUNNING]
        numbers = [trial.number for trial in ended]
        if numbers[: len(self._numbers)] != self._numbers:
            # A trial that was asked for before is asked for again, and must not see what came later.
            self._past, self._numbers = Past(), []
        signs_K = np.array(
            [-1.0 if each == StudyDirection.MAXIMIZE else 1.0 for each in study.directions]
        )
        for trial in ended[len(self._numbers) :]:
            self._read(trial, signs_K)
        self._numbers = numbers
        running = (self._node(trial) for trial in trials if trial.state == TrialState.RUNNING)
        self._past.running = [node for node in running if node is not None]
        return self._past

    def _read(self, trial: FrozenTrial, signs_K: Array) -> None:
        node = self._node(trial)
        if node is None:
            return
        self._add(self._past, node, _boundaries(trial, node), signs_K)
        if trial.state == TrialState.PRUNED or NOT_TRAINED in trial.user_attrs:
            self._past.closed.add(node)
        elif trial.state == TrialState.FAIL and _is_own_failure(trial):
            self._add_failure(self._past, node)
        elif trial.state == TrialState.FAIL:
            self._past.n_faults[node] += 1
            if self._past.n_faults[node] == MAX_FAULTS:
                self._past.closed.add(node)

    def _node(self, trial: FrozenTrial) -> Node | None:
        """Return a trial's recipe; None where its params are no recipe of this space."""
        try:
            return self._tree.node(trial.params)
        except (KeyError, ValueError):
            return None

    def _add(
        self, past: Past, node: Node, boundaries: Sequence[dict[str, Any]], signs_K: Array
    ) -> None:
        for found in boundaries:
            prefix = node[: found["n_stages"]]
            losses = [*(signs_K * found["values"]), *sorted_values(found["violations"])]
            if prefix and found["train_seconds"] is not None:
                dose_tokens = self._tree.dose_tokens(prefix[-1])
                past.cost.add_stage(prefix[-1].influence, dose_tokens, found["train_seconds"])
            past.cost.add_evaluation(found["evaluate_seconds"])
            if found.get("errors") is not None:
                if prefix not in past.losses and np.isfinite(losses).all():
                    past.screened[prefix] = np.array(losses), np.array(found["errors"])
                    self._observe(past, prefix)
                continue
            if prefix not in past.losses and np.isfinite(losses).all():
                past.losses[prefix] = np.array(losses)
                self._observe(past, prefix)

    def _add_failure(self, past: Past, node: Node) -> None:
        """Let the model learn where training fails: the failed stage counts as the worst that was seen."""
        prefix = next(
            (node[:n] for n in range(len(node)) if node[: n + 1] not in past.losses), None
        )
        if prefix is None or not node or prefix not in past.losses:
            return
        failed = node[: len(prefix) + 1]
        past.closed.add(failed)
        worst = np.max(list(past.losses.values()), axis=0)
        past.observations.append(
            Observation(past.losses[prefix], self._counts(prefix), failed[-1], worst)
        )

    def _observe(self, past: Past, node: Node) -> None:
        before, after = past.scored(node[:-1]) if node else None, past.scored(node)
        if before is None or after is None:
            return
        error = np.hypot(before[1], after[1])
        counts_I = self._counts(node[:-1])
        past.observations.append(
            Observation(before[0], counts_I, node[-1], after[0], error if error.any() else None)
        )

    def _counts(self, node: Node) -> Array:
        return counts_of(node, self._tree.influences)


def _is_own_failure(trial: FrozenTrial) -> bool:
    """Return whether a recipe failed by what it does: it diverged, or nobody gave another reason."""
    reason = str(trial.user_attrs.get(REASON, ""))
    return not reason or any(mark in reason for mark in DIVERGED)


def sorted_values(violations: Mapping[str, float]) -> list[float]:
    """Return violations in the order of their names."""
    return [violations[name] for name in sorted(violations)]


def _boundaries(trial: FrozenTrial, node: Node) -> list[dict[str, Any]]:
    """Return what a trial that has ended found, boundary by boundary; without the attribute, its values alone."""
    found = trial.user_attrs.get(BOUNDARIES)
    if found is not None:
        return [each for each in found if each["n_stages"] <= len(node)]
    if trial.state != TrialState.COMPLETE or not all(map(math.isfinite, trial.values)):
        return []
    return [as_boundary(len(node), trial.values, dict(trial.constraints))]
