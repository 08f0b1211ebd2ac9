"""The files of a store by what they are: manifests, entries, scores, pins, quarantine. No leases.

store.json                                    version of this layout
entries/<xx>/<digest>/manifest.json           a sealed Entry: what makes the entry visible, and comes last
entries/<xx>/<digest>/<attempt>/...           its files
entries/<xx>/<digest>/<attempt>.json          the manifest before it is published
scores/<xx>/<digest>/<suite version>.pack     see search.store.sealed
checkpoints/<xx>/<digest>/                    see search.store.checkpoints
leases/<xx>/<digest>/<counter>                see search.store.leases
pins/<name>.json                              what a study wants kept
quarantine/<digest>-<...>/                    what was found damaged, until the next gc
tmp/                                          of processes at work
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field

from search.store.entry import Entry, Fault, differences
from search.store.errors import Damaged, StoreError
from search.store.files import Files
from search.store.names import Digest, is_digest
from search.store.sealed import MAX_PACK, MAX_SEALED, Strict, pack, seal, unpack, unseal

MAX_PINNED = 100_000
"""Digests of one pin."""
_BEFORE = ("tmp", "probe")
"""Folders that may be there before store.json is."""


class Mark(Strict):
    """store.json: that a folder is a store, and of which layout."""

    layout: Literal[1] = 1
    """Another layout is another number, so that no version destroys what it does not understand."""


class Pin(Strict):
    """What one study wants kept."""

    digests: tuple[Digest, ...] = Field(max_length=MAX_PINNED)
    """Without their parents, which are found by their manifests."""


class Shelf:
    """Reads and writes the files of one store; see `StageStore` for what it promises."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def open(self, may_create: bool) -> None:
        """Check that this is a store of this layout, or make it one if it is empty.

        Raises:
            StoreError: It is none, or one of another version.
        """
        data = self.files.read("store.json", MAX_SEALED)
        if data is None:
            others = [name for name in self.files.names("") if name not in _BEFORE]
            if not may_create:
                raise StoreError(
                    f"{self.files.place}: no store here (store.json is missing); name its folder or url"
                )
            if others and "store.json" not in others:
                raise StoreError(
                    f"{self.files.place}: holds {others[0]!r} and is no store; name an empty folder"
                )
            self.files.probe()
            self.files.create("store.json", seal(Mark()))
            data = self.files.read("store.json", MAX_SEALED) or b""
        try:
            unseal(data, Mark)
        except ValueError as error:
            raise StoreError(
                f"{self.files.place}/store.json: {error}; it is damaged or of another version, "
                "use another folder"
            ) from None

    def find(self, digest: str) -> Entry | None:
        """Return the entry, or None if there is none or its manifest is damaged."""
        try:
            return self.entry(digest)
        except ValueError:
            return None

    def entry(self, digest: str) -> Entry | None:
        """Return the entry, or None if there is none.

        Raises:
            ValueError: Its manifest is damaged.
        """
        data = self.files.read(manifest_path(digest), MAX_SEALED)
        if data is None:
            return None
        entry = unseal(data, Entry)
        if entry.digest != digest:
            raise ValueError("is the manifest of another digest")
        return entry

    def digests(self, kind: str = "entries") -> Iterator[str]:
        """Return all digests of which anything is there, sorted."""
        for shard in self.files.names(kind):
            if len(shard) == 2:
                for name in self.files.names(f"{kind}/{shard}"):
                    if is_digest(name) and name.startswith(shard):
                        yield name

    def entries(self) -> Iterator[Entry]:
        """Return all entries by digest, without those whose manifest is damaged."""
        for digest in self.digests():
            entry = self.find(digest)
            if entry is not None:
                yield entry

    def quarantine(self, digest: str, attempt: str | None) -> None:
        """Take an entry out of use and keep it for people to look at.

        Args:
            digest: The entry.
            attempt: The attempt that was found damaged; None if its manifest is. If another one is there by now, it
                stays.
        """
        place = f"quarantine/{digest}-{uuid.uuid4().hex}"
        if not self.files.move(manifest_path(digest), f"{place}/manifest.json"):
            return
        data = self.files.read(f"{place}/manifest.json", MAX_SEALED) or b""
        found: str | None = None
        with suppress(ValueError):
            found = unseal(data, Entry).attempt
        if found != attempt:
            self.files.move(f"{place}/manifest.json", manifest_path(digest))
            return
        # Without a readable manifest nobody knows which attempt it was; what is left over, gc removes.
        if attempt is not None:
            self.files.remove(prepared_path(digest, attempt))
            self.files.move(attempt_path(digest, attempt), f"{place}/{attempt}")

    def isolate(self, digest: str, faults: Iterable[Fault]) -> None:
        """Take what `faults` found damaged out of use."""
        for path in {fault.path for fault in faults if not fault.is_lack}:
            if path.startswith("scores/"):
                self.scores(digest, path.rpartition("/")[2].removesuffix(".pack"))
            else:
                entry = self.find(digest)
                self.quarantine(digest, entry.attempt if entry is not None else None)

    def local_folder(self, entry: Entry, with_checksums: bool) -> Path:
        """Return a local folder with the files of an entry, compared with its manifest.

        Raises:
            Damaged: They differ; the entry is in quarantine.
        """
        from search.store import tree

        path = attempt_path(entry.digest, entry.attempt)
        wrong: list[tuple[str, str]] = []
        for _ in range(2):  # a local copy may be what is damaged
            folder = self.files.fetch(path, entry)
            sha256 = _hasher(folder, tree.sha256) if with_checksums else None
            wrong = differences(entry, tree.sizes(folder), sha256)
            if not wrong:
                return folder
            if not self.files.discard(path):
                break
        self.quarantine(entry.digest, entry.attempt)
        name, reason = wrong[0]
        raise Damaged(
            f"{self.files.place}: {name} of {entry.digest} {reason}; the entry is in quarantine, "
            "train the stage again"
        )

    def put_scores(self, digest: str, version: str, data: bytes) -> None:
        """Write a score pack over whatever is there."""
        self.files.replace(scores_path(digest, version), data)

    def scores(self, digest: str, version: str) -> dict[str, bytes] | None:
        """Return the files of a score pack; None if there is none. A damaged one goes into quarantine."""
        path = scores_path(digest, version)
        data = self.files.read(path, MAX_PACK + MAX_SEALED)
        if data is None:
            return None
        try:
            return unpack(data, digest, version)
        except ValueError:
            self.files.move(path, f"quarantine/{digest}-{uuid.uuid4().hex}/{version}.pack")
            return None

    def pins(self) -> dict[str, tuple[str, ...]]:
        """Return the digests of each pin.

        Raises:
            StoreError: A pin cannot be read, so nobody knows what it keeps.
        """
        found = {}
        for file in self.files.names("pins"):
            name = file.removesuffix(".json")
            data = self.files.read(f"pins/{file}", MAX_SEALED)
            if data is None:
                continue
            try:
                found[name] = unseal(data, Pin).digests
            except ValueError as error:
                raise StoreError(
                    f"{self.files.place}/pins/{file}: {error}; remove it and pin again"
                ) from None
        return found

    def faults(self, digest: str) -> Iterator[Fault]:
        """Return all that is wrong with the entry and the scores of one digest, reading every byte."""
        path = manifest_path(digest)
        try:
            entry = self.entry(digest)
            if entry is not None:
                path = attempt_path(digest, entry.attempt)
                sizes = self.files.sizes(path)
                wrong = differences(entry, sizes, _hasher(path, self.files.sha256))
                for name, reason in wrong:
                    yield Fault(digest=digest, path=f"{path}/{name}", reason=reason)
                for needed in entry.needs:
                    if self.find(needed) is None:
                        reason = f"needs {needed}, which is not stored; train that stage again"
                        yield Fault(digest=digest, path=path, reason=reason, is_lack=True)
        except (ValueError, StoreError, OSError) as error:
            yield Fault(digest=digest, path=path, reason=str(error))
        yield from self._score_faults(digest)

    def _score_faults(self, digest: str) -> Iterator[Fault]:
        folder = f"scores/{digest[:2]}/{digest}"
        try:
            names = self.files.names(folder)
        except (StoreError, OSError) as error:
            yield Fault(digest=digest, path=folder, reason=str(error))
            return
        for name in names:
            path = f"{folder}/{name}"
            try:
                data = self.files.read(path, MAX_PACK + MAX_SEALED)
                unpack(data or b"", digest, name.removesuffix(".pack"))
            except (ValueError, StoreError, OSError) as error:
                yield Fault(digest=digest, path=path, reason=str(error))


