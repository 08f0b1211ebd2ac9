"""Passes what Ray Tune tells its callbacks on to a Watcher."""

from __future__ import annotations

from typing import Any

from ray import tune

from search.runner.metrics import StudyMetrics
from search.runner.searcher import IS_IN_STAGE, N_BOUNDARIES, NUMBER
from search.runner.trackers import Trackers
from search.runner.watcher import Watcher
from search.study import Study


class WatchCallback(tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Tells a Watcher about finished stages and the passing of time."""

    def __init__(
        self, watcher: Watcher, study: Study, trackers: Trackers, metrics: StudyMetrics
    ) -> None:
        self._watcher = watcher
        self._metrics = metrics
        self._study = study
        self._trackers = trackers

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks into experiment state that is never read back."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Report a finished stage."""
        if not result[IS_IN_STAGE]:
            self._watcher.stage_done(trial.config[NUMBER], result[N_BOUNDARIES])
            record = self._study.folder.record_or_none(trial.config[NUMBER])
            if record is not None and record.boundaries:
                self._trackers.scored(record)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Report that time went by."""
        self._watcher.tick()
        self._metrics.tick(sum(trial.status == "RUNNING" for trial in trials))
