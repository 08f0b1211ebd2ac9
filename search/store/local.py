"""A store in a local folder, also one that several machines mount: plain calls of the operating system.

Exclusive creation is link(2), publishing is rename(2): both are atomic on local filesystems and on NFS. A filesystem
without links refuses the first lease. Nothing below the store is followed that is a link.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search.store import process, tree
from search.store.entry import Entry
from search.store.errors import StoreError

TMP = "tmp"
STRANGER_SECONDS = 7 * 86400
"""Age at which leftovers of processes that cannot be seen from here are taken for dead."""


class LocalFiles:
    """Files below a local folder; see `search.store.files.Files`."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self.place = str(root)

    def probe(self) -> None:
        """A filesystem without links says so itself."""

    def read(self, path: str, limit: int) -> bytes | None:
        """Read a file."""
        return tree.read(self._at(path), limit)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists."""
        beside = self._write(data, is_durable=False)
        try:
            place = self._at(path)
            try:
                os.link(beside, place)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                os.link(beside, place)
        except FileExistsError:
            return False
        finally:
            with suppress(OSError):
                os.unlink(beside)
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write a file over whatever is there."""
        place = self._at(path)
        self._make_folder(os.path.dirname(place))
        beside = self._write(data, is_durable=True)
        try:
            os.replace(beside, place)
        except OSError:
            with suppress(OSError):
                os.unlink(beside)
            raise
        tree.sync(os.path.dirname(place))

    def move(self, old: str, new: str) -> bool:
        """Rename a file or folder."""
        source, target = self._at(old), self._at(new)
        if not os.path.lexists(source):
            return False
        self._make_folder(os.path.dirname(target))
        try:
            os.rename(source, target)
        except FileNotFoundError:
            return False
        for folder in {os.path.dirname(source), os.path.dirname(target)}:
            tree.sync(folder)
        return True

    def remove(self, path: str) -> None:
        """Remove a file or folder."""
        _remove(self._at(path))

    def names(self, path: str) -> list[str]:
        """List a folder."""
        try:
            return sorted(os.listdir(self._at(path) if path else self._root))
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder on the same filesystem."""
        folder = self._new_tmp()
        os.mkdir(folder)
        try:
            yield Path(folder)
        finally:
            with suppress(OSError):
                _remove(folder)

    def put_folder(self, folder: Path, path: str) -> None:
        """Move a folder in; from another filesystem it is copied first, and the original stays."""
        place = self._at(path)
        self._make_folder(os.path.dirname(place))
        source = os.path.abspath(folder)
        is_near = os.lstat(source).st_dev == os.lstat(self._root).st_dev
        if not is_near:
            source = self._new_tmp()
            try:
                shutil.copytree(folder, source, symlinks=True)
            except shutil.Error as error:  # one error for all files; the reason is in the first
                raise OSError(errno.EIO, str(error.args[0][0][2])) from error
        try:
            tree.sync_below(source)
            os.rename(source, place)
        except OSError:
            if not is_near:
                _remove(source)
            raise
        tree.sync(os.path.dirname(place))

    def give_back(self, path: str, folder: Path) -> None:
        """Move a folder back to where it was; the copy of one from elsewhere is removed."""
        place = self._at(path)
        if os.path.lexists(folder):
            _remove(place)
        elif os.path.lexists(place):
            os.rename(place, folder)

    def sizes(self, path: str) -> dict[str, int]:
        """Say what is in a folder."""
        return tree.sizes(self._at(path))

    def sha256(self, path: str) -> str:
        """Hash a file."""
        return tree.sha256(self._at(path))

    def fetch(self, path: str, entry: Entry) -> Path:
        """Return the folder itself."""
        return Path(self._at(path))

    def discard(self, path: str) -> bool:
        """There is no copy."""
        return False

    def mark_used(self, path: str, now: float) -> None:
        """Set the manifest's time of change."""
        with suppress(FileNotFoundError):
            os.utime(self._at(path), (now, now), follow_symlinks=False)

    def used_at(self, path: str) -> float | None:
        """Return the manifest's time of change."""
        try:
            return os.lstat(self._at(path)).st_mtime
        except FileNotFoundError:
            return None

    def tidy(self, now: float) -> None:
        """Remove scratch folders and half-written files of dead processes."""
        for name in self.names(TMP):
            owner, _, _ = name.partition(process.SEPARATOR)
            with suppress(OSError):
                age = now - os.lstat(f"{self._root}/{TMP}/{name}").st_mtime
                if process.is_dead(owner) or (age > STRANGER_SECONDS and not _is_here(owner)):
                    _remove(f"{self._root}/{TMP}/{name}")

    def _at(self, path: str) -> str:
        """Return the place of a path, whose folders below the store are folders and no links."""
        place = self._root
        for part in path.split("/")[:-1]:
            place = f"{place}/{part}"
            try:
                mode = os.lstat(place).st_mode
            except FileNotFoundError:
                break
            if not stat.S_ISDIR(mode):
                raise StoreError(
                    f"{place}: is a link or a file where the store has a folder; remove it"
                )
        return f"{self._root}/{path}"

    def _make_folder(self, folder: str) -> None:
        """Make a folder with those above it; each new name is brought to the disk."""
        if os.path.isdir(folder):
            return
        above = os.path.dirname(folder)
        self._make_folder(above)
        with suppress(FileExistsError):
            os.mkdir(folder)
        tree.sync(above)

    def _new_tmp(self) -> str:
        self._make_folder(f"{self._root}/{TMP}")
        return f"{self._root}/{TMP}/{process.identity()}{process.SEPARATOR}{uuid.uuid4().hex}"

    def _write(self, data: bytes, is_durable: bool) -> str:
        """Write a new file beside everything and return its name."""
        beside = self._new_tmp()
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view) :]
                if is_durable:
                    os.fsync(handle)
            finally:
                os.close(handle)
        except OSError:
            with suppress(OSError):
                os.unlink(beside)
            raise
        return beside


def _is_here(owner: str) -> bool:
    """Tell whether a process can be seen from here, so that its age says nothing."""
    return owner.split(":")[:3] == process.identity().split(":")[:3]


def _remove(place: str) -> None:
    """Remove a file or a folder with all below, links as links; others may do the same at the same moment."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(place).st_mode)
        if not is_folder:
            os.unlink(place)
            return
    except FileNotFoundError:
        return
    shutil.rmtree(place, ignore_errors=True)
    if os.path.lexists(place):
        raise OSError(errno.EACCES, "cannot be removed", place)
