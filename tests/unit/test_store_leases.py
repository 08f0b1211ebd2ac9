"""Leases: one owner at a time, dead owners' end, stale owners' powerlessness; whatever the clocks say."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from store_tools import FILES, Clock, content, digest_of, fill, put, taken

from search.store import Lease, StageStore, StaleLease, StoreError, process

A, B = digest_of("a"), digest_of("b")


def stores(root: Path, *steady: Clock, lease_seconds: float = 120) -> list[StageStore]:
    """Return stores of several owners on one root, each with its own clock."""
    return [
        StageStore(root, lease_seconds, steady=clock, owner=f"owner {number}")
        for number, clock in enumerate(steady)
    ]


def overtaken(root: Path) -> tuple[StageStore, Lease, StageStore, Lease]:
    """Return an owner with the lease it lost and another one with the lease it took over."""
    clock = Clock()
    slow, fast = stores(root, Clock(), clock)
    lost = taken(slow, A)
    assert fast.lease(A) is None
    clock.now += 120
    return slow, lost, fast, taken(fast, A)


def test_a_lease_excludes_everybody_until_it_is_released(tmp_path: Path) -> None:
    first, second = stores(tmp_path, Clock(), Clock())
    lease = taken(first, A)
    assert second.lease(A) is None
    assert first.lease(A) is None
    assert second.lease(B) is not None
    lease.release()
    assert not lease.is_valid()
    assert taken(second, A).is_valid()


def test_a_stored_digest_is_not_leased_again(tmp_path: Path) -> None:
    first, second = stores(tmp_path, Clock(), Clock())
    put(first, A)
    assert second.lease(A) is None
    assert second.find(A) is not None


def test_tokens_differ_and_count_on(tmp_path: Path) -> None:
    (store,) = stores(tmp_path, Clock())
    first = taken(store, A)
    first.release()
    second = taken(store, A)
    assert [lease.token.rpartition("-")[2] for lease in (first, second)] == ["1", "3"]
    assert first.token != second.token


def test_one_who_comes_too_late_with_an_old_view_gets_nothing(tmp_path: Path) -> None:
    late, other = stores(tmp_path, Clock(), Clock())
    taken(other, A).release()
    old_view = late._log.head(A)  # counter 2, free
    for _ in range(2):
        taken(other, A).release()
    held = taken(
        other, A
    )  # counter 7; the records before it are gone, so number 3 could be written
    assert late._log.take(A, old_view, lambda: None) is None
    assert held.is_valid()
    held.renew()
    assert late.lease(A) is None


def test_a_silent_owner_loses_its_lease_after_lease_seconds_of_waiting(tmp_path: Path) -> None:
    clock = Clock()
    first, second = stores(tmp_path, Clock(), clock)
    lease = taken(first, A)
    assert second.lease(A) is None
    clock.now += 119.9
    assert second.lease(A) is None
    assert lease.is_valid()
    clock.now += 0.1
    assert second.lease(A) is not None
    assert not lease.is_valid()


def test_the_waiting_starts_anew_with_each_renewal(tmp_path: Path) -> None:
    clock = Clock()
    first, second = stores(tmp_path, Clock(), clock)
    lease = taken(first, A)
    for _ in range(5):
        assert second.lease(A) is None
        clock.now += 119
        lease.renew()
    assert second.lease(A) is None
    assert lease.is_valid()


def test_a_lease_lives_as_long_as_its_owner_said(tmp_path: Path) -> None:
    clock = Clock()
    (long,) = stores(tmp_path, Clock(), lease_seconds=1000)
    (short,) = stores(tmp_path, clock, lease_seconds=10)
    taken(long, A)
    assert short.lease(A) is None
    clock.now += 999
    assert short.lease(A) is None
    clock.now += 1
    assert short.lease(A) is not None


@pytest.mark.parametrize("skew_seconds", [-3600.0, 3600.0])
def test_clocks_that_differ_by_an_hour_change_nothing(tmp_path: Path, skew_seconds: float) -> None:
    here, there = Clock(1_000_000.0), Clock(1_000_000.0 + skew_seconds)
    first = StageStore(tmp_path, clock=here, steady=here)
    second = StageStore(tmp_path, clock=there, steady=there)
    lease = taken(first, A)
    for _ in range(20):  # a live owner, renewed in time, for 20 minutes
        assert second.lease(A) is None
        here.now += 60
        there.now += 60
        lease.renew()
    assert second.lease(A) is None
    there.now += 119
    assert second.lease(A) is None
    there.now += 1  # now it was silent for two minutes by the waiter's own clock
    assert second.lease(A) is not None
    with pytest.raises(StaleLease):
        lease.renew()


def test_a_stale_owner_cannot_commit_renew_or_release(tmp_path: Path) -> None:
    slow, lost, fast, new = overtaken(tmp_path)
    with pytest.raises(StaleLease, match="look for its result"):
        lost.renew()
    with slow.scratch() as folder:
        result = fill(folder, {"stale": b"1"})
        with pytest.raises(StaleLease):
            slow.commit(lost, result, {"seconds": 1})
        assert content(result) == {"stale": b"1"}
    lost.release()
    assert new.is_valid()
    assert fast.find(A) is None
    with fast.scratch() as folder:
        fast.commit(new, fill(folder), {"seconds": 1})
    assert content(slow.fetch(A)) == FILES
    with slow.scratch() as folder, pytest.raises(StaleLease):
        slow.commit(lost, fill(folder, {"stale": b"1"}), {"seconds": 1})
    assert content(slow.fetch(A)) == FILES
    assert slow.verify() == []


def test_an_owner_overtaken_while_it_hashes_cannot_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    slow, fast = stores(tmp_path, Clock(), clock)
    lease = taken(slow, A)
    taken_over: list[Lease] = []
    real = os.replace

    def overtake(source: str, target: str) -> None:
        # The last write before the commit is decided.
        real(source, target)
        if not taken_over and target.endswith(".json"):
            assert fast.lease(A) is None
            clock.now += 120
            taken_over.append(taken(fast, A))

    monkeypatch.setattr(os, "replace", overtake)
    with slow.scratch() as folder:
        result = fill(folder)
        with pytest.raises(StaleLease):
            slow.commit(lease, result, {"seconds": 1})
        assert content(result) == FILES
    assert taken_over[0].is_valid()
    assert slow.find(A) is None


def test_a_released_lease_cannot_commit(tmp_path: Path) -> None:
    (store,) = stores(tmp_path, Clock())
    lease = taken(store, A)
    lease.release()
    with store.scratch() as folder, pytest.raises(StaleLease):
        store.commit(lease, fill(folder), {"seconds": 1})
    assert store.find(A) is None


def test_a_commit_whose_owner_died_before_publishing_is_published_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stores(tmp_path, Clock(), Clock())
    lease = taken(first, A)
    monkeypatch.setattr(StageStore, "_publish", lambda *_: None)
    with first.scratch() as folder:
        first.commit(lease, fill(folder), {"seconds": 1})
    monkeypatch.undo()
    assert second.find(A) is None
    assert second.lease(A) is None
    assert content(second.fetch(A)) == FILES


def test_an_evicted_commit_does_not_come_back(tmp_path: Path) -> None:
    (store,) = stores(tmp_path, Clock())
    put(store, A)
    assert [entry.digest for entry in store.gc(0, idle_seconds=0)] == [A]
    assert taken(store, A).is_valid()
    assert store.find(A) is None


def test_a_record_that_cannot_be_read_counts_as_a_live_lease_until_it_expires(
    tmp_path: Path,
) -> None:
    clock = Clock()
    first, second = stores(tmp_path, Clock(), clock)
    lease = taken(first, A)
    record = next((tmp_path / "leases").rglob("0*1"))
    record.write_bytes(b"")
    assert not lease.is_valid()
    assert second.lease(A) is None
    clock.now += 120
    assert second.lease(A) is not None


def test_renewals_in_the_background_keep_a_lease_and_release_it_at_the_end(tmp_path: Path) -> None:
    # Real seconds: the waiter sees 0.5 s pass several times.
    first = StageStore(tmp_path, lease_seconds=0.5)
    second = StageStore(tmp_path, lease_seconds=0.5)
    with taken(first, A).renewing() as lease:
        began = time.monotonic()
        while time.monotonic() - began < 1.2:
            assert second.lease(A) is None
            time.sleep(0.05)
        assert lease.is_valid()
    assert second.lease(A) is not None
    assert not [t for t in threading.enumerate() if t.name == f"lease-{A[:8]}"]


def test_background_renewals_end_when_the_lease_is_lost(tmp_path: Path) -> None:
    clock = Clock()
    first = StageStore(tmp_path, lease_seconds=0.3)
    second = StageStore(tmp_path, lease_seconds=0.3, steady=clock)
    with taken(first, A).renewing() as lost:
        lost._lock.acquire()  # the owner is stopped, as by a debugger
        assert second.lease(A) is None
        clock.now += 0.3
        new = taken(second, A)
        lost._lock.release()
        time.sleep(0.25)
        assert new.is_valid()
    assert new.is_valid()


def test_what_a_lease_uses_counts_as_used_at_each_renewal(tmp_path: Path) -> None:
    clock = Clock(1000.0)
    store = StageStore(tmp_path, clock=clock)
    put(store, B)
    clock.now = 5000.0
    lease = store.lease(A, uses=[B])
    assert lease is not None
    assert store.used_at(B) == 5000.0
    clock.now = 6000.0
    lease.renew()
    assert store.used_at(B) == 6000.0


def test_a_killed_process_of_this_machine_loses_its_lease_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from search.store import StageStore; "
        "lease = StageStore(sys.argv[1]).lease(sys.argv[2]); print(lease.token, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), A], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip()
        (store,) = stores(tmp_path, Clock())
        assert store.lease(A) is None
        owner.kill()
        # Not waited for yet: a zombie is dead as well.
        deadline = time.monotonic() + 5
        while (lease := store.lease(A)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert lease is not None
    assert lease.token.endswith("-2")


def test_only_a_process_that_can_be_seen_is_called_dead() -> None:
    here = process.identity()
    host, boot, space, pid, started = here.split(":")
    assert not process.is_dead(here)
    assert process.is_dead(":".join([host, boot, space, str(2**22 + 1), started]))
    assert process.is_dead(":".join([host, boot, space, pid, "1"]))  # the number was given anew
    assert not process.is_dead(":".join(["elsewhere", boot, space, str(2**22 + 1), "1"]))
    assert not process.is_dead(":".join([host, "another boot", space, str(2**22 + 1), "1"]))
    assert not process.is_dead(":".join([host, boot, "1", str(2**22 + 1), "1"]))


@pytest.mark.parametrize(
    "text", ["", ":", "a:b", "-1", ":::-1:", "0" * 300, "a:b:c:99999999999999999999:1"]
)
def test_a_strangers_text_is_no_dead_process(text: str) -> None:
    host, boot, space, *_ = process.identity().split(":")
    assert not process.is_dead(text)
    assert not process.is_dead(f"{host}:{boot}:{space}:{text}")


@pytest.mark.parametrize("digest", ["", "a", "A" * 64, "../" + "a" * 61, "a" * 63, "a" * 64 + "\n"])
def test_a_digest_is_64_hex_digits(tmp_path: Path, digest: str) -> None:
    (store,) = stores(tmp_path, Clock())
    for ask in (store.find, store.lease, store.fetch, store.touch, store.used_at):
        with pytest.raises(StoreError, match="is not 64 hex digits"):
            ask(digest)
