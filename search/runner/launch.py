"""Launch a study on Ray: start or join a cluster, place trials, drive Tune until the budget is met."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from dataclasses import dataclass
from typing import Any

from search.errors import StudyError
from search.records import TrialRecord
from search.runner.trackers import open_trackers
from search.runner.watcher import Watcher
from search.running_spec import ComputeSpec
from search.study import Study


@dataclass(frozen=True)
class Outcome:
    """How a launch ended."""

    stop_reason: str
    """Why no further trial was started."""


def run_study(study: Study, watcher: Watcher) -> Outcome:
    """Run a study until its budget is met; KeyboardInterrupt leaves it resumable.

    Trials that run when Ray is stopped stay RUNNING in the storage; the next launch adopts them.
    """
    compute = study.spec.compute
    _prepare_environment(compute)
    import ray
    from ray import tune

    from search.runner.callback import WatchCallback
    from search.runner.scheduler import BoundaryScheduler
    from search.runner.searcher import StudySearcher
    from search.runner.trainable import RecipeTrainable

    trackers = open_trackers(
        study.spec.callbacks, study.spec.name, study.folder.path, study.root, watcher.warn
    )
    # What Ray has to say of a dead worker is said in one line by the study.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="apportion-tune-") as scratch:
        # Workers look for modules where the driver started; a folder named `spaces` there would be taken for ours.
        with contextlib.chdir(scratch):
            ray.init(
                address="local",
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=True,
            )
        try:
            trainable = tune.with_parameters(
                RecipeTrainable,
                spec=study.spec,
                root=str(study.root),
                folder=str(study.folder.path),
                token=study.hold_token,
            )
            deaths: dict[int, BaseException] = {}

            def told_end(record: TrialRecord) -> None:
                watcher.finished(record)
                trackers.ended(record)

            tuner = tune.Tuner(
                tune.with_resources(trainable, _resources(compute, ray.cluster_resources())),
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
                    callbacks=[WatchCallback(watcher, study, trackers)],
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
            ray.shutdown()
    return Outcome(study.stop_reason or "no reason recorded")


def _prepare_environment(compute: ComputeSpec) -> None:
    """Set what Ray and torch read from the environment; workers inherit it."""
    # Spinning threads of two processes on a busy machine slow each other down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = str(compute.threads_per_trial)
    # Ray runs workers at nice 15, behind everything else on the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # An interrupt must reach the driver as KeyboardInterrupt: Tune's own handler would report running trials as done.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "PYTHONPATH" in os.environ:
        # Workers start in another folder, and must find the user's evaluators where this process does.
        parts = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in parts if part)
    if compute.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Ray's control service listens on every interface; without a token anyone who reaches it could run code.
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _resources(compute: ComputeSpec, cluster: dict[str, Any]) -> dict[str, float]:
    """Return what Ray reserves for a trial; a GPU only where the cluster has one and the study wants it.

    Raises:
        StudyError: The cluster can never start one trial.
    """
    resources = {"cpu": compute.cpus_per_trial}
    if compute.device == "cuda" or (compute.device == "auto" and cluster.get("GPU", 0) > 0):
        resources["gpu"] = compute.gpus_per_trial
    for name, wanted in resources.items():
        there = float(cluster.get(name.upper(), 0))
        if wanted > there:
            raise StudyError(
                f"compute.{name}s_per_trial is {wanted:g}, but there are {there:g} {name.upper()}s; lower it in "
                "study.yaml (of a study that has begun: in its results folder)"
            )
    return resources
