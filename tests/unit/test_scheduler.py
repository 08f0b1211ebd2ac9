"""The scheduler between Ray Tune and a study."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from ray.tune.utils.object_cache import _ObjectCache

from search.runner.scheduler import BoundaryScheduler
from search.study import Study


def scheduler_for(concurrent_trials: int) -> BoundaryScheduler:
    compute = SimpleNamespace(concurrent_trials=concurrent_trials)
    return BoundaryScheduler(
        cast(Study, SimpleNamespace(spec=SimpleNamespace(compute=compute))), {}
    )


def test_actors_that_wait_for_a_proposal_are_kept_as_many_as_run_at_a_time() -> None:
    # Tune's own cache, which keeps one idle actor unless it is told of more.
    controller: Any = SimpleNamespace(_actor_cache=_ObjectCache())
    trial: Any = SimpleNamespace(placement_group_factory="cpu", trial_id="1")
    scheduler = scheduler_for(3)
    scheduler.on_trial_add(controller, trial)
    scheduler.on_trial_add(controller, trial)
    assert [controller._actor_cache.cache_object("cpu", actor) for actor in range(4)] == [
        True,
        True,
        True,
        False,
    ]
    assert list(controller._actor_cache.flush_cached_objects()) == []
    assert list(controller._actor_cache.flush_cached_objects(force_all=True)) == [0, 1, 2]
