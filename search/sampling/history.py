"""What a sampler sees of a study. Which of several trials ends first is chance, and the sampler must not see it.

A proposal learns from all trials but the latest few; those look as if they were still in training, whatever their
state. So the same study and seed propose the same recipes on any number of workers, as long as training repeats itself.
"""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


class SamplerView(optuna.Study):
    """An Optuna study in which some trials look as if they were in training."""

    hidden: frozenset[int] = frozenset()
    """Numbers of the trials whose state and values the sampler must not see."""

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        # Optuna's samplers read their history through this method alone.
        trials = [
            _as_running(trial) if trial.number in self.hidden else trial
            for trial in super()._get_trials(deepcopy=deepcopy, use_cache=use_cache)
        ]
        return trials if states is None else [trial for trial in trials if trial.state in states]

    def get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        """Return trials as the sampler sees them."""
        return self._get_trials(*args, **kwargs)


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state = TrialState.RUNNING
    shown._values = None
    shown.datetime_complete = None
    return shown
