"""What a store asks of the place where its files are. Two places: a local folder, and whatever fsspec reaches.

Paths are relative to the store, with slashes. Contents are whole: readers see a file complete or not at all.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from search.store.entry import Entry


class Files(Protocol):
    """A place for files. Errors of the operating system rise as OSError."""

    place: str
    """For messages; without passwords."""

    def probe(self) -> None:
        """Try out whether exclusive creation works; StoreError if not, since leases would be worth nothing."""

    def read(self, path: str, limit: int) -> bytes | None:
        """Return at most `limit` + 1 bytes of a file: a longer one comes cut, and fails its seal.

        None if nothing is there; what is not a plain file reads as empty, and fails its seal as well.
        """

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists; one of many writers at the same moment gets True. Survives no power cut."""

    def replace(self, path: str, data: bytes) -> None:
        """Write a file over whatever is there, so that it survives a power cut."""

    def move(self, old: str, new: str) -> bool:
        """Give a file or folder another name; False if it is not there. Of many movers locally one gets True."""

    def remove(self, path: str) -> None:
        """Remove a file or folder, if it is there."""

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; none if it is not there."""

    def scratch(self) -> AbstractContextManager[Path]:
        """Give a new local folder from which `put_folder` is fast; removed at the end."""

    def put_folder(self, folder: Path, path: str) -> None:
        """Bring a local folder of plain files to `path`, so that it survives a power cut. Locally it moves."""

    def give_back(self, path: str, folder: Path) -> None:
        """Undo `put_folder`, as far as possible."""

    def sizes(self, path: str) -> dict[str, int]:
        """Return path below the folder and bytes of each file; locally -1 for what is no plain file."""

    def sha256(self, path: str) -> str:
        """Return the hex SHA-256 of a file's content."""

    def fetch(self, path: str, entry: Entry) -> Path:
        """Return a local folder with the files that the entry names. Remotely a copy, downloaded once."""

    def discard(self, path: str) -> bool:
        """Forget the local copy of a folder; False if there is none, since it is local itself."""

    def mark_used(self, path: str, now: float) -> None:
        """Remember when the entry of this manifest was used, if it is there."""

    def used_at(self, path: str) -> float | None:
        """Return what `mark_used` was told last, in seconds since 1970; None if there is no such manifest."""

    def tidy(self, now: float) -> None:
        """Remove what dead processes left behind."""


def open_files(root: str | Path, cache: Path | None) -> Files:
    """Return the place that a root names: a folder (also as file://...) or a url of fsspec.

    Args:
        root: Folder or url.
        cache: Local folder for copies of remote entries; None: one that ends with the process.
    """
    text = str(root)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        from search.store.local import LocalFiles

        return LocalFiles(Path(text))
    from search.store.remote import RemoteFiles

    return RemoteFiles(text, cache)
