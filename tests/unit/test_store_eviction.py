"""Eviction: what goes first, and what never goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_tools import Clock, content, digest_of, put, taken

from search.store import StageStore, StoreError
from search.store.shelf import Shelf

A, B, C, D = (digest_of(name) for name in "abcd")
HOUR = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> StageStore:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return StageStore(tmp_path, clock=clock)


def sized(n_bytes: int) -> dict[str, bytes]:
    return {"weights": b"x" * n_bytes}


def evicted(store: StageStore, max_bytes: int, idle_seconds: float = 0) -> list[str]:
    return [entry.digest for entry in store.gc(max_bytes, idle_seconds=idle_seconds)]


def stored(store: StageStore) -> set[str]:
    return {entry.digest for entry in store.entries()}


def test_nothing_goes_while_all_fits(store: StageStore) -> None:
    put(store, A, sized(100))
    put(store, B, sized(100))
    assert evicted(store, 200) == []
    assert stored(store) == {A, B}


def test_what_is_cheap_to_train_per_byte_goes_first(store: StageStore) -> None:
    put(store, A, sized(100), seconds=10)  # 0.1 s per byte
    put(store, B, sized(1000), seconds=50)  # 0.05
    put(store, C, sized(10), seconds=2)  # 0.2
    assert evicted(store, 0) == [B, A, C]
    assert stored(store) == set()


def test_no_more_goes_than_must(store: StageStore) -> None:
    for name, seconds in ((A, 1), (B, 2), (C, 3)):
        put(store, name, sized(100), seconds=seconds)
    assert evicted(store, 200) == [A]
    assert evicted(store, 199) == [B]
    assert stored(store) == {C}


def test_what_was_not_used_for_long_goes_first(store: StageStore, clock: Clock) -> None:
    put(store, A, sized(100), seconds=10)
    put(store, B, sized(100), seconds=6)
    # Idle 2 h and 0 h: 10 / 3 against 6 / 1.
    clock.now += 2 * HOUR
    store.touch(B)
    assert evicted(store, 100) == [A]


def test_a_stage_whose_parent_is_gone_costs_both_to_train_again(store: StageStore) -> None:
    put(store, A, sized(100), seconds=1)
    put(store, B, sized(100), seconds=3, parent=A)
    put(store, C, sized(100), seconds=3.5)
    # A goes first (1). Then B costs 1 + 3 = 4, so C goes before it.
    assert evicted(store, 0) == [A, C, B]


def test_the_cost_of_a_parent_that_went_earlier_is_not_forgotten(store: StageStore) -> None:
    put(store, A, sized(100), seconds=1)
    put(store, B, sized(100), seconds=3, parent=A)
    put(store, C, sized(100), seconds=3.5)
    assert evicted(store, 200) == [A]
    assert evicted(store, 100) == [C]


def test_pinned_entries_and_their_parents_never_go(store: StageStore) -> None:
    put(store, A, sized(100))
    put(store, B, sized(100), parent=A)
    put(store, C, sized(100), parent=B)
    put(store, D, sized(100), seconds=1000)
    store.pin("study", [B])
    assert set(evicted(store, 0)) == {C, D}
    assert stored(store) == {A, B}
    assert evicted(store, 0) == []
    store.unpin("study")
    assert set(evicted(store, 0)) == {A, B}


def test_each_study_pins_for_itself(store: StageStore) -> None:
    put(store, A)
    put(store, B)
    store.pin("one", [A])
    store.pin("two", [A, B])
    store.pin("one", [])
    assert evicted(store, 0) == []
    assert store.pins() == {"one": (), "two": (A, B)}
    store.unpin("two")
    store.unpin("never-there")
    assert set(evicted(store, 0)) == {A, B}


def test_what_a_kept_entry_needs_stays_and_goes_after_it(store: StageStore) -> None:
    put(store, A, sized(1000), seconds=1)
    put(store, B, sized(1000), seconds=1, parent=A, needs=[A])
    put(store, C, sized(10), seconds=10, parent=B, needs=[A, B])
    put(store, D, sized(100), seconds=50)
    # C is worth most per byte, but as long as it stays neither A nor B may go: D goes first.
    assert evicted(store, 2010) == [D]
    assert stored(store) == {A, B, C}
    assert evicted(store, 1000) == [C, B]
    assert evicted(store, 0) == [A]


def test_what_a_pinned_entry_needs_stays_even_if_it_is_no_parent(store: StageStore) -> None:
    put(store, A)
    put(store, B, needs=[A])
    put(store, C)
    store.pin("study", [B])
    assert evicted(store, 0) == [C]


def test_what_is_in_use_stays_with_all_that_it_needs(store: StageStore, clock: Clock) -> None:
    put(store, A)
    put(store, B, needs=[A])
    put(store, C)
    clock.now += HOUR
    store.fetch(B)
    clock.now += 119
    assert evicted(store, 0, idle_seconds=120) == [C]
    assert store.gc(0) == []  # lease_seconds is 120
    clock.now += 1
    assert evicted(store, 0, idle_seconds=120) == [B, A]


def test_a_stage_in_training_keeps_what_it_uses(store: StageStore, clock: Clock) -> None:
    put(store, A)
    lease = store.lease(B, uses=[A])
    assert lease is not None
    clock.now += HOUR
    lease.renew()
    assert store.gc(0) == []
    clock.now += 120
    assert [entry.digest for entry in store.gc(0)] == [A]


def test_a_dry_run_tells_and_removes_nothing(store: StageStore) -> None:
    put(store, A, sized(100), seconds=1)
    put(store, B, sized(100), seconds=2)
    assert [entry.digest for entry in store.gc(100, dry_run=True, idle_seconds=0)] == [A]
    assert stored(store) == {A, B}


def test_an_evicted_stage_can_be_trained_again_and_its_scores_stay(store: StageStore) -> None:
    put(store, A, {"x": b"1"})
    store.put_scores(A, "v1", {"s": b"1"})
    assert evicted(store, 0) == [A]
    assert store.scores(A, "v1") == {"s": b"1"}
    put(store, A, {"x": b"2"})
    assert content(store.fetch(A)) == {"x": b"2"}


def test_a_pin_set_while_an_eviction_runs_is_kept(
    store: StageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, A)
    put(store, B, parent=A)
    other = StageStore(store.root)
    real = Shelf.pins
    calls = []

    def pins_of_a_moment_ago(shelf: Shelf) -> dict[str, tuple[str, ...]]:
        found = real(shelf)
        calls.append(found)
        if len(calls) == 1:  # the list is made, nothing is evicted yet
            other.pin("study", [B])
        return found

    monkeypatch.setattr(Shelf, "pins", pins_of_a_moment_ago)
    assert evicted(store, 0) == []
    assert stored(store) == {A, B}


def test_an_entry_used_while_an_eviction_runs_is_kept(
    store: StageStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, A)
    clock.now += HOUR
    real = Shelf.pins
    used = []

    def use(shelf: Shelf) -> dict[str, tuple[str, ...]]:
        if not used:  # times of use are read, nothing is evicted yet
            used.append(store.fetch(A))
        return real(shelf)

    monkeypatch.setattr(Shelf, "pins", use)
    assert evicted(store, 0, idle_seconds=120) == []
    assert content(used[0]) == content(store.fetch(A))


def test_a_damaged_pin_stops_eviction_and_says_where(store: StageStore, tmp_path: Path) -> None:
    put(store, A)
    store.pin("study", [A])
    (tmp_path / "pins" / "study.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match=r"pins/study\.json: has no checksum .* pin again"):
        store.gc(0, idle_seconds=0)
    assert stored(store) == {A}
    assert [fault.path for fault in store.verify()] == ["pins"]
    store.pin("study", [A])
    assert evicted(store, 0) == []


def test_a_digest_that_someone_trains_is_not_touched(store: StageStore, tmp_path: Path) -> None:
    put(store, A)
    manifest = next(tmp_path.rglob("manifest.json"))
    aside = tmp_path / "aside"
    manifest.rename(aside)
    lease = taken(store, A)
    aside.rename(manifest)
    assert evicted(store, 0) == []
    assert stored(store) == {A}
    lease.release()
    assert evicted(store, 0) == [A]


def test_quarantine_is_emptied(store: StageStore, tmp_path: Path) -> None:
    put(store, A)
    (store.fetch(A) / "weights.bin").unlink()
    assert len(store.verify(to_quarantine=True)) == 1
    assert (tmp_path / "quarantine").exists()
    store.gc(0)
    assert not (tmp_path / "quarantine").exists()
    assert list((tmp_path / "entries").rglob("*.json")) == []


@pytest.mark.parametrize(("max_bytes", "idle_seconds"), [(-1, 0), (0, -1)])
def test_negative_limits_are_refused(
    store: StageStore, max_bytes: int, idle_seconds: float
) -> None:
    with pytest.raises(StoreError, match="must be at least 0"):
        store.gc(max_bytes, idle_seconds=idle_seconds)
