"""Garbage collection: evicting entries under their leases, and removing what nobody refers to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from search.store.checkpoints import drop_orphans
from search.store.entry import Entry
from search.store.errors import StoreError
from search.store.eviction import eviction_order, with_ancestors
from search.store.leases import Lease
from search.store.shelf import Shelf, attempt_path, digest_path, manifest_path, prepared_path

Acquire = Callable[[str], Lease | None]
"""Returns the lease of a digest, stored or not; None if it has a live owner."""


def collect(
    shelf: Shelf,
    acquire: Acquire,
    clock: Callable[[], float],
    max_bytes: int,
    dry_run: bool,
    idle_seconds: float,
) -> list[Entry]:
    """Evict until what is left fits; see `StageStore.gc`."""
    entries = {entry.digest: entry for entry in shelf.entries()}
    used_at = {digest: shelf.files.used_at(manifest_path(digest)) or 0.0 for digest in entries}
    now = clock()
    idle = {digest: now - used for digest, used in used_at.items()}
    pinned = [digest for digests in shelf.pins().values() for digest in digests]
    in_use = {digest for digest, seconds in idle.items() if seconds < idle_seconds}
    kept = with_ancestors(pinned, entries) | in_use
    total = sum(entry.bytes for entry in entries.values())
    gone: list[Entry] = []
    for entry in eviction_order(entries, kept, idle):
        if total <= max_bytes:
            break
        if not dry_run and not _evict(shelf, acquire, entry, entries, used_at[entry.digest]):
            continue
        total -= entry.bytes
        gone.append(entry)
    if not dry_run:
        _remove_leftovers(shelf, acquire)
        drop_orphans(shelf, now)
        shelf.files.remove("quarantine")
        shelf.files.tidy(now)
    return gone


def _evict(
    shelf: Shelf, acquire: Acquire, entry: Entry, entries: dict[str, Entry], used_at: float
) -> bool:
    """Remove an entry, unless it was pinned or used since it was chosen; nobody trains it meanwhile."""
    lease = acquire(entry.digest)
    if lease is None:
        return False
    manifest, doomed = manifest_path(entry.digest), f"{digest_path(entry.digest)}/doomed.json"
    try:
        if not shelf.files.move(manifest, doomed):
            return False
        # Who pins or reads from now on does not find it; who did so before is seen here.
        pinned = [digest for digests in shelf.pins().values() for digest in digests]
        if (shelf.files.used_at(doomed) or 0.0) != used_at or entry.digest in with_ancestors(
            pinned, entries
        ):
            shelf.files.move(doomed, manifest)
            return False
        shelf.files.remove(prepared_path(entry.digest, entry.attempt))
        shelf.files.remove(attempt_path(entry.digest, entry.attempt))
        shelf.files.remove(digest_path(entry.digest))
    finally:
        lease.release()
    return True


def _remove_leftovers(shelf: Shelf, acquire: Acquire) -> None:
    """Remove attempts that no manifest refers to: of commits that died, and of evictions that did."""
    for digest in shelf.digests():
        folder = digest_path(digest)
        names = shelf.files.names(folder)
        try:
            entry = shelf.entry(digest)
        except (ValueError, StoreError):
            continue  # damaged: for `verify` to tell and for the next lease to clear away
        expected = {"manifest.json", "used", entry.attempt} if entry is not None else set()
        if set(names) <= expected and names:
            continue
        lease = acquire(digest)
        if lease is None:
            continue
        try:
            entry = shelf.find(digest)
            with suppress(OSError):
                if entry is None:
                    shelf.files.remove(folder)
                else:
                    keep = {"manifest.json", "used", entry.attempt}
                    for name in set(names) - keep:
                        shelf.files.remove(f"{folder}/{name}")
        finally:
            lease.release()
