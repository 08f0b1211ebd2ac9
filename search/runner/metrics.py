"""What Prometheus is told of a study, by way of Ray: the driver's node serves it on Ray's metrics port.

ray_apportion_trials{study, state}            ended, failed (of those) and running trials
ray_apportion_trained_tokens{study}           tokens trained
ray_apportion_compute_seconds{study}          seconds that trials took
ray_apportion_budget_left{study, part}        share of each part of the budget that is left, 0 to 1
ray_apportion_stage_seconds{study, influence} training time of stages, as a histogram
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from ray.util.metrics import Gauge, Histogram

from search.outcomes import Spent
from search.records import TrialRecord
from search.spec import BudgetSpec
from search.study import Study

EVERY_SECONDS = 5.0
"""Between two looks at the study."""
BOUNDS_SECONDS = [1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 36000.0]


class StudyMetrics:
    """Measures a study for Prometheus; make it once Ray runs. Where Ray has no metrics agent, nothing is served."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._looked_at = float("-inf")
        self._trials = Gauge(
            "apportion_trials", "Trials of a study by state.", tag_keys=("study", "state")
        )
        self._tokens = Gauge("apportion_trained_tokens", "Tokens trained.", tag_keys=("study",))
        self._compute = Gauge(
            "apportion_compute_seconds", "Seconds that trials took.", tag_keys=("study",)
        )
        self._left = Gauge(
            "apportion_budget_left", "Share of a budget that is left.", tag_keys=("study", "part")
        )
        self._stages = Histogram(
            "apportion_stage_seconds",
            "Training time of stages.",
            boundaries=BOUNDS_SECONDS,
            tag_keys=("study", "influence"),
        )

    def tick(self, n_running: int) -> None:
        """Look at the study, now and then.

        Args:
            n_running: Trials in training.
        """
        now = time.monotonic()
        if now - self._looked_at < EVERY_SECONDS:
            return
        self._looked_at = now
        spent, own = self._study.spent(), {"study": self._study.spec.name}
        counts = {"ended": spent.trials, "failed": spent.failed_trials, "running": n_running}
        for state, count in counts.items():
            self._trials.set(count, {**own, "state": state})
        self._tokens.set(spent.train_tokens, own)
        self._compute.set(spent.compute_seconds, own)
        for part, share in shares_left(self._study.budget, spent):
            self._left.set(share, {**own, "part": part})

    def ended(self, record: TrialRecord) -> None:
        """Take note of the stages that a trial has trained."""
        for stage in record.stages:
            if stage.spent_train_seconds > 0:
                tags = {"study": self._study.spec.name, "influence": stage.stage.influence}
                self._stages.observe(stage.spent_train_seconds, tags)


def shares_left(budget: BudgetSpec, spent: Spent) -> Iterator[tuple[str, float]]:
    """Yield each part of a budget with the share of it that is left, 0 to 1."""
    for part in ("trials", "train_tokens", "compute_seconds", "wall_seconds"):
        total = getattr(budget, part)
        if total is not None:
            yield part, max(0.0, 1.0 - getattr(spent, part) / total)
