"""A store with one thing wrong in it, wherever and whatever: found by verify and by use, and never returned.

80 changes here, and a thousand others with -m slow. Whoever knows the format can seal what he likes: see
tests/unit/test_store_untrusted.py for what he cannot say even then.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from store_tools import content, digest_of, put

from search.store import NotStored, StageStore, StoreError

N_ENTRIES = 4
DIGESTS = [digest_of(number) for number in range(N_ENTRIES)]
SCORES = {"scores.json": b"[1, 2, 3]", "items.jsonl": b'{"a": 1}\n' * 20}
HOW = ("flip", "cut", "grow", "empty", "remove", "link", "folder", "pipe", "swap", "copy", "plant")


def files_of(digest: str) -> dict[str, bytes]:
    numbers = random.Random(digest)
    return {
        "trained.safetensors": numbers.randbytes(numbers.randint(1, 4000)),
        "deep/config.json": b'{"r": 4}' + digest.encode(),
    }


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a store with entries, scores and a pin."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no power is cut here
    store = StageStore(tmp_path / "good")
    for digest in DIGESTS:
        put(store, digest, files_of(digest))
        store.put_scores(digest, "v1", SCORES)
    store.pin("study", DIGESTS[:2])
    shutil.rmtree(tmp_path / "good" / "leases")  # nothing is asked of them once all is stored
    shutil.rmtree(tmp_path / "good" / "tmp", ignore_errors=True)
    return tmp_path / "good"


def change(root: Path, numbers: random.Random) -> tuple[str, str]:
    """Change one file of a store; return how and which."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path, other = numbers.sample(files, 2)
    data = path.read_bytes()
    how = numbers.choice(HOW)
    if how not in ("flip", "cut", "grow", "plant"):
        path.unlink()
    else:
        path.chmod(0o644)
    if how == "flip":
        bit = numbers.randrange(8 * len(data))
        path.write_bytes(
            data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
        )
    elif how == "cut":
        path.write_bytes(data[: numbers.randrange(len(data))])
    elif how == "grow":
        path.write_bytes(data + numbers.randbytes(numbers.randint(1, 50)))
    elif how == "empty":
        path.touch()
    elif how == "link":
        (root.parent / "elsewhere").write_bytes(data)
        path.symlink_to(root.parent / "elsewhere")
    elif how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "swap":
        os.rename(other, path)
        other.write_bytes(data)
    elif how == "copy":
        path.write_bytes(other.read_bytes())
    elif how == "plant":
        path = path.with_name("pytorch_model.bin")
        path.write_bytes(b"\x80\x04")
    return how, str(path.relative_to(root))


def asked(root: Path) -> tuple[int, int]:
    """Ask for everything of a store; return how many answers were right and how many said that nothing is there."""
    store = StageStore(root, may_create=False)
    n_right = n_none = 0
    for digest in DIGESTS:
        try:
            assert content(store.fetch(digest)) == files_of(digest)
            n_right += 1
        except NotStored:
            n_none += 1
        scores = store.scores(digest, "v1")
        assert scores in (None, SCORES)
        n_right += scores is not None
        n_none += scores is None
    return n_right, n_none


def is_beside_weights(path: str) -> bool:
    """Tell whether a planted file is in the folder of an attempt, which loaders are given."""
    return path.startswith("entries") and path.count("/") >= 4


def is_out_of_sight(how: str, path: str) -> bool:
    """Tell whether a change leaves nothing that anybody could find: all files are known by their manifests."""
    part = path.partition("/")[0]
    if how == "plant":
        return part not in ("scores", "pins") and not is_beside_weights(path)
    return how == "remove" and (part == "pins" or path.endswith(("manifest.json", ".pack")))


@pytest.mark.parametrize("n", [80, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_change_of_a_store_is_found_and_nothing_wrong_is_returned(good: Path, n: int) -> None:
    kinds: set[str] = set()
    assert asked(good) == (2 * N_ENTRIES, 0)
    assert StageStore(good).verify() == []
    for turn in range(n):
        root = good.parent / "store"
        shutil.copytree(good, root)
        how, path = change(root, random.Random(f"{n} {turn}"))
        part = path.partition("/")[0]
        what = f"{how} {path}, turn {turn}"
        kinds |= {how, part}
        try:
            store = StageStore(root, may_create=False)
        except StoreError:
            assert part == "store.json" or how == "swap", what
        else:
            assert bool(store.verify()) == (not is_out_of_sight(how, path)), what
            if part == "pins" and how != "remove":
                with pytest.raises(StoreError, match="pins/"):
                    store.gc(0, idle_seconds=0)
            n_right, n_none = asked(root)
            assert n_right + n_none == 2 * N_ENTRIES, what
            is_used = is_beside_weights(path) if how == "plant" else part != "pins" or how == "swap"
            assert (n_none > 0) == is_used, what
        shutil.rmtree(root)
    assert kinds >= {*HOW, "entries", "scores", "pins"}
