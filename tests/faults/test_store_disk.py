"""A disk that is full from any write on: the error says so, nothing half is seen, and with space again all goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from store_tools import (
    FILES,
    NEED_SPACE,
    Clock,
    content,
    digest_of,
    disk_full,
    failing_writes,
    fill,
    put,
    taken,
)

from search.store import StageStore, StaleLease, StoreError

A, B = digest_of("a"), digest_of("b")


def full_at_each_write(
    tmp_path: Path,
    lasts: int,
    act: Callable[[StageStore], object],
    check: Callable[[StageStore, bool], None],
) -> int:
    """Run an action on a disk that is full from its n-th write on, for every n; return at how many it failed."""
    n_failed = 0
    for n_writes in range(1, 200):
        store = StageStore(tmp_path / str(n_writes))
        put(store, B)
        text = ""
        with failing_writes(NEED_SPACE, n_writes, disk_full, n_writes + lasts) as calls:
            try:
                act(store)
            except StoreError as error:
                text = str(error)
        has_failed = text != ""
        n_failed += has_failed
        if has_failed:
            assert "No space left on device" in text
            assert "apportion store gc" in text
            assert "\n" not in text
        check(store, has_failed)
        if len(calls) < n_writes:
            assert not has_failed
            return n_failed
    raise AssertionError("the action has no end")


@pytest.mark.parametrize("lasts", [1, 1000])
def test_a_lease_that_could_not_be_written_is_nobodys(tmp_path: Path, lasts: int) -> None:
    def check(store: StageStore, has_failed: bool) -> None:
        lease = store.lease(A)
        assert (lease is not None) == has_failed
        assert StageStore(store.root).lease(A) is None

    assert full_at_each_write(tmp_path, lasts, lambda store: store.lease(A), check) >= 3


@pytest.mark.parametrize("lasts", [1, 1000])
def test_a_commit_on_a_full_disk_can_be_repeated_with_the_same_folder_and_lease(
    tmp_path: Path, lasts: int
) -> None:
    n_repeated = 0
    for n_writes in range(1, 200):
        store = StageStore(tmp_path / str(n_writes))
        lease = taken(store, A)
        with store.scratch() as folder:
            result = fill(folder)
            with failing_writes(NEED_SPACE, n_writes, disk_full, n_writes + lasts) as calls:
                try:
                    store.commit(lease, result, {"seconds": 1})
                except StaleLease:
                    raise
                except StoreError:
                    n_repeated += 1
            entry = store.commit(lease, result, {"seconds": 1})
        assert entry == store.find(A)
        assert content(store.fetch(A)) == FILES
        assert store.verify() == []
        if len(calls) < n_writes:
            break
    assert n_repeated > 8


def test_a_release_on_a_full_disk_frees_for_this_owner_and_expires_for_others(
    tmp_path: Path,
) -> None:
    clock = Clock()
    store, other = StageStore(tmp_path), StageStore(tmp_path, steady=clock)
    lease = taken(store, A)
    with failing_writes(NEED_SPACE, 1, disk_full):
        lease.release()
    assert not lease.is_valid()
    assert other.lease(A) is None
    clock.now += 60
    again = taken(store, A)
    clock.now += 60
    assert other.lease(A) is None  # the new lease is alive
    assert again.is_valid()
    clock.now += 120
    assert other.lease(A) is not None


def test_a_commit_that_could_not_be_published_is_so_when_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StageStore(tmp_path)
    lease = taken(store, A)
    real = os.rename

    def rename(source: str, target: str) -> None:
        if str(target).endswith("manifest.json"):
            disk_full()
        real(source, target)

    with store.scratch() as folder:
        result = fill(folder)
        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(StoreError, match="No space"):
            store.commit(lease, result, {"seconds": 1})
        monkeypatch.undo()
        assert store.find(A) is None
        entry = store.commit(lease, result, {"seconds": 1})
    assert entry == store.find(A)
    assert content(store.fetch(A)) == FILES


def test_scores_and_pins_on_a_full_disk_stay_as_they_were(tmp_path: Path) -> None:
    def act(store: StageStore) -> None:
        store.put_scores(B, "v1", {"s": b"x" * 1000})
        store.pin("front", [B])

    def check(store: StageStore, has_failed: bool) -> None:
        assert store.scores(B, "v1") in (None, {"s": b"x" * 1000})
        assert store.pins() in ({}, {"front": (B,)})
        assert store.verify() == []
        act(store)
        assert store.scores(B, "v1") == {"s": b"x" * 1000}
        assert store.pins() == {"front": (B,)}

    assert full_at_each_write(tmp_path, 1000, act, check) > 5


def test_reading_needs_no_space(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    put(store, B)
    store.put_scores(B, "v1", {"s": b"1"})
    with failing_writes(NEED_SPACE, 1, disk_full) as calls:
        assert store.find(B) is not None
        assert content(store.fetch(B)) == FILES
        assert store.scores(B, "v1") == {"s": b"1"}
        assert store.verify() == []
        assert len(list(store.entries())) == 1
    assert calls == []


def test_a_full_disk_can_be_emptied_with_gc(tmp_path: Path) -> None:
    # A removal writes two records of a few hundred bytes; on a disk with not even that, gc says so.
    store = StageStore(tmp_path)
    put(store, B)
    with failing_writes(NEED_SPACE, 1, disk_full), pytest.raises(StoreError, match="No space"):
        store.gc(0, idle_seconds=0)
    assert content(store.fetch(B)) == FILES
    assert [entry.digest for entry in store.gc(0, idle_seconds=0)] == [B]