def digest_path(digest: str) -> str:
    """Return the folder of all that is stored of one digest's result."""
    return f"entries/{digest[:2]}/{digest}"


def manifest_path(digest: str) -> str:
    """Return the file that makes an entry visible."""
    return f"{digest_path(digest)}/manifest.json"


def attempt_path(digest: str, attempt: str) -> str:
    """Return the folder of an attempt's files."""
    return f"{digest_path(digest)}/{attempt}"


def prepared_path(digest: str, attempt: str) -> str:
    """Return the file of a manifest that is not published yet."""
    return f"{digest_path(digest)}/{attempt}.json"


def scores_path(digest: str, version: str) -> str:
    """Return the file of a score pack."""
    return f"scores/{digest[:2]}/{digest}/{version}.pack"


def sealed_pin(digests: Iterable[str]) -> bytes:
    """Return the content of a pin's file.

    Raises:
        StoreError: They are too many.
    """
    found = tuple(digests)
    if len(found) > MAX_PINNED:
        raise StoreError(f"a pin of {len(found)} digests is too long; {MAX_PINNED} are allowed")
    return seal(Pin(digests=found))


def packed_scores(digest: str, version: str, files: dict[str, bytes]) -> bytes:
    """Return the content of a score pack.

    Raises:
        StoreError: A file's name is not allowed, or they are too large.
    """
    try:
        return pack(digest, version, files)
    except ValueError as error:
        raise StoreError(f"scores of {digest}: {error}; rename or shrink it") from None


def _hasher(folder: str | Path, sha256: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: sha256(f"{folder}/{name}")
