"""Launch a study on Ray: start or join a cluster, place trials, drive Tune until the budget is met."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from search.records import TrialRecord
from search.runner.cluster import connected
from search.runner.placement import trial_resources
from search.runner.trackers import open_trackers
from search.runner.watcher import Watcher
from search.study import Study

TUNE = ".tune-"
"""How the folder begins that Tune uses in the results of a study on a cluster."""


@dataclass(frozen=True)
class Outcome:
    """How a launch ended."""

    stop_reason: str
    """Why no further trial was started."""


def run_study(study: Study, watcher: Watcher, address: str | None) -> Outcome:
    """Run a study until its budget is met; KeyboardInterrupt leaves it resumable.

    Trials that run when Ray is stopped stay RUNNING in the storage; the next launch adopts them.

    Args:
        study: What to run.
        watcher: Is told what happens.
        address: What `search.runner.cluster.prepare` returned: a cluster to join, None for a Ray of our own.
    """
    compute = study.spec.compute
    import ray
    from ray import tune

    from search.runner.callback import WatchCallback
    from search.runner.metrics import StudyMetrics
    from search.runner.probe import check_nodes
    from search.runner.scheduler import BoundaryScheduler
    from search.runner.searcher import StudySearcher
    from search.runner.trainable import RecipeTrainable

    trackers = open_trackers(
        study.spec.callbacks, study.spec.name, study.folder.path, study.root, watcher.warn
    )
    # What Ray has to say of a dead worker is said in one line by the study.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with (
        _scratch(None if address is None else study.folder.path) as scratch,
        connected(address, Path(scratch)),
    ):
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            wanted = trial_resources(compute, [node["Resources"] for node in nodes])
            if address is not None:
                check_nodes(study, nodes, wanted)
            trainable = tune.with_parameters(
                RecipeTrainable,
                spec=study.spec,
                root=str(study.root),
                folder=str(study.folder.path),
                token=study.hold_token,
            )
            deaths: dict[int, BaseException] = {}
            metrics = StudyMetrics(study)

            def told_end(record: TrialRecord) -> None:
                watcher.finished(record)
                trackers.ended(record)
                metrics.ended(record)

            tuner = tune.Tuner(
                tune.with_resources(trainable, wanted),
                tune_config=tune.TuneConfig(
                    search_alg=StudySearcher(
                        study, watcher.started, told_end, watcher.retried, deaths
                    ),
                    scheduler=BoundaryScheduler(study, deaths),
                    num_samples=-1,
                    max_concurrent_trials=compute.concurrent_trials,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=study.spec.name,
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[WatchCallback(watcher, study, trackers, metrics)],
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            )
            try:
                tuner.fit()
            except Exception:
                study.check_held()  # If it is lost, that is why the rest failed.
                raise
        finally:
            trackers.close()
    return Outcome(study.stop_reason or "no reason recorded")


def _scratch(shared: Path | None) -> tempfile.TemporaryDirectory[str]:
    """Return a folder for what Tune writes and nobody reads; on a cluster all machines must see it."""
    if shared is None:
        return tempfile.TemporaryDirectory(prefix="apportion-tune-")
    for left_over in shared.glob(f"{TUNE}*"):
        shutil.rmtree(left_over, ignore_errors=True)  # of a driver that was killed
    return tempfile.TemporaryDirectory(prefix=TUNE, dir=shared, ignore_cleanup_errors=True)
