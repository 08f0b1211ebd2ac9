"""StageStore: what goes in comes out, once, under its digest."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from store_tools import FILES, Clock, content, digest_of, fill, put, taken

from search.store import Damaged, NotStored, StageStore, StoreError

A, B, C = digest_of("a"), digest_of("b"), digest_of("c")


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "store", clock=Clock())


def test_nothing_is_found_before_it_is_committed(store: StageStore) -> None:
    assert store.find(A) is None
    assert store.scores(A, "v1") is None
    assert store.used_at(A) is None
    with pytest.raises(NotStored, match=f"{A} is not stored"):
        store.fetch(A)


def test_committed_files_come_back_as_they_were(store: StageStore) -> None:
    entry = put(store, A, seconds=2.5, note={"loss": [0.5, 0.25]})
    assert content(store.fetch(A)) == FILES
    assert entry == store.find(A)
    assert (entry.seconds, entry.bytes, entry.created_at) == (2.5, 611, 1_000_000.0)
    assert [file.path for file in entry.files] == ["deep/config.json", "weights.bin"]
    # printf '{"rank": 4}' | sha256sum
    assert (
        entry.files[0].sha256 == "982bd80d211e723b28181a4f87ddf8f9a59de8c1bdbed4477146ac150d928d51"
    )
    assert entry.meta == {"seconds": 2.5, "note": {"loss": [0.5, 0.25]}}


def test_a_prepared_folder_is_moved_and_not_copied(store: StageStore) -> None:
    with store.scratch() as folder:
        result = fill(folder)
        inode = (result / "weights.bin").stat().st_ino
        store.commit(taken(store, A), result, {"seconds": 1})
        assert not result.exists()
    assert not folder.exists()
    assert (store.fetch(A) / "weights.bin").stat().st_ino == inode


def test_the_scratch_folder_itself_can_be_committed(store: StageStore) -> None:
    with store.scratch() as folder:
        (folder / "x").write_bytes(b"1")
        store.commit(taken(store, A), folder, {})
    assert content(store.fetch(A)) == {"x": b"1"}


def test_a_folder_of_another_filesystem_is_copied(store: StageStore, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second filesystem here")
    result = fill(other / f"apportion-{os.getpid()}")
    try:
        store.commit(taken(store, A), result, {"seconds": 1})
        assert content(result) == FILES
    finally:
        for path in sorted(result.parent.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        result.parent.rmdir()
    assert content(store.fetch(A)) == FILES


def test_the_first_commit_is_kept(store: StageStore) -> None:
    lease = taken(store, A)
    with store.scratch() as folder:
        first = store.commit(lease, fill(folder), {"seconds": 1})
        second = store.commit(lease, fill(folder, {"other": b"2"}), {"seconds": 9})
    assert second == first
    assert content(store.fetch(A)) == FILES


def test_seconds_of_the_path_add_up_along_stored_parents(store: StageStore) -> None:
    put(store, A, seconds=10)
    put(store, B, seconds=5, parent=A)
    entry = put(store, C, seconds=2, parent=B, needs=[A])
    assert (entry.parent, entry.needs, entry.path_seconds) == (B, (A,), 17.0)


def test_training_time_defaults_to_the_time_for_which_the_lease_was_held(tmp_path: Path) -> None:
    steady = Clock(50.0)
    store = StageStore(tmp_path / "s", steady=steady)
    lease = taken(store, A)
    steady.now += 42.0
    with store.scratch() as folder:
        assert store.commit(lease, fill(folder), {}).seconds == 42.0


def test_other_processes_and_a_pickled_store_see_the_same(store: StageStore) -> None:
    put(store, A)
    again = pickle.loads(pickle.dumps(store))
    assert again.find(A) == store.find(A)
    assert StageStore(store.root, may_create=False).find(A) == store.find(A)


def test_entries_come_by_digest(store: StageStore) -> None:
    for name in "abc":
        put(store, digest_of(name))
    assert [entry.digest for entry in store.entries()] == sorted([A, B, C])


def test_scores_are_kept_by_version_and_without_the_result(store: StageStore) -> None:
    store.put_scores(A, "v1", {"scores.json": b"[1]", "items/0.jsonl": b"\n\x00"})
    store.put_scores(A, "v2", {})
    assert store.scores(A, "v1") == {"scores.json": b"[1]", "items/0.jsonl": b"\n\x00"}
    assert store.scores(A, "v2") == {}
    assert store.scores(B, "v1") is None
    assert store.find(A) is None
    store.put_scores(A, "v1", {"scores.json": b"[2]"})
    assert store.scores(A, "v1") == {"scores.json": b"[2]"}


def test_use_is_remembered(tmp_path: Path) -> None:
    clock = Clock(1000.0)
    store = StageStore(tmp_path / "s", clock=clock)
    put(store, A)
    assert store.used_at(A) == 1000.0
    clock.now = 2000.5
    store.touch(A)
    assert store.used_at(A) == 2000.5
    clock.now = 3000.0
    store.fetch(A)
    assert store.used_at(A) == 3000.0
    store.touch(B)
    assert store.find(B) is None


def test_find_reads_no_weight(store: StageStore) -> None:
    put(store, A)
    (store.fetch(A) / "weights.bin").unlink()
    entry = store.find(A)
    assert entry is not None
    assert entry.meta["seconds"] == 1.0


def test_checksums_are_compared_once_per_process_and_sizes_each_time(store: StageStore) -> None:
    put(store, A)
    weights = store.fetch(A) / "weights.bin"
    weights.chmod(0o644)
    weights.write_bytes(b"v" * 600)
    store.fetch(A)  # the price of speed, as documented
    weights.write_bytes(b"v" * 599)
    with pytest.raises(Damaged, match=r"weights\.bin of .* has 599 bytes, 600 were stored"):
        store.fetch(A)


def test_stored_files_cannot_be_written_by_accident(store: StageStore) -> None:
    put(store, A)
    assert (store.fetch(A) / "weights.bin").stat().st_mode & 0o222 == 0


def test_errors_pickle(store: StageStore) -> None:
    with pytest.raises(NotStored) as caught:
        store.fetch(A)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"seconds": -1}, "meta['seconds'] is -1"),
        ({"seconds": "1"}, "meta['seconds'] is '1'"),
        ({"seconds": True}, "meta['seconds'] is true"),
        ({"seconds": 1, "x": float("nan")}, "meta is not JSON"),
        ({"seconds": 1, "x": {1, 2}}, "meta is not JSON"),
        ({"seconds": 1, "parent": "base"}, "digest 'base' is not 64 hex digits"),
        ({"seconds": 1, "needs": B}, "meta['needs'] is"),
        ({"seconds": 1, "needs": [3]}, "digest 3 is not 64 hex digits"),
        ({"seconds": 1, "parent": A}, "neither its own parent nor does it need itself"),
        ({"seconds": 1, "x": "y" * (9 << 20)}, "meta and file names exceed"),
    ],
)
def test_meta_that_could_not_come_back_is_refused_and_the_folder_stays(
    store: StageStore, meta: dict[str, object], words: str
) -> None:
    lease = taken(store, A)
    with store.scratch() as folder:
        result = fill(folder)
        with pytest.raises(StoreError) as caught:
            store.commit(lease, result, meta)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert content(result) == FILES
        store.commit(lease, result, {"seconds": 1})
    assert content(store.fetch(A)) == FILES


def test_a_folder_that_is_something_else_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"holds 'thesis\.tex' and is no store; name an empty"):
        StageStore(tmp_path)
    with pytest.raises(StoreError, match="no store here"):
        StageStore(tmp_path / "new", may_create=False)
    assert not (tmp_path / "new").exists()


def test_a_store_of_another_layout_is_left_alone(store: StageStore) -> None:
    mark = Path(store.root) / "store.json"
    mark.write_bytes(mark.read_bytes().replace(b'"layout":1', b'"layout":2'))
    with pytest.raises(StoreError, match="use another folder"):
        StageStore(store.root)


@pytest.mark.parametrize("seconds", [0, -1, 86401, float("nan")])
def test_lease_seconds_must_make_sense(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(StoreError, match="lease_seconds"):
        StageStore(tmp_path / "s", lease_seconds=seconds)
