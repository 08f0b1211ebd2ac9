"""StageStore: results of stages under the digest of all that determines them. Trained once, by whoever is first.

A worker's loop:

    while (entry := store.find(digest)) is None:
        lease = store.lease(digest)
        if lease is None:
            ...  # someone else trains it: do something else, or wait
            continue
        with lease.renewing(), store.scratch() as folder:
            ...  # train, and save into folder / "result"
            entry = store.commit(lease, folder / "result", {"parent": ..., "seconds": ...})

What holds when processes die at any moment, disks are full and many share one store: an entry is complete or not there;
one owner trains a digest at a time; one who lost its lease cannot commit; what was damaged is never returned. See
search.store.leases for dead owners and clocks, search.store.eviction for what goes when space is short.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from search.store import checkpoints
from search.store.cleaning import collect
from search.store.describing import described
from search.store.entry import Entry, Fault
from search.store.errors import (
    Damaged,
    ExplainedScratch,
    NotStored,
    StaleLease,
    StoreError,
    explained,
)
from search.store.files import open_files
from search.store.leases import Head, Lease, LeaseLog
from search.store.names import checked_digest, checked_digests, checked_name
from search.store.sealed import seal
from search.store.shelf import (
    Shelf,
    attempt_path,
    manifest_path,
    packed_scores,
    prepared_path,
    sealed_pin,
)

__all__ = [
    "Damaged",
    "Entry",
    "Fault",
    "Lease",
    "NotStored",
    "StageStore",
    "StaleLease",
    "StoreError",
]


class StageStore:
    """A store at a root. Many processes and machines may use one root; an object belongs to one process.

    Args:
        root: Local folder (also mounted by several machines), or any url of fsspec. Made if it is missing.
        lease_seconds: How long a lease lives without a renewal.
        clock: Seconds since 1970; for times of use and creation alone.
        owner: Who holds the leases, for people; default: host and process.
        steady: Seconds that never jump; for expiry. Only differences of its own readings count.
        cache: Folder for copies of a remote store's entries; default: one that ends with the process.
        may_create: False refuses a root that is no store yet.

    Raises:
        StoreError: The root cannot be used. All methods raise it for names that are not allowed, and for errors of
            the operating system, with a remedy.
    """

    def __init__(
        self,
        root: str | Path,
        lease_seconds: float = 120,
        clock: Callable[[], float] = time.time,
        owner: str | None = None,
        *,
        steady: Callable[[], float] = time.monotonic,
        cache: Path | None = None,
        may_create: bool = True,
    ) -> None:
        if not 0 < lease_seconds <= 86400:
            raise StoreError(f"lease_seconds is {lease_seconds}; give 1 to 86400")
        self._arguments = (root, lease_seconds, clock, owner)
        self._options: dict[str, Any] = {"steady": steady, "cache": cache, "may_create": may_create}
        self._clock = clock
        self._files = open_files(root, cache)
        self._shelf = Shelf(self._files)
        self._checked: set[str] = set()
        name = owner or f"{socket.gethostname()}:{os.getpid()}"
        self._log = LeaseLog(self._files, name, float(lease_seconds), steady)
        self.root = self._files.place
        with explained(self.root):
            self._shelf.open(may_create)

    def __reduce__(self) -> tuple[Any, ...]:
        # What one process has seen and checked says nothing to another.
        return functools.partial(type(self), **self._options), self._arguments

    def find(self, digest: str) -> Entry | None:
        """Return what the manifest says, without reading a weight; None if nothing whole is stored."""
        with explained(self.root):
            return self._shelf.find(checked_digest(digest))

    def lease(self, digest: str, uses: Collection[str] = ()) -> Lease | None:
        """Return the exclusive right to train a digest.

        Args:
            digest: What to train.
            uses: Entries that the training reads; they count as used while the lease is renewed.

        Returns:
            None if a live owner has it, or if it is stored: look with `find`. The lease of a dead owner is taken over
            at once if it ran on this machine, else by the first call that comes `lease_seconds` after the first one.
        """
        used = checked_digests(uses)
        with explained(self.root):
            return self._acquire(checked_digest(digest), used, even_if_stored=False)

    def commit(self, lease: Lease, files: Path, meta: Mapping[str, Any]) -> Entry:
        """Store a prepared folder under the digest of a lease, and end the lease.

        Args:
            lease: The right to do so.
            files: Folder of plain files, best in a `scratch` folder: then it is moved, else copied. It is where it
                was if this fails.
            meta: JSON; all of it comes back in `Entry.meta`. Read by the store: `parent`, the digest of the stage
                before; `needs`, digests without which the entry is no model; `seconds` of training, by default those
                for which the lease was held.

        Returns:
            The entry; the one that is there already, if there is one.

        Raises:
            StaleLease: The lease is not its owner's any more.
        """
        digest = lease.digest
        with explained(self.root):
            if not lease.is_newest():
                raise StaleLease(f"the lease of {digest} is over; look for its result")
            self._publish(digest, self._log.head(digest))
            first = self._shelf.find(digest)
            if first is not None:
                return first
            entry = described(lease, Path(files), meta, self._clock(), self._shelf.find)
            path = attempt_path(digest, entry.attempt)
            try:
                self._files.put_folder(Path(files), path)
                self._files.replace(prepared_path(digest, entry.attempt), seal(entry))
                lease.commit(entry.attempt)
            except (OSError, StoreError):
                self._withdraw(entry, Path(files))
                raise
            self._publish(digest, self._log.head(digest))
            self._files.mark_used(manifest_path(digest), self._clock())
            checkpoints.drop(self._shelf, digest)
            return entry

    def put_checkpoint(self, lease: Lease, files: Path, meta: Mapping[str, Any]) -> None:
        """Keep a stage that is being trained, in place of what was kept of it before.

        Args:
            lease: The right to train it.
            files: As of `commit`.
            meta: JSON; comes back from `checkpoint`.

        Raises:
            StaleLease: The lease is not its owner's any more.
        """
        with explained(self.root):
            if not lease.is_valid():
                raise StaleLease(f"the lease of {lease.digest} is over; look for its result")
            entry = described(lease, Path(files), meta, self._clock(), lambda _: None)
            checkpoints.put(self._shelf, Path(files), entry)

    def checkpoint(self, digest: str) -> tuple[Path, dict[str, Any]] | None:
        """Return a local folder, to be read now, and the meta of the last `put_checkpoint`; None if none is whole."""
        with explained(self.root):
            found = checkpoints.find(self._shelf, checked_digest(digest))
        return None if found is None else (found[0], found[1].meta)

    def scratch(self) -> AbstractContextManager[Path]:
        """Give a new folder from which `commit` moves; removed at the end with all that is left in it."""
        return ExplainedScratch(self.root, self._files.scratch())

    def fetch(self, digest: str) -> Path:
        """Return a local folder with the files of an entry, to be read and not to be changed.

        Sizes are compared with the manifest each time, checksums once per process. The files stay for as long as the
        entry is used now and then, see `gc`.

        Raises:
            NotStored: There is no such entry, or no more.
            Damaged: It did not match its manifest: a NotStored as well, since it is in quarantine now and the digest
                can be trained again.
        """
        with explained(self.root):
            path = manifest_path(checked_digest(digest))
            self._files.mark_used(path, self._clock())
            try:
                entry = self._shelf.entry(digest)
            except ValueError as error:
                self._shelf.quarantine(digest, None)
                raise Damaged(
                    f"{self.root}/{path} {error}; the entry is in quarantine, train the stage again"
                ) from None
            if entry is None:
                raise NotStored(f"{self.root}: {digest} is not stored; train the stage")
            folder = self._shelf.local_folder(entry, entry.attempt not in self._checked)
            self._checked.add(entry.attempt)
            return folder

    def put_scores(self, digest: str, suite_version: str, files: Mapping[str, bytes]) -> None:
        """Store the scores of a stage by one version of the suite, over those that are there.

        Args:
            digest: The stage; its result need not be stored.
            suite_version: A name; another suite is another one.
            files: Name to content; what they hold is the caller's.
        """
        checked_name(suite_version, "suite version")
        data = packed_scores(checked_digest(digest), suite_version, dict(files))
        with explained(self.root):
            self._shelf.put_scores(digest, suite_version, data)

    def scores(self, digest: str, suite_version: str) -> dict[str, bytes] | None:
        """Return what `put_scores` stored; None if there is nothing. Damaged scores go into quarantine, None then."""
        checked_name(suite_version, "suite version")
        with explained(self.root):
            return self._shelf.scores(checked_digest(digest), suite_version)

    def touch(self, digest: str) -> None:
        """Count an entry as used now, if it is stored. `fetch` and `commit` do so by themselves."""
        with explained(self.root):
            self._files.mark_used(manifest_path(checked_digest(digest)), self._clock())

    def used_at(self, digest: str) -> float | None:
        """Return when an entry was used last, in seconds since 1970; None if it is not stored."""
        with explained(self.root):
            return self._files.used_at(manifest_path(checked_digest(digest)))

    def pin(self, name: str, digests: Collection[str]) -> None:
        """Keep entries, all their parents and all these need, until the pin of this name is set anew or removed.

        What `find` shows after this call stays. Digests may be stored later, or never.
        """
        path = f"pins/{checked_name(name, 'pin')}.json"
        data = sealed_pin(checked_digests(digests))
        with explained(self.root):
            self._files.replace(path, data)

    def unpin(self, name: str) -> None:
        """Remove a pin, if it is there."""
        with explained(self.root):
            self._files.remove(f"pins/{checked_name(name, 'pin')}.json")

    def pins(self) -> dict[str, tuple[str, ...]]:
        """Return the digests of each pin."""
        with explained(self.root):
            return self._shelf.pins()

    def entries(self) -> Iterator[Entry]:
        """Return all entries by digest; those with a damaged manifest are not among them."""
        with explained(self.root):
            yield from self._shelf.entries()

    def verify(
        self, digests: Collection[str] | None = None, *, to_quarantine: bool = False
    ) -> list[Fault]:
        """Compare every byte of entries, scores and pins with its checksum.

        Args:
            digests: Which; None: all there are.
            to_quarantine: Also take damaged entries and scores out of use, as `fetch` and `scores` would.

        Returns:
            What is wrong, by digest; empty if nothing is.
        """
        faults: list[Fault] = []
        with explained(self.root):
            if digests is None:
                known = {*self._shelf.digests(), *self._shelf.digests("scores")}
                try:
                    self._shelf.pins()
                except StoreError as error:
                    faults.append(Fault(digest=None, path="pins", reason=str(error)))
            else:
                known = set(checked_digests(digests))
            for digest in sorted(known):
                found = list(self._shelf.faults(digest))
                faults += found
                if found and to_quarantine:
                    self._shelf.isolate(digest, found)
        return faults

    def gc(
        self, max_bytes: int, dry_run: bool = False, *, idle_seconds: float | None = None
    ) -> list[Entry]:
        """Evict entries until the others fit; empty the quarantine, and remove what dead processes left.

        Args:
            max_bytes: What all files of all entries may take; scores are not counted and stay.
            dry_run: Remove nothing.
            idle_seconds: Entries used in the last so many seconds stay, since someone may be reading them; default:
                `lease_seconds`. Clocks of machines that differ by more than that make it useless: raise it.

        Returns:
            What went, or would go, in this order: see search.store.eviction. The others may still be too large, if
            they are pinned, needed or in use.
        """
        idle = self._log.lease_seconds if idle_seconds is None else idle_seconds
        if max_bytes < 0 or idle < 0:
            raise StoreError(f"max_bytes {max_bytes} and idle_seconds {idle} must be at least 0")

        def acquire(digest: str) -> Lease | None:
            return self._acquire(digest, (), even_if_stored=True)

        with explained(self.root):
            return collect(self._shelf, acquire, self._clock, max_bytes, dry_run, idle)

    def _acquire(self, digest: str, uses: tuple[str, ...], even_if_stored: bool) -> Lease | None:
        head = self._log.head(digest)
        self._publish(digest, head)
        if not even_if_stored and self._is_stored(digest):
            return None
        # Whatever is stored from here on is in the log, and then this head is not the newest.
        if not self._log.is_free(digest, head):
            return None
        lease = self._log.take(digest, head, lambda: self._mark_used(uses))
        if lease is not None:
            self._mark_used(uses)
        return lease

    def _publish(self, digest: str, head: Head) -> None:
        """Finish a commit whose owner wrote that it is one; the owner itself, or whoever comes after its death."""
        record = head.record
        if record is not None and record.kind == "commit" and record.attempt is not None:
            self._files.move(prepared_path(digest, record.attempt), manifest_path(digest))

    def _is_stored(self, digest: str) -> bool:
        try:
            return self._shelf.entry(digest) is not None
        except ValueError:
            self._shelf.quarantine(digest, None)
            return False

    def _mark_used(self, digests: tuple[str, ...]) -> None:
        for digest in digests:
            self._files.mark_used(manifest_path(digest), self._clock())

    def _withdraw(self, entry: Entry, files: Path) -> None:
        """Undo what a failed commit has written, unless somebody published it in spite of the failure."""
        with suppress(OSError, StoreError):
            self._files.remove(prepared_path(entry.digest, entry.attempt))
        with suppress(OSError, StoreError):
            published = self._shelf.find(entry.digest)
            if published is None or published.attempt != entry.attempt:
                self._files.give_back(attempt_path(entry.digest, entry.attempt), files)
