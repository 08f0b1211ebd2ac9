"""A store at whatever fsspec reaches: object stores, other machines, memory.

It needs exclusive creation, which object stores have (a conditional put) and which is tried out when a store is opened.
There is no rename: entries become visible by their manifest, which comes last. Entries are downloaded once.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped,unused-ignore]
from fsspec.asyn import AsyncFileSystem  # type: ignore[import-untyped,unused-ignore]

from search.store import tree
from search.store.entry import Entry
from search.store.errors import StoreError

_CHUNK = 1 << 22


class RemoteFiles:
    """Files below a url; see `search.store.files.Files`."""

    def __init__(self, url: str, cache: Path | None) -> None:
        self.place = re.sub(r"//[^/@]*@", "//", url.partition("?")[0])
        try:
            # What others write must be seen: no listing is remembered.
            self._fs, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise StoreError(f"{self.place}: {error}; check the url and its package") from None
        self._root = self._root.rstrip("/")
        self._creates_in_one = _creates_in_one(self._fs)
        if cache is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="apportion-store-")
            cache = Path(self._temporary.name)
        self._cache = cache

    def probe(self) -> None:
        """Try exclusive creation out."""
        name = f"probe/{uuid.uuid4().hex}"
        is_first, is_second = self.create(name, b"1"), self.create(name, b"2")
        self.remove(name)
        if not is_first or is_second:
            raise StoreError(
                f"{self.place}: this filesystem cannot create a file exclusively; "
                "put the store on another one"
            )

    def read(self, path: str, limit: int) -> bytes | None:
        """Read a file."""
        try:
            with self._fs.open(self._at(path), "rb") as file:
                return bytes(file.read(limit + 1))
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            return b""

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists."""
        try:
            self._in_folder(path, lambda place: self._create(place, data))
        except FileExistsError:
            return False
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write a file over whatever is there."""
        self._in_folder(path, lambda place: self._fs.pipe_file(place, data))

    def move(self, old: str, new: str) -> bool:
        """Copy and remove: others may see both for a moment."""
        source = self._at(old)
        if not self._fs.exists(source):
            return False
        try:
            is_folder = self._fs.isdir(source)
            self._in_folder(new, lambda place: self._fs.mv(source, place, recursive=is_folder))
        except FileNotFoundError:
            return False
        return True

    def remove(self, path: str) -> None:
        """Remove a file or folder."""
        with suppress(FileNotFoundError):
            self._fs.rm(self._at(path), recursive=True)

    def names(self, path: str) -> list[str]:
        """List a folder."""
        place = self._at(path) if path else self._root
        try:
            found = self._fs.ls(place, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = {str(name).rstrip("/").rpartition("/")[2] for name in found}
        return sorted(names - {""} if found != [place] else set())

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a local folder."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=".scratch-") as folder:
            yield Path(folder)

    def put_folder(self, folder: Path, path: str) -> None:
        """Upload a folder; the original stays."""
        for name in tree.sizes(folder):
            local = str(folder / name)
            self._in_folder(
                f"{path}/{name}", lambda place, local=local: self._fs.put_file(local, place)
            )

    def give_back(self, path: str, folder: Path) -> None:
        """Remove what was uploaded."""
        self.remove(path)

    def sizes(self, path: str) -> dict[str, int]:
        """Say what is in a folder."""
        place = self._at(path)
        try:
            found = self._fs.find(place, detail=True)
        except FileNotFoundError:
            return {}
        return {
            str(name)[len(place) :].lstrip("/"): int(info["size"])
            for name, info in sorted(found.items())
        }

    def sha256(self, path: str) -> str:
        """Hash a file."""
        digest = hashlib.sha256()
        with self._fs.open(self._at(path), "rb") as file:
            while part := file.read(_CHUNK):
                digest.update(part)
        return digest.hexdigest()

    def fetch(self, path: str, entry: Entry) -> Path:
        """Download the files that the manifest names, unless they are here."""
        local = self._cache / path
        if local.is_dir():
            return local
        with self.scratch() as folder:
            for file in entry.files:
                target = folder / "whole" / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # found missing by whoever compares
                    self._fs.get_file(f"{self._at(path)}/{file.path}", str(target))
            local.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(folder / "whole", local)
            except OSError:
                if not local.is_dir():  # else another thread or process was first
                    raise
        return local

    def discard(self, path: str) -> bool:
        """Remove the local copy."""
        shutil.rmtree(self._cache / path, ignore_errors=True)
        return True

    def mark_used(self, path: str, now: float) -> None:
        """Write the time into a file beside the manifest."""
        if self._fs.exists(self._at(path)):
            self.replace(_used(path), repr(now).encode())

    def used_at(self, path: str) -> float | None:
        """Read the time; a manifest without one was never used."""
        if not self._fs.exists(self._at(path)):
            return None
        try:
            return float(self.read(_used(path), 64) or b"0")
        except ValueError:
            return 0.0

    def tidy(self, now: float) -> None:
        """Nothing is left behind: scratch folders are local and temporary."""

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _create(self, place: str, data: bytes) -> None:
        if self._creates_in_one:
            self._fs.pipe_file(place, data, mode="create")
            return
        with self._fs.open(place, "xb") as file:
            file.write(data)

    def _in_folder(self, path: str, action: Any) -> None:
        """Act on a place; where folders must be made first, make them and act again."""
        place = self._at(path)
        try:
            action(place)
        except FileNotFoundError:
            self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            action(place)


def _used(path: str) -> str:
    return f"{path.rpartition('/')[0]}/used"


def _creates_in_one(fs: Any) -> bool:
    """Tell whether a filesystem has a conditional put of its own; fsspec's default looks first and writes then."""
    while hasattr(fs, "fs"):
        fs = fs.fs
    default = fsspec.AbstractFileSystem.pipe_file
    return isinstance(fs, AsyncFileSystem) or type(fs).pipe_file is not default
