"""Checkpoints of stages that are being trained, beside their leases: one per digest, by whoever holds the lease.

checkpoints/<xx>/<digest>/manifest.json     a sealed Entry, which comes last
checkpoints/<xx>/<digest>/<attempt>/...     its files

What a stage is in its middle follows from its digest and the step, so a checkpoint that a late owner writes over one of
its successor costs time and is never wrong. It goes when its stage is stored, and when nobody came for it in a week.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from search.store import tree
from search.store.entry import Entry, differences
from search.store.errors import StoreError
from search.store.sealed import MAX_SEALED, seal, unseal
from search.store.shelf import Shelf

ORPHAN_SECONDS = 7 * 86400
"""Age at which a checkpoint is taken for forgotten."""


def put(shelf: Shelf, folder: Path, entry: Entry) -> None:
    """Bring a prepared folder in as the checkpoint of a digest, in place of an older one."""
    place = _place(entry.digest)
    shelf.files.put_folder(folder, f"{place}/{entry.attempt}")
    shelf.files.replace(f"{place}/manifest.json", seal(entry))
    for name in shelf.files.names(place):
        if name not in (entry.attempt, "manifest.json"):
            with suppress(OSError):
                shelf.files.remove(f"{place}/{name}")


def find(shelf: Shelf, digest: str) -> tuple[Path, Entry] | None:
    """Return a local folder with the newest checkpoint and what its manifest says; None if none is whole."""
    place = _place(digest)
    entry = _entry(shelf, digest)
    if entry is None:
        return None
    with suppress(OSError):
        folder = shelf.files.fetch(f"{place}/{entry.attempt}", entry)
        sizes = tree.sizes(folder)
        if not differences(entry, sizes, lambda name: tree.sha256(folder / name)):
            return folder, entry
    return None


def drop(shelf: Shelf, digest: str) -> None:
    """Remove the checkpoint of a digest, if there is one."""
    with suppress(OSError):
        shelf.files.remove(_place(digest))


def drop_orphans(shelf: Shelf, now: float) -> None:
    """Remove checkpoints of stages that are stored, and those that nobody came for."""
    for digest in list(shelf.digests("checkpoints")):
        entry = _entry(shelf, digest)
        is_stored = shelf.find(digest) is not None
        if is_stored or (entry is not None and now - entry.created_at > ORPHAN_SECONDS):
            drop(shelf, digest)


def _entry(shelf: Shelf, digest: str) -> Entry | None:
    with suppress(ValueError, OSError, StoreError):
        data = shelf.files.read(f"{_place(digest)}/manifest.json", MAX_SEALED)
        if data is not None and (entry := unseal(data, Entry)).digest == digest:
            return entry
    return None


def _place(digest: str) -> str:
    return f"checkpoints/{digest[:2]}/{digest}"
