"""Every file of 50 entries cut short or with one bit flipped: found by verify, found by use, never returned."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_tools import content, digest_of, put

from search.store import Damaged, Entry, NotStored, StageStore

N_ENTRIES = 50


def files_of(number: int) -> dict[str, bytes]:
    numbers = random.Random(number)
    return {
        "adapter_model.safetensors": numbers.randbytes(numbers.randint(1, 4000)),
        "adapter_config.json": b'{"r": %d}' % number,
        "head/part-1": numbers.randbytes(17),
    }


def cut(data: bytes, numbers: random.Random) -> bytes:
    return data[: numbers.randrange(len(data))]


def flip(data: bytes, numbers: random.Random) -> bytes:
    bit = numbers.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    store = StageStore(tmp_path)
    for number in range(N_ENTRIES):
        put(store, digest_of(number), files_of(number))
        store.put_scores(digest_of(number), "v1", {"scores.json": b"[%d]" % number})
    return store


def damaged_files(root: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """Return digest and path of every file below a folder of the store."""
    for path in sorted((root / kind).rglob("*")):
        if path.is_file():
            yield path.relative_to(root).parts[2], path


def test_every_damaged_file_is_found_each_time_and_rebuilt(store: StageStore) -> None:
    numbers = random.Random(7)
    found = list(damaged_files(Path(store.root), "entries"))
    assert len(found) == 4 * N_ENTRIES  # three files and the manifest
    for turn, (digest, path) in enumerate(found):
        damage = (cut, flip)[(turn + turn // 4) % 2]  # each of the four files in both ways
        path = next(place for place in [path, *_same_name(store, digest, path)] if place.exists())
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(damage(whole, numbers))
        faults = store.verify([digest])
        assert [fault.digest for fault in faults] == [digest], path
        fresh = StageStore(store.root)  # as in a process that has not checked it yet
        if path.name == "manifest.json":
            assert fresh.find(digest) is None
            assert digest not in {entry.digest for entry in fresh.entries()}
        with pytest.raises(Damaged, match="in quarantine"):
            fresh.fetch(digest)
        assert fresh.find(digest) is None
        with pytest.raises(NotStored):
            fresh.fetch(digest)
        assert fresh.verify([digest]) == []
        number = next(n for n in range(N_ENTRIES) if digest_of(n) == digest)
        put(fresh, digest, files_of(number))
        assert content(StageStore(store.root).fetch(digest)) == files_of(number)
    assert store.verify() == []


def _same_name(store: StageStore, digest: str, path: Path) -> Iterator[Path]:
    """Return where a file is after its entry was rebuilt: in the folder of another attempt."""
    entry = store.find(digest)
    assert entry is not None
    parts = path.relative_to(store.root).parts
    yield Path(store.root, *parts[:3], entry.attempt, *parts[4:])


@pytest.mark.parametrize("damage", [cut, flip])
def test_every_damaged_score_is_found_and_not_returned(
    store: StageStore, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    numbers = random.Random(8)
    for digest, path in damaged_files(Path(store.root), "scores"):
        path.write_bytes(damage(path.read_bytes(), numbers))
        assert [fault.digest for fault in store.verify([digest])] == [digest]
        assert store.scores(digest, "v1") is None
        assert store.verify([digest]) == []
        store.put_scores(digest, "v1", {"scores.json": b"again"})
    assert store.verify() == []


def test_every_byte_of_a_manifest_and_of_a_score_pack_counts(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    digest = digest_of("a")
    put(store, digest, {"x": b"12"})
    store.put_scores(digest, "v1", {"s": b"12"})
    for path in (
        next(tmp_path.rglob("manifest.json")),
        next(tmp_path.rglob("v1.pack")),
    ):
        whole = path.read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            path.write_bytes(bytes(changed))
            assert len(store.verify([digest])) == 1, place
        for end in range(len(whole)):
            path.write_bytes(whole[:end])
            assert len(store.verify([digest])) == 1, end
        path.write_bytes(whole + b"\n")
        assert len(store.verify([digest])) == 1
        path.write_bytes(whole)
    assert store.verify() == []


@pytest.mark.parametrize("gone", ["manifest", "file", "folder"])
def test_what_is_missing_is_never_half_there(tmp_path: Path, gone: str) -> None:
    store = StageStore(tmp_path)
    digest = digest_of("a")
    entry = put(store, digest, files_of(1))
    folder = store.fetch(digest)
    if gone == "manifest":
        (folder.parent / "manifest.json").unlink()
        with pytest.raises(NotStored):
            store.fetch(digest)
    else:
        for path in sorted(folder.rglob("*"), reverse=True):
            if gone == "folder" or path.name == "part-1":
                path.rmdir() if path.is_dir() else path.unlink()
        assert len(store.verify()) == (1 if gone == "file" else 3)
        with pytest.raises(Damaged, match="is missing"):
            store.fetch(digest)
    again = put(store, digest, files_of(1))
    assert again.attempt != entry.attempt
    assert content(store.fetch(digest)) == files_of(1)
    store.gc(10**9)
    assert content(store.fetch(digest)) == files_of(1)
    assert len(list(tmp_path.rglob("part-1"))) == 1


def test_a_slow_finder_of_damage_does_not_touch_what_was_rebuilt(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    digest = digest_of("a")
    old: Entry = put(store, digest, files_of(1))
    store.gc(0, idle_seconds=0)
    new = put(store, digest, files_of(1))
    shelf = store._shelf  # the second half of a fetch that began before the rebuild
    shelf.quarantine(digest, old.attempt)
    shelf.quarantine(digest, None)
    assert store.find(digest) == new
    assert content(store.fetch(digest)) == files_of(1)


def test_verify_takes_what_is_damaged_out_of_use_when_asked(store: StageStore) -> None:
    a, b = digest_of(0), digest_of(1)
    weights = store.fetch(a) / "head" / "part-1"
    weights.unlink()
    pack = next((Path(store.root) / "scores" / b[:2] / b).iterdir())
    pack.write_bytes(b"")
    assert {fault.digest for fault in store.verify()} == {a, b}
    assert store.find(a) is not None
    assert len(store.verify(to_quarantine=True)) == 2
    assert store.find(a) is None
    assert store.find(b) is not None
    assert store.verify() == []
    kept = [path.name for path in (Path(store.root) / "quarantine").rglob("*") if path.is_file()]
    assert {"manifest.json", "adapter_config.json", "v1.pack"} <= set(kept)


def test_an_entry_whose_need_is_missing_is_told_and_stays(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    a, b = digest_of("a"), digest_of("b")
    put(store, b, needs=[a])
    (fault,) = store.verify(to_quarantine=True)
    assert str(fault).endswith(f"needs {a}, which is not stored; train that stage again")
    assert store.find(b) is not None
    put(store, a)
    assert store.verify() == []
