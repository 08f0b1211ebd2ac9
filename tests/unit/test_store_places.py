"""The same promises at every place: a local folder, memory, and a folder behind fsspec."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from store_tools import FILES, Clock, content, digest_of, fill, put, taken

from search.store import Damaged, NotStored, StageStore, StaleLease, StoreError
from search.store.remote import RemoteFiles

A, B, C = (digest_of(name) for name in "abc")


@pytest.fixture(params=["folder", "file", "memory", "dir"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "folder": str(tmp_path / "store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4().hex}/store",
        "dir": f"dir::file://{tmp_path}/store",
    }[request.param]


def flip_last_byte(store: StageStore, path: str) -> None:
    """Change a stored file behind the store's back."""
    files = store._files
    data = files.read(path, 1 << 20)
    assert data
    files.remove(path)
    files.replace(path, data[:-1] + bytes([data[-1] ^ 1]))


def test_files_scores_and_pins_come_back(root: str) -> None:
    store = StageStore(root)
    entry = put(store, A, seconds=3)
    put(store, B, parent=A, seconds=4)
    store.put_scores(A, "v1", {"s": b"1"})
    store.pin("study", [B])
    again = StageStore(root, may_create=False)
    assert again.find(A) == entry
    assert content(again.fetch(A)) == FILES
    assert content(again.fetch(A)) == FILES
    assert again.scores(A, "v1") == {"s": b"1"}
    assert again.pins() == {"study": (B,)}
    assert [found.digest for found in again.entries()] == sorted([A, B])
    assert again.verify() == []
    with pytest.raises(NotStored):
        again.fetch(C)


def test_a_lease_excludes_and_expires(root: str) -> None:
    clock = Clock()
    slow, fast = StageStore(root), StageStore(root, steady=clock)
    lost = taken(slow, A)
    assert fast.lease(A) is None
    assert slow.lease(A) is None
    clock.now += 120
    new = taken(fast, A)
    with slow.scratch() as folder:
        result = fill(folder)
        with pytest.raises(StaleLease):
            slow.commit(lost, result, {"seconds": 1})
        assert content(result) == FILES
    assert slow.find(A) is None
    with fast.scratch() as folder:
        fast.commit(new, fill(folder), {"seconds": 1})
    assert content(slow.fetch(A)) == FILES
    assert slow.lease(A) is None
    assert slow.gc(10**9) == []
    assert slow.verify() == []


def test_damage_is_found_and_rebuilt(root: str) -> None:
    store = StageStore(root)
    entry = put(store, A)
    flip_last_byte(store, f"entries/{A[:2]}/{A}/{entry.attempt}/weights.bin")
    (fault,) = store.verify()
    assert fault.reason == "does not match its checksum"
    with pytest.raises(Damaged, match=r"weights\.bin"):
        store.fetch(A)
    assert store.find(A) is None
    put(store, A)
    assert content(store.fetch(A)) == FILES
    flip_last_byte(store, f"entries/{A[:2]}/{A}/manifest.json")
    assert store.find(A) is None
    assert len(store.verify()) == 1
    put(store, A)
    assert content(store.fetch(A)) == FILES
    store.put_scores(A, "v1", {"s": b"1"})
    flip_last_byte(store, f"scores/{A[:2]}/{A}/v1.pack")
    assert store.scores(A, "v1") is None
    assert store.verify() == []


def test_eviction_follows_cost_use_and_pins(root: str) -> None:
    clock = Clock()
    store = StageStore(root, clock=clock)
    put(store, A, seconds=10)
    put(store, B, seconds=5)
    put(store, C, seconds=6)
    store.pin("study", [B])
    clock.now += 7200
    store.touch(C)
    assert store.used_at(C) == clock.now
    assert [entry.digest for entry in store.gc(611 * 2, idle_seconds=0)] == [A]
    assert [entry.digest for entry in store.gc(0, idle_seconds=0)] == [C]
    assert [entry.digest for entry in store.entries()] == [B]
    assert not store._files.names(f"entries/{A[:2]}/{A}")
    put(store, A)
    assert content(store.fetch(A)) == FILES


def test_a_commit_that_was_not_published_is_published_by_the_next(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = StageStore(root), StageStore(root)
    monkeypatch.setattr(StageStore, "_publish", lambda *_: None)
    with first.scratch() as folder:
        first.commit(taken(first, A), fill(folder), {"seconds": 1})
    monkeypatch.undo()
    assert second.find(A) is None
    assert second.lease(A) is None
    assert content(second.fetch(A)) == FILES


def test_what_was_left_behind_is_removed(root: str) -> None:
    store = StageStore(root)
    entry = put(store, A)
    store._files.replace(f"entries/{A[:2]}/{A}/{'0' * 32}/weights.bin", b"of a dead attempt")
    store._files.replace(f"entries/{B[:2]}/{B}/{'0' * 32}.json", b"of a dead attempt")
    assert store.verify() == []
    store.gc(10**9)
    assert set(store._files.names(f"entries/{A[:2]}/{A}")) - {"used"} == {
        "manifest.json",
        entry.attempt,
    }
    assert store._files.names(f"entries/{B[:2]}/{B}") == []
    assert content(store.fetch(A)) == FILES


def test_a_damaged_local_copy_is_downloaded_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    url = f"memory://{uuid.uuid4().hex}"
    put(StageStore(url, cache=cache), A)
    folder = StageStore(url, cache=cache).fetch(A)
    assert folder.is_relative_to(cache)
    (folder / "weights.bin").write_bytes(b"v" * 600)
    (folder / "pytorch_model.bin").write_bytes(b"planted")
    store = StageStore(url, cache=cache)
    assert content(store.fetch(A)) == FILES
    assert store.verify() == []


def test_an_entry_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    put(StageStore(url), A)
    downloads = []
    real = MemoryFileSystem.get_file

    def counted(self: MemoryFileSystem, source: str, target: str, **options: object) -> None:
        downloads.append(source)
        real(self, source, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    for _ in range(2):
        store = StageStore(url, cache=tmp_path / "cache")
        store.fetch(A)
        store.fetch(A)
    assert len(downloads) == 2  # its two files


def test_copies_of_a_remote_store_end_with_it() -> None:
    store = StageStore(f"memory://{uuid.uuid4().hex}")
    put(store, A)
    folder = store.fetch(A)
    assert folder.exists()
    del store
    assert not folder.exists()


def test_a_place_without_exclusive_creation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def over_it(self: MemoryFileSystem, path: str, value: bytes, **options: object) -> None:
        with self.open(path, "wb") as file:
            file.write(value)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", over_it)
    with pytest.raises(StoreError, match="cannot create a file exclusively"):
        StageStore(f"memory://{uuid.uuid4().hex}")


def test_a_folder_without_links_is_refused_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="cannot link files, put the store on another"):
        StageStore(tmp_path / "s")


def test_an_unknown_kind_of_url_is_refused_without_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        StageStore("nosuchthing://me:secret@host/x?token=secret")
    assert "nosuchthing://host/x: Protocol not known" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_messages_hold_no_password() -> None:
    files = RemoteFiles(f"memory://me:secret@{uuid.uuid4().hex}/x", None)
    assert "secret" not in files.place
