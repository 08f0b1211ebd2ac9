"""Checkpoints in the stage store: whole or not there, of whoever holds the lease, gone when nobody needs them."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest
from prefix_tools import bits, equal, prefixes
from stage_tools import full, lora, stage
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

from search.stages.checkpoint import Keeper
from search.store import StageStore, StaleLease, StoreError
from search.store.checkpoints import ORPHAN_SECONDS
from spaces.combine import Combination
from spaces.recipe import Branch, Parallel, Recipe

A = digest_of("a")


def keep(store: StageStore, step: int, data: bytes = b"1", digest: str = A) -> None:
    lease = taken(store, digest)
    with store.scratch() as folder:
        store.put_checkpoint(lease, fill(folder, {"state": data}), {"n_steps": step})
    lease.release()


def kept(store: StageStore) -> tuple[dict[str, bytes], object] | None:
    found = store.checkpoint(A)
    return None if found is None else (content(found[0]), found[1]["n_steps"])


def test_the_last_checkpoint_is_there_alone_until_its_stage_is_stored(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    assert kept(store) is None
    keep(store, 1)
    keep(store, 2, b"22")
    assert kept(store) == ({"state": b"22"}, 2)
    assert kept(StageStore(tmp_path)) == ({"state": b"22"}, 2)
    assert len(list((tmp_path / "checkpoints").rglob("state"))) == 1
    put(store, A)
    assert kept(store) is None
    assert list((tmp_path / "checkpoints").rglob("*state*")) == []
    assert content(store.fetch(A)) == FILES


def test_a_lost_lease_keeps_nothing(tmp_path: Path) -> None:
    clock = Clock()
    first, second = StageStore(tmp_path), StageStore(tmp_path, steady=clock)
    lost = taken(first, A)
    assert second.lease(A) is None
    clock.now += 120
    taken(second, A)
    with first.scratch() as folder, pytest.raises(StaleLease):
        first.put_checkpoint(lost, fill(folder), {"n_steps": 1})
    assert kept(first) is None


@pytest.mark.parametrize("from_call", range(1, 16))
def test_on_a_full_disk_the_older_checkpoint_or_the_new_one_is_whole(
    tmp_path: Path, from_call: int
) -> None:
    store = StageStore(tmp_path)
    keep(store, 1)
    lease = taken(store, A)
    with store.scratch() as folder:
        result = fill(folder, {"state": b"22"})
        with failing_writes(NEED_SPACE, from_call, disk_full), suppress(StoreError):
            store.put_checkpoint(lease, result, {"n_steps": 2})
    assert kept(store) in (({"state": b"1"}, 1), ({"state": b"22"}, 2))
    assert lease.is_valid()
    put_anyway = StageStore(tmp_path)
    lease.release()
    put(put_anyway, A)
    assert put_anyway.verify() == []


@pytest.mark.parametrize("what", ["state", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "link", "remove", "plant"])
def test_a_damaged_checkpoint_is_none(tmp_path: Path, what: str, how: str) -> None:
    store = StageStore(tmp_path)
    keep(store, 1, random.Random(1).randbytes(300))
    path = next((tmp_path / "checkpoints").rglob(what))
    data = path.read_bytes()
    path.chmod(0o644)
    if how == "flip":
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif how == "cut":
        path.write_bytes(data[:-1])
    elif how == "plant":
        next((tmp_path / "checkpoints").rglob("state")).with_name("x.pkl").touch()
    else:
        path.rename(tmp_path / "elsewhere")
        if how == "link":
            path.symlink_to(tmp_path / "elsewhere")
    assert kept(store) is None
    keep(store, 2)
    assert kept(store) == ({"state": b"1"}, 2)


def test_gc_removes_checkpoints_of_stored_stages_and_forgotten_ones(tmp_path: Path) -> None:
    clock = Clock()
    store = StageStore(tmp_path, clock=clock)
    for name in "ab":
        keep(store, 1, digest=digest_of(name))
    clock.now += ORPHAN_SECONDS - 1
    store.gc(10**9)
    assert store.checkpoint(digest_of("a")) is not None
    keep(store, 2, digest=digest_of("b"))
    clock.now += 2
    store.gc(10**9)
    assert store.checkpoint(digest_of("a")) is None
    assert store.checkpoint(digest_of("b")) is not None


class Killed(BaseException):
    """The process is gone."""


TWO = Recipe(
    stages=(stage(adapter=full()), stage("dpo", adapter=lora(dropout=0.2), dose_tokens=900))
)
APART = Recipe(
    stages=(
        Parallel(
            influence="apart",
            branches={
                "warm": Branch(stages=(stage(adapter=full(), dose_tokens=900),), weight=0.5),
                "cold": Branch(stages=(stage(adapter=lora(), dose_tokens=900),), weight=0.5),
            },
            combination=Combination(how="linear"),
        ),
    )
)


@pytest.mark.parametrize("recipe", [TWO, APART], ids=["two stages", "branches"])
def test_a_recipe_killed_in_a_stage_goes_on_there_and_gives_the_same_model(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = len(recipe.stages)
    alone = prefixes(recipe, None)
    for number in range(1, last + 1):
        alone.stage(number)
    expected = bits(alone.model(last).model)
    starts: list[int] = []
    real = Keeper.before_step

    def dying(self: Keeper, trainer: object, conflicts: object) -> None:
        if not trainer.losses:  # type: ignore[attr-defined]
            starts.append(self.start_step)
        real(self, trainer, conflicts)  # type: ignore[arg-type]
        if len(starts) == last and len(trainer.losses) == 3:  # type: ignore[attr-defined]
            raise Killed

    monkeypatch.setattr(Keeper, "before_step", dying)
    store = StageStore(tmp_path)
    walk = prefixes(recipe, store, checkpoint_seconds=1e-9)
    for number in range(1, last):
        walk.stage(number)
    with pytest.raises(Killed):
        walk.stage(last)
    walk.close()
    again = prefixes(recipe, StageStore(tmp_path), checkpoint_seconds=1e-9)
    for number in range(1, last + 1):
        again.stage(number)
    found = bits(again.model(last).model)
    again.close()
    assert equal(found, expected)
    assert 3 in starts
    assert not list((tmp_path / "checkpoints").rglob("*.safetensors"))
    assert os.path.isdir(tmp_path / "checkpoints")
