"""The scheduler that asks a Study after every stage, and at every rung, whether the trial goes on.

Neither Ray Tune's schedulers nor Optuna's pruners stop trials by several objectives. What the worker of a stopped trial
has written stays as it is: Tune asks it for no further step, and the study records the end. A worker inside a stage
holds a model in training and a lease that others may wait for; it gets one more step, sees the end, and lets go.
"""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.runner.searcher import IS_IN_STAGE, NUMBER
from search.study import Study


class BoundaryScheduler(FIFOScheduler):  # type: ignore[misc]  # Ray ships no types
    """Runs trials in the order they were proposed, and stops those that the study's rule gives up."""

    # With buffered results the worker would be stages ahead of the decision.
    _supports_buffered_results = False

    def __init__(self, study: Study, deaths: dict[int, BaseException]) -> None:
        """Ask a study; put the errors of dead workers into `deaths`, by the number of the trial."""
        super().__init__()
        self._deaths = deaths
        self._study = study
        self._keeps_actors = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Let Tune keep as many idle actors as there are trials at a time.

        While the sampler waits for a trial, the other workers have nothing to do. Tune keeps one of them and stops the
        rest, and each new one would spend seconds on imports and on loading the base. It has no setting for this.
        """
        super().on_trial_add(tune_controller, trial)
        if not self._keeps_actors:
            self._keeps_actors = True
            n_actors = self._study.spec.compute.concurrent_trials
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, n_actors)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether a trial goes on after a boundary or rung; not called at its last one."""
        is_over = self._study.stop_early(trial.config[NUMBER]) and not result[IS_IN_STAGE]
        return str(TrialScheduler.STOP if is_over else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Take note of why a worker died; the searcher hears of the death next, and not of the reason."""
        error = trial.get_pickled_error()
        if error is not None:
            self._deaths[trial.config[NUMBER]] = error
        super().on_trial_error(tune_controller, trial)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's storage is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study's storage is the truth."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its scheduler into experiment state that is never read back."""
        return {}
