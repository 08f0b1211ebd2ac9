"""Local folders of plain files: what is in them, their checksums, and bringing them to the disk."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def sizes(folder: str | Path) -> dict[str, int]:
    """Return path below the folder and bytes of each file, sorted; -1 for links, sockets and other such things.

    Empty folders do not count. A folder that is not there, or is itself a link, holds nothing.
    """
    found = {}
    try:
        is_folder = stat.S_ISDIR(os.lstat(folder).st_mode)
    except FileNotFoundError:
        return {}
    for path, item in _walk(str(folder), "") if is_folder else ():
        status = item.stat(follow_symlinks=False)
        found[path] = status.st_size if stat.S_ISREG(status.st_mode) else -1
    return dict(sorted(found.items()))


def sha256(path: str | Path) -> str:
    """Return the hex SHA-256 of a plain file.

    Raises:
        OSError: It cannot be read, or is a link.
    """
    with os.fdopen(os.open(path, _FLAGS), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: str, limit: int) -> bytes | None:
    """Return at most `limit` + 1 bytes of a plain file; None if it is not there, nothing of what is not plain."""
    try:
        handle = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        if os.path.islink(path):
            return b""
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return b""
        parts = []
        left = min(limit, status.st_size) + 1
        while left > 0 and (part := os.read(handle, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def sync(path: str | Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_below(folder: str) -> None:
    """Bring all files of a folder to the disk, and all names; files lose the right to be written.

    A stored file is what its checksum says, and frameworks open weights in place.
    """
    folders = [folder]
    for path, item in _walk(folder, ""):
        place = f"{folder}/{path}"
        mode = item.stat(follow_symlinks=False).st_mode
        os.chmod(place, stat.S_IMODE(mode) & ~0o222)
        sync(place)
    for base, below, _ in os.walk(folder):
        folders += [f"{base}/{name}" for name in below]
    for name in reversed(folders):
        sync(name)


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as items:
        found = sorted(items, key=lambda item: item.name)
    for item in found:
        if item.is_dir(follow_symlinks=False):
            yield from _walk(item.path, f"{prefix}{item.name}/")
        else:
            yield f"{prefix}{item.name}", item
