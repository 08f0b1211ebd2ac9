"""Owners of leases in any order of events: takes, renewals, commits, deaths, waits, full disks, evictions.

A model beside the store knows who may train what; hypothesis looks for an order of events in which they differ. All
owners are one process here, so none is ever seen dead: their leases end by time, counted by whoever waits. Processes
that really die, and race: tests/faults/test_store_crash.py and test_store_race.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from store_tools import NEED_SPACE, Clock, content, digest_of, disk_full, failing_writes, fill

from search.store import Lease, NotStored, StageStore, StaleLease, StoreError

LEASE_SECONDS = 100.0
OWNERS = st.integers(0, 2)
DIGESTS = st.sampled_from([digest_of("a"), digest_of("b")])


@contextmanager
def dying_before_it_publishes() -> Iterator[None]:
    real = StageStore._publish
    StageStore._publish = lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        StageStore._publish = real  # type: ignore[method-assign]


class Owners(RuleBasedStateMachine):
    """Three owners, each with its own clock, and two stages."""

    root: Path
    """A new folder for each order of events."""

    @initialize()
    def begin(self) -> None:
        number = len(list(self.root.iterdir()))
        self.clocks = [Clock(), Clock(5.0), Clock(1e9)]
        self.stores = [
            StageStore(self.root / str(number), LEASE_SECONDS, clock=clock, steady=clock)
            for clock in self.clocks
        ]
        self.leases: dict[str, list[tuple[int, Lease]]] = {}
        """All leases ever taken of a digest, the newest last."""
        self.holder: dict[str, Lease | None] = {}
        """Whose right it is: the newest lease, until it is released, given up or has committed."""
        self.moves: dict[str, int] = {}
        """How often the digest's log has moved."""
        self.seen: dict[tuple[int, str], tuple[int, float]] = {}
        """What an owner saw of a lease that was not its own: how far the log was, and when, by its clock."""
        self.stored: dict[str, bytes] = {}
        """What was committed first, and is not evicted."""
        self.given_up: set[str] = set()
        """Tokens of leases whose release failed: their owner knows that they are over, the others wait."""

    def moved(self, digest: str) -> None:
        self.moves[digest] = self.moves.get(digest, 0) + 1

    def is_good(self, digest: str, lease: Lease) -> bool:
        return lease is self.holder.get(digest) and lease.token not in self.given_up

    def good_lease(self, digest: str) -> tuple[int, Lease] | None:
        return next(
            (each for each in self.leases.get(digest, []) if self.is_good(digest, each[1])), None
        )

    @rule(owner=OWNERS, digest=DIGESTS)
    def take(self, owner: int, digest: str) -> None:
        lease = self.stores[owner].lease(digest)
        if digest in self.stored:
            assert lease is None
            return
        holder, now = self.holder.get(digest), self.clocks[owner].now
        owned = {(owner, known.token) for owner, known in self.leases.get(digest, [])}
        if holder is None or (holder.token in self.given_up and (owner, holder.token) in owned):
            assert lease is not None
        else:
            move, since = self.seen.get((owner, digest), (-1, now))
            if move != self.moves[digest]:
                since = now
                self.seen[owner, digest] = (self.moves[digest], now)
            assert (lease is not None) == (now - since >= LEASE_SECONDS)
        if lease is not None:
            self.leases.setdefault(digest, []).append((owner, lease))
            self.holder[digest] = lease
            self.seen.pop((owner, digest), None)
            self.moved(digest)

    def any_lease(self, digest: str, at: int) -> tuple[int, Lease] | None:
        known = self.leases.get(digest, [])
        return known[-1 - at % len(known)] if known else None

    @rule(digest=DIGESTS, at=st.integers(0, 3))
    def renew(self, digest: str, at: int) -> None:
        found = self.any_lease(digest, at)
        if found is None:
            return
        if self.is_good(digest, found[1]):
            found[1].renew()
            self.moved(digest)
        else:
            with pytest.raises(StaleLease):
                found[1].renew()

    @rule(digest=DIGESTS, at=st.integers(0, 3))
    def release(self, digest: str, at: int) -> None:
        found = self.any_lease(digest, at)
        if found is None:
            return
        found[1].release()
        if self.is_good(digest, found[1]):
            self.holder[digest] = None
            self.moved(digest)

    @rule(
        digest=DIGESTS,
        at=st.integers(0, 3),
        dies=st.booleans(),
        data=st.binary(min_size=1, max_size=3),
    )
    def commit(self, digest: str, at: int, dies: bool, data: bytes) -> None:
        found = self.any_lease(digest, at)
        if found is None:
            return
        owner, lease = found
        store = self.stores[owner]
        with store.scratch() as folder:
            result = fill(folder, {"w": data})
            if self.is_good(digest, lease):
                if dies:
                    with dying_before_it_publishes():
                        store.commit(lease, result, {"seconds": 1})
                    assert store.find(digest) is None
                    # Anyone who asks for the lease publishes it.
                    assert self.stores[(owner + 1) % 3].lease(digest) is None
                else:
                    store.commit(lease, result, {"seconds": 1})
                self.holder[digest] = None
                self.moved(digest)
                self.stored[digest] = data
            else:
                try:
                    entry = store.commit(lease, result, {"seconds": 1})
                except StaleLease:
                    assert content(result) == {"w": data}
                else:  # its own commit again, which is what is stored
                    assert digest in self.stored
                    assert entry.files[0].size == len(self.stored[digest])

    @rule(digest=DIGESTS, from_call=st.integers(1, 40), data=st.binary(min_size=1, max_size=3))
    def commit_on_a_full_disk(self, digest: str, from_call: int, data: bytes) -> None:
        found = self.good_lease(digest)
        if found is None:
            return
        owner, lease = found
        store = self.stores[owner]
        with store.scratch() as folder:
            result = fill(folder, {"w": data})
            has_failed = False
            with failing_writes(NEED_SPACE, from_call, disk_full):
                try:
                    store.commit(lease, result, {"seconds": 1})
                except StoreError:
                    has_failed = True
            if not has_failed or not lease.is_valid():
                # The record of the commit was the last thing to need space: it is one, whatever failed behind it.
                self.holder[digest] = None
                self.moved(digest)
                self.stored[digest] = data
                assert store.lease(digest) is None
            else:
                assert content(result) == {"w": data}

    @rule(digest=DIGESTS)
    def release_on_a_full_disk(self, digest: str) -> None:
        found = self.good_lease(digest)
        if found is None:
            return
        with failing_writes(NEED_SPACE, 1, disk_full):
            found[1].release()
        self.given_up.add(found[1].token)

    @rule(owner=OWNERS, seconds=st.sampled_from([1.0, 50.0, 99.0, 100.0, 1000.0]))
    def wait(self, owner: int, seconds: float) -> None:
        self.clocks[owner].now += seconds

    @rule(owner=OWNERS)
    def evict(self, owner: int) -> None:
        gone = self.stores[owner].gc(0, idle_seconds=0)
        for entry in gone:
            del self.stored[entry.digest]
            self.moved(entry.digest)

    @invariant()
    def one_lease_is_valid_and_what_is_stored_is_what_was_committed(self) -> None:
        for digest, known in getattr(self, "leases", {}).items():
            valid = [lease for _, lease in known if lease.is_valid()]
            good = self.good_lease(digest)
            assert valid == ([good[1]] if good is not None else [])
            for store in self.stores:
                try:
                    assert content(store.fetch(digest)) == {"w": self.stored.get(digest)}
                except NotStored:
                    assert digest not in self.stored

    def teardown(self) -> None:
        for store in getattr(self, "stores", [])[:1]:
            assert store.verify() == []


@pytest.mark.parametrize("n_examples", [12, pytest.param(1000, marks=pytest.mark.slow)])
def test_in_any_order_of_events_one_owner_trains_and_the_first_commit_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_examples: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no power is cut here
    machine: Any = type("Machine", (Owners,), {"root": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=n_examples,
            stateful_step_count=30,
            derandomize=n_examples < 1000,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
