"""A store that a stranger has written to: no name leads out of it, no link is followed, nothing odd is returned."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from store_tools import FILES, content, digest_of, fill, put, taken

from search.store import Damaged, NotStored, StageStore, StoreError
from search.store.names import is_plain_path, wrong_paths

A, B = digest_of("a"), digest_of("b")


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "store")


def sealed(body: bytes) -> bytes:
    """Seal as a stranger would who knows the format."""
    return b'{"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'","body":' + body + b"}\n"


def forge(store: StageStore, **changes: Any) -> None:
    """Change fields of a stored manifest and seal it properly."""
    path = next(Path(store.root).rglob("manifest.json"))
    body = json.loads(path.read_bytes())["body"]
    path.write_bytes(sealed(json.dumps({**body, **changes}).encode()))


def file_record(path: str, data: bytes = b"") -> dict[str, Any]:
    return {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../b",
        "/etc/passwd",
        "a//b",
        "a/",
        ".hidden",
        "a/.hidden",
        "~root",
        "a\\b",
        "c:d",
        "a\nb",
        "a\x00b",
        "-rf",
        "ü",
        "a" * 201,
        "/".join("a" * 9),
    ],
)
def test_paths_that_could_lead_elsewhere_are_refused(store: StageStore, path: str) -> None:
    assert not is_plain_path(path)
    with pytest.raises(StoreError, match="is not allowed"):
        store.put_scores(A, "v1", {path: b"1"})
    put(store, A)
    forge(store, files=[file_record(path)], bytes=0)
    assert store.find(A) is None
    assert len(store.verify([A])) == 1
    with pytest.raises(Damaged):
        store.fetch(A)


@pytest.mark.parametrize(
    "path", ["a", "a.b", "deep/er/model-00001-of-00002.safetensors", "_a-b+c=d@e"]
)
def test_paths_that_frameworks_write_are_taken(path: str) -> None:
    assert is_plain_path(path)


def test_a_path_may_be_neither_twice_there_nor_the_folder_of_another() -> None:
    assert wrong_paths(["a", "b/c", "b/d"]) is None
    assert "twice" in str(wrong_paths(["a", "a"]))
    assert "a file and a folder" in str(wrong_paths(["a/b", "a"]))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".x", "a" * 65, "a\n", "ü"])
def test_names_of_pins_and_versions_are_plain(store: StageStore, name: str) -> None:
    for ask in (
        lambda: store.pin(name, [A]),
        lambda: store.unpin(name),
        lambda: store.scores(A, name),
        lambda: store.put_scores(A, name, {}),
    ):
        with pytest.raises(StoreError, match="is not allowed; use letters"):
            ask()


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": B},
        {"digest": "../../x"},
        {"attempt": "../" * 8 + "etcetera"},
        {"attempt": "../" + "a" * 29},
        {"parent": "../x"},
        {"parent": A},
        {"needs": ["x"]},
        {"needs": [A]},
        {"needs": [B] * 1001},
        {"bytes": 1},
        {"bytes": "611"},
        {"seconds": -1},
        {"seconds": "1"},
        {"files": []},
        {"files": [file_record("x"), file_record("x")], "bytes": 0},
        {"extra": 1},
        {"meta": None},
        {"created_at": "now"},
    ],
)
def test_a_manifest_with_a_wrong_field_is_no_manifest(
    store: StageStore, changes: dict[str, Any]
) -> None:
    put(store, A)
    forge(store)
    assert store.find(A) is not None
    forge(store, **changes)
    assert store.find(A) is None
    with pytest.raises(Damaged):
        store.fetch(A)
    put(store, A)
    assert content(store.fetch(A)) == FILES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04\x95",
        b"{}",
        b"[" * 100_000,
        sealed(b"[" * 100_000),
        sealed(b'{"a":' * 10_000),
        sealed(b"\xff"),
        sealed(b"NaN"),
    ],
)
def test_what_is_no_manifest_is_found_and_never_parsed_further(
    store: StageStore, data: bytes
) -> None:
    put(store, A)
    next(Path(store.root).rglob("manifest.json")).write_bytes(data)
    assert store.find(A) is None
    assert [fault.digest for fault in store.verify()] == [A]
    assert store.lease(A) is not None
    assert store.verify() == []  # it is in quarantine


def test_a_manifest_without_end_is_not_read_to_its_end(store: StageStore) -> None:
    put(store, A)
    path = next(Path(store.root).rglob("manifest.json"))
    os.truncate(path, 1 << 40)  # a terabyte of nothing
    assert store.find(A) is None


@pytest.mark.parametrize("kind", ["link", "loop", "folder", "pipe"])
def test_a_manifest_that_is_no_plain_file_is_no_manifest(
    store: StageStore, tmp_path: Path, kind: str
) -> None:
    put(store, A)
    path = next(Path(store.root).rglob("manifest.json"))
    path.rename(tmp_path / "copy.json")
    if kind == "link":
        path.symlink_to(tmp_path / "copy.json")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert store.find(A) is None
    with pytest.raises(Damaged):
        store.fetch(A)
    with pytest.raises(NotStored):
        store.fetch(A)
    assert (tmp_path / "copy.json").is_file()


def test_a_file_that_was_replaced_by_a_link_is_not_followed(
    store: StageStore, tmp_path: Path
) -> None:
    put(store, A)
    weights = store.fetch(A) / "weights.bin"
    (tmp_path / "same").write_bytes(weights.read_bytes())
    weights.unlink()
    weights.symlink_to(tmp_path / "same")
    (fault,) = store.verify()
    assert fault.reason == "is not a plain file"
    with pytest.raises(Damaged, match="is not a plain file"):
        StageStore(store.root).fetch(A)
    store.gc(0)
    assert (tmp_path / "same").exists()


def test_a_folder_that_was_replaced_by_a_link_is_not_followed(
    store: StageStore, tmp_path: Path
) -> None:
    put(store, A)
    folder = store.fetch(A)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged):
        store.fetch(A)
    store.gc(0)
    assert content(tmp_path / "elsewhere") == FILES


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_store_folder_that_is_a_link_is_named_and_not_followed(
    store: StageStore, tmp_path: Path, depth: int
) -> None:
    put(store, A)
    parts = ("entries", A[:2], A)[: depth + 1]
    folder = Path(store.root, *parts)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    for ask in (store.find, store.fetch, store.lease):
        with pytest.raises(StoreError, match="is a link or a file where the store has a folder"):
            ask(A)
    assert list((tmp_path / "elsewhere").rglob("manifest.json"))


def test_a_planted_file_beside_good_ones_makes_the_entry_damaged(store: StageStore) -> None:
    put(store, A)
    (store.fetch(A) / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (fault,) = store.verify()
    assert fault.path.endswith("/pytorch_model.bin")
    with pytest.raises(Damaged, match=r"pytorch_model\.bin of .* is not in the manifest"):
        store.fetch(A)


@pytest.mark.parametrize("what", ["link", "folder link", "pipe", "hidden", "nothing", "no folder"])
def test_a_prepared_folder_with_something_odd_is_refused_and_left_alone(
    store: StageStore, tmp_path: Path, what: str
) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    lease = taken(store, A)
    with store.scratch() as folder:
        result = fill(folder)
        if what == "link":
            (result / "x").symlink_to(tmp_path / "secret")
        elif what == "folder link":
            (result / "x").symlink_to(tmp_path)
        elif what == "pipe":
            os.mkfifo(result / "x")
        elif what == "hidden":
            (result / ".x").touch()
        else:
            result = folder / what
            if what == "nothing":
                (result / "deep").mkdir(parents=True)
        with pytest.raises(StoreError, match=r"plain|is no folder"):
            store.commit(lease, result, {"seconds": 1})
    assert lease.is_valid()
    assert store.find(A) is None


def test_a_score_pack_of_another_stage_is_not_taken(store: StageStore) -> None:
    store.put_scores(A, "v1", {"s": b"1"})
    pack = next(Path(store.root).rglob("v1.pack"))
    for digest, version in ((B, "v1"), (A, "v2")):
        target = Path(store.root, "scores", digest[:2], digest, f"{version}.pack")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(pack.read_bytes())
        assert store.scores(digest, version) is None
    assert store.scores(A, "v1") == {"s": b"1"}


def test_names_that_are_no_digests_are_passed_over(store: StageStore) -> None:
    put(store, A)
    entries = Path(store.root) / "entries"
    (entries / "notes.txt").touch()
    (entries / "zz").mkdir()
    (entries / A[:2] / "x").mkdir()
    (entries / A[:2] / (digest_of("c") if not digest_of("c").startswith(A[:2]) else B)).mkdir()
    assert [entry.digest for entry in store.entries()] == [A]
    assert store.verify() == []
    assert [entry.digest for entry in store.gc(0, idle_seconds=0)] == [A]
