"""kill -9 at every write of a commit, a score, a pin and an eviction: nothing half is seen, and all goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from store_tools import (
    FILES,
    WRITES,
    Clock,
    content,
    die,
    digest_of,
    failing_writes,
    fill,
    in_child,
    put,
    taken,
)

from search.store import StageStore

A, B = digest_of("a"), digest_of("b")
KILLED = -9


def killed_at_each_write(
    tmp_path: Path, act: Callable[[StageStore], None], check: Callable[[StageStore, int], None]
) -> int:
    """Run an action in a child that dies at its n-th write, for every n, and check the store after each.

    Returns:
        At how many writes it died.
    """
    for n_writes in range(1, 200):
        root = tmp_path / str(n_writes)

        def run(root: Path = root, n_writes: int = n_writes) -> None:
            store = StageStore(root)
            put(store, B)
            with failing_writes(WRITES, n_writes, die):
                act(store)

        status = in_child(run)
        check(StageStore(root), n_writes)
        if status == 0:
            return n_writes - 1
        assert status == KILLED
    raise AssertionError("the action has no end")


def commit(store: StageStore) -> None:
    lease = taken(store, A)
    with store.scratch() as folder:
        store.commit(lease, fill(folder), {"seconds": 1, "by": "the dead"})


def test_a_commit_killed_at_any_write_is_whole_or_not_there_and_the_next_one_works(
    tmp_path: Path,
) -> None:
    seen = []

    def check(store: StageStore, n_writes: int) -> None:
        assert store.verify() == []
        is_visible = store.find(A) is not None
        lease = store.lease(A)  # the owner is dead: no waiting
        if lease is None:
            assert store.find(A) is not None
            seen.append("visible" if is_visible else "published by the next")
        else:
            assert not is_visible
            seen.append("lost")
            with store.scratch() as folder:
                assert store.find(A) is None
                store.commit(lease, fill(folder), {"seconds": 1})
        assert content(store.fetch(A)) == FILES
        assert content(store.fetch(B)) == FILES
        assert store.verify() == []
        store.gc(10**9)
        root = Path(store.root)
        assert os.listdir(root / "tmp") == []
        assert len(list((root / "entries").rglob("weights.bin"))) == 2  # no attempt is left over
        assert content(store.fetch(A)) == FILES

    n_deaths = killed_at_each_write(tmp_path, commit, check)
    assert n_deaths > 15
    order = ["lost", "published by the next", "visible"]
    assert sorted(seen, key=order.index) == seen
    assert set(seen) == set(order)


def test_scores_killed_at_any_write_are_the_old_or_the_new_ones(tmp_path: Path) -> None:
    old, new = {"s": b"old"}, {"s": b"new", "t": b"more"}
    seen = []

    def act(store: StageStore) -> None:
        store.put_scores(B, "v2", new)

    def check(store: StageStore, n_writes: int) -> None:
        scores = store.scores(B, "v2")
        assert scores in (None, new)
        seen.append(scores)
        assert store.verify() == []
        store.put_scores(B, "v2", old)
        assert store.scores(B, "v2") == old

    assert killed_at_each_write(tmp_path, act, check) >= 4
    assert seen[0] is None
    assert seen[-1] == new


def test_a_pin_killed_at_any_write_keeps_the_old_or_the_new(tmp_path: Path) -> None:
    def act(store: StageStore) -> None:
        store.pin("front", [A])
        store.pin("front", [B])

    def check(store: StageStore, n_writes: int) -> None:
        assert store.pins().get("front") in (None, (A,), (B,))
        store.pin("front", [B])
        assert store.gc(0, idle_seconds=0) == []

    assert killed_at_each_write(tmp_path, act, check) >= 8


def test_an_eviction_killed_at_any_write_leaves_an_entry_whole_or_gone(tmp_path: Path) -> None:
    def act(store: StageStore) -> None:
        store.gc(0, idle_seconds=0)

    def check(store: StageStore, n_writes: int) -> None:
        assert store.verify() == []
        if store.find(B) is None:
            put(store, B)  # the evictor is dead: no waiting
        assert content(store.fetch(B)) == FILES
        store.gc(10**9)
        assert len(list((Path(store.root) / "entries").rglob("weights.bin"))) == 1
        assert content(store.fetch(B)) == FILES

    assert killed_at_each_write(tmp_path, act, check) >= 6


def test_a_store_killed_while_it_is_made_can_be_made_again(tmp_path: Path) -> None:
    for n_writes in range(1, 50):
        root = tmp_path / str(n_writes) / "store"

        def run(root: Path = root, n_writes: int = n_writes) -> None:
            with failing_writes(WRITES, n_writes, die):
                StageStore(root)

        status = in_child(run)
        put(StageStore(root), A)
        if status == 0:
            break
        assert status == KILLED
    assert n_writes > 4


def test_leftovers_of_a_process_that_lives_are_not_removed(tmp_path: Path) -> None:
    clock = Clock(4e9)  # far in the future: nothing is young
    store = StageStore(tmp_path, clock=clock)
    with store.scratch() as folder:
        fill(folder)
        store.gc(0)
        assert content(folder / "result") == FILES


def test_all_is_on_the_disk_before_an_entry_becomes_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StageStore(tmp_path)
    synced: list[int] = []
    at_publication: list[int] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(handle: int) -> None:
        real_sync(handle)
        synced.append(os.fstat(handle).st_ino)

    def rename(source: str, target: str) -> None:
        if str(target).endswith("manifest.json"):
            at_publication.extend(synced)
            synced.clear()
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    entry = put(store, A)
    folder = tmp_path / "entries" / A[:2] / A
    whole = [folder / "manifest.json", *(folder / entry.attempt).rglob("*")]
    above = [folder / entry.attempt, folder, *list(folder.parents)[:3]]
    assert len(whole) == 4  # manifest, two files, a folder
    assert {path.stat().st_ino for path in [*whole, *above]} <= set(at_publication)
    assert folder.stat().st_ino in synced  # the new name itself


def test_scores_and_pins_are_on_the_disk_when_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StageStore(tmp_path)
    synced: list[int] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        real_sync(handle)
        synced.append(os.fstat(handle).st_ino)

    def replace(source: str, target: str) -> None:
        assert os.stat(source).st_ino in synced
        synced.clear()
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    store.put_scores(A, "v1", {"s": b"1"})
    assert synced == [next(tmp_path.rglob("v1.pack")).parent.stat().st_ino]
    store.pin("front", [A])
    assert synced == [(tmp_path / "pins").stat().st_ino]
