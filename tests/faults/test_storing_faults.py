"""While a stage is stored beside its evaluation: a kill, a full disk, a lost lease, an error that nobody expected."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefix_tools import Bits, bits, equal, prefixes
from safetensors import SafetensorError
from stage_tools import full, lora, stage
from store_tools import (
    NEED_SPACE,
    WRITES,
    Clock,
    content,
    die,
    disk_full,
    failing_writes,
    fill,
    in_child,
)

from search.prefixes import Prefixes
from search.stages import persist
from search.stages.persist import StageWeights
from search.store import StageStore
from spaces.recipe import Recipe

RECIPE = Recipe(stages=(stage(adapter=full()), stage(adapter=lora())))
KILLED = -9


@pytest.fixture(scope="module")
def alone() -> Bits:
    """The model of the recipe, trained without a store."""
    walk, model = trained(None)
    walk.close()
    return model


def trained(store: StageStore | None) -> tuple[Prefixes, Bits]:
    walk = prefixes(RECIPE, store)
    for number in (1, 2):
        walk.stage(number)
    return walk, bits(walk.model(2).model)


@contextmanager
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let storing stand still before its first byte until the event is set, as it is at the end."""
    opened, write = threading.Event(), StageWeights.write

    def wait_and_write(self: StageWeights, folder: Path) -> None:
        assert opened.wait(60)
        write(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(StageWeights, "write", wait_and_write)
        try:
            yield opened
        finally:
            opened.set()


def at_write(number: int) -> Callable[[], None]:
    """Return what lets a process die at its n-th write from now on."""

    failing = failing_writes(WRITES, number, die)

    def arm() -> None:
        failing.__enter__()

    return arm


def before_the_first_byte() -> None:
    StageWeights.write = lambda *_: die()  # type: ignore[method-assign]


def before_the_commit() -> None:
    StageStore.commit = lambda *_: die()  # type: ignore[assignment, method-assign, return-value]


MOMENTS = {
    "before the first byte": (before_the_first_byte, 2),
    "before the commit": (before_the_commit, 2),
    **{f"at write {number}": (at_write(number), 2) for number in (1, 6, 13, 20)},
    # From the record in the lease's log on, whoever comes next publishes the entry.
    **{f"at write {number}": (at_write(number), 1) for number in (25, 28)},
}
"""What arms a process, and how many stages of the two the next one trains."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stage_whose_storing_is_killed_is_whole_or_not_stored_and_is_trained_again(
    moment: str, tmp_path: Path, alone: Bits
) -> None:
    arm, n_trained = MOMENTS[moment]

    def act() -> None:
        walk = prefixes(RECIPE, StageStore(tmp_path))
        walk.model(0)  # whatever the base needs is there before the writes are counted
        lease = StageStore.lease

        def armed(self: StageStore, digest: str, uses: tuple[str, ...] = ()) -> object:
            found = lease(self, digest, uses)
            arm()
            return found

        StageStore.lease = armed  # type: ignore[assignment, method-assign]
        walk.stage(1)
        walk.settle()

    assert in_child(act) == KILLED
    store = StageStore(tmp_path)
    assert store.verify() == []
    walk, model = trained(store)  # the owner is dead: no waiting
    walk.close()
    assert equal(model, alone)
    assert len(walk.trained) == n_trained
    assert store.verify() == []
    store.gc(10**9)
    assert os.listdir(tmp_path / "tmp") == []


def unwritable(*_: object, **__: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device")


@pytest.mark.parametrize("from_write", [1, 5, 9, 13])
def test_a_disk_that_fills_while_a_stage_is_stored_costs_the_entry_and_nothing_else(
    from_write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Bits
) -> None:
    store = StageStore(tmp_path)
    with gate(monkeypatch) as opened:
        walk = prefixes(RECIPE, store)
        record = walk.stage(1)
        with failing_writes(NEED_SPACE, from_write, disk_full) as calls:
            opened.set()
            assert walk.settle() is not None
        assert len(calls) >= from_write
    assert store.find(record.digest) is None
    walk.stage(2)
    assert equal(bits(walk.model(2).model), alone)
    walk.close()
    assert [fault.is_lack for fault in store.verify()] == [True]  # the second stage needs the first
    # With space again: the lease of the first stage is nobody's, and it is trained and stored.
    again, model = trained(store)
    again.close()
    assert set(again.trained) == {record.digest}
    assert equal(model, alone)
    assert store.verify() == []
    assert trained(StageStore(tmp_path))[0].trained == {}


def test_a_disk_without_room_for_the_weights_costs_the_entry_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Bits
) -> None:
    monkeypatch.setattr(persist, "save_file", unwritable)
    store = StageStore(tmp_path)
    walk, model = trained(store)
    walk.close()
    assert equal(model, alone)
    assert list(store.entries()) == []
    assert os.listdir(tmp_path / "tmp") == []


def test_who_lost_the_lease_while_storing_leaves_the_entry_to_the_new_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Bits
) -> None:
    clock = Clock()
    store, other = StageStore(tmp_path / "store"), StageStore(tmp_path / "store", steady=clock)
    with gate(monkeypatch) as opened:
        walk = prefixes(RECIPE, store)
        digest = walk.stage(1).digest
        assert other.lease(digest) is None  # held while it is stored
        clock.now += 121
        lease = other.lease(digest)
        assert lease is not None
        opened.set()
        assert walk.settle() is not None
    assert store.find(digest) is None
    assert lease.is_valid()
    with other.scratch() as folder:
        entry = other.commit(lease, fill(folder), {"seconds": 1})
    assert store.find(digest) == entry
    assert len(content(store.fetch(digest))) == 2
    assert equal(bits(walk.model(1).model), bits(prefixes(RECIPE, None).model(0).model)) is False
    walk.close()


def test_an_error_nobody_expected_is_told_and_the_lease_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no memory for the difference")

    store = StageStore(tmp_path)
    walk = prefixes(RECIPE, store)
    with monkeypatch.context() as patch:
        patch.setattr(StageWeights, "write", fail)
        digest = walk.stage(1).digest
        with pytest.raises(MemoryError, match="no memory for the difference"):
            walk.settle()
    assert store.lease(digest) is not None
    walk.close()
