"""Several processes want one digest at the same moment: one of them gets it, each time."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from store_tools import Clock, digest_of, fill, put, taken

from search.store import Lease, StageStore, StaleLease

N_RACES, N_TAKEOVERS = 200, 50
fork = multiprocessing.get_context("fork")


def race(n_processes: int, target: Any, *arguments: Any) -> list[Any]:
    """Run target(number, barrier, *arguments) in several processes and return what they returned."""
    barrier, results = fork.Barrier(n_processes), fork.SimpleQueue()

    def run(number: int) -> None:
        outcome = None
        try:
            outcome = target(number, barrier, *arguments)
        finally:
            results.put((number, outcome))
        barrier.wait(30)  # who ends gives its leases up

    runners = [fork.Process(target=run, args=(number,)) for number in range(n_processes)]
    for runner in runners:
        runner.start()
    found = dict(results.get() for _ in runners)
    for runner in runners:
        runner.join(30)
        assert runner.exitcode == 0
    return [found[number] for number in range(n_processes)]


def win_leases(number: int, barrier: Barrier, root: Path) -> list[bool]:
    store = StageStore(root)
    won: list[bool] = []
    held: list[Lease] = []
    for turn in range(N_RACES):
        barrier.wait(30)
        lease = store.lease(digest_of(turn))
        won.append(lease is not None)
        if lease is not None:
            held.append(lease)
    assert all(lease.is_valid() for lease in held)
    return won


def test_of_two_processes_one_gets_the_lease_200_times(tmp_path: Path) -> None:
    StageStore(tmp_path)
    first, second = race(2, win_leases, tmp_path)
    assert [a + b for a, b in zip(first, second, strict=True)] == [1] * N_RACES
    assert 0 < sum(first) < N_RACES  # else they did not race


def win_takeovers(number: int, barrier: Barrier, root: Path) -> list[bool]:
    clock = Clock()
    store = StageStore(root, steady=clock)
    digests = [digest_of(turn) for turn in range(N_TAKEOVERS)]
    assert all(store.lease(digest) is None for digest in digests)
    clock.now += 120
    won = []
    for digest in digests:
        barrier.wait(30)
        won.append(store.lease(digest) is not None)
    return won


def test_of_four_processes_one_takes_an_expired_lease_over(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    lost = [taken(store, digest_of(turn)) for turn in range(N_TAKEOVERS)]
    winners = race(4, win_takeovers, tmp_path)
    assert [sum(turn) for turn in zip(*winners, strict=True)] == [1] * N_TAKEOVERS
    assert not any(lease.is_valid() for lease in lost)


def train_all(number: int, barrier: Barrier, root: Path) -> Counter[str]:
    store = StageStore(root)
    trained: Counter[str] = Counter()
    barrier.wait(30)
    for turn in range(40):
        digest = digest_of(turn)
        while store.find(digest) is None:
            lease = store.lease(digest)
            if lease is None:
                continue
            with lease.renewing(), store.scratch() as folder:
                trained[digest] += 1
                store.commit(lease, fill(folder, {"by": str(number).encode()}), {"seconds": 1})
    return trained


def test_four_processes_that_want_the_same_stages_train_each_once(tmp_path: Path) -> None:
    StageStore(tmp_path)
    trained = sum(race(4, train_all, tmp_path), Counter())
    assert trained == Counter({digest_of(turn): 1 for turn in range(40)})
    assert StageStore(tmp_path).verify() == []


def commit_or_take(number: int, barrier: Barrier, root: Path) -> list[str]:
    """Process 0 commits at the very moment at which process 1 takes its expired lease over."""
    clock = Clock()
    store = StageStore(root, steady=clock)
    outcomes = []
    for turn in range(60):
        digest = digest_of(turn)
        lease = taken(store, digest) if number == 0 else None
        barrier.wait(30)
        if lease is None:
            assert store.lease(digest) is None
            clock.now += 120
        barrier.wait(30)
        if lease is not None:
            with store.scratch() as folder:
                try:
                    store.commit(lease, fill(folder), {"seconds": 1})
                    outcomes.append("committed")
                except StaleLease:
                    outcomes.append("stale")
        else:
            outcomes.append("taken" if store.lease(digest) is not None else "refused")
        barrier.wait(30)
    return outcomes


def test_a_commit_and_a_takeover_at_the_same_moment_never_both_succeed(tmp_path: Path) -> None:
    StageStore(tmp_path)
    owner, taker = race(2, commit_or_take, tmp_path)
    pairs = Counter(zip(owner, taker, strict=True))
    assert set(pairs) <= {("committed", "refused"), ("stale", "taken")}
    store = StageStore(tmp_path)
    stored = sum(store.find(digest_of(turn)) is not None for turn in range(60))
    assert stored == pairs["committed", "refused"]
    assert store.verify() == []


def fetch_or_evict(number: int, barrier: Barrier, root: Path) -> list[str]:
    from search.store import NotStored

    store = StageStore(root)
    outcomes = []
    for turn in range(40):
        digest = digest_of(turn)
        barrier.wait(30)
        if number == 0:
            try:
                folder = store.fetch(digest)
                barrier.wait(30)  # the evictor is through
                outcomes.append("whole" if (folder / "weights.bin").exists() else "gone")
                continue
            except NotStored:
                outcomes.append("not stored")
        else:
            store.gc(0, idle_seconds=60)
        barrier.wait(30)
    return outcomes


def test_an_entry_that_is_being_fetched_is_not_evicted_under_its_reader(tmp_path: Path) -> None:
    long_ago = StageStore(tmp_path, clock=Clock(1000.0))
    for turn in range(40):
        put(long_ago, digest_of(turn))
    read, _ = race(2, fetch_or_evict, tmp_path)
    assert set(read) <= {"whole", "not stored"}
    assert "whole" in read
