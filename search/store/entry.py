"""Entry: what a manifest says of one stored stage result, and what may be wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from search.store.names import Attempt, Digest, wrong_paths
from search.store.sealed import MAX_FILES, FileRecord, Strict


class Entry(Strict):
    """One stored stage result, as its manifest.json says it."""

    digest: Digest
    """Its name."""
    attempt: Attempt
    """Which attempt stored it; also the name of its folder."""
    parent: Digest | None
    """The stage before; None for a first stage."""
    needs: tuple[Digest, ...] = Field(max_length=1000)
    """Other entries without which this one cannot be made into a model, such as the weights below an adapter."""
    seconds: float = Field(ge=0)
    """Training time of this stage, as its owner measured it."""
    path_seconds: float = Field(ge=0)
    """The same with all stages before it, as far as they were stored when it was."""
    bytes: int = Field(ge=0)
    """All files together."""
    created_at: float
    """Seconds since 1970 by the clock of the machine that stored it."""
    files: tuple[FileRecord, ...] = Field(min_length=1, max_length=MAX_FILES)
    """Sorted by path."""
    meta: dict[str, Any]
    """What the owner had to say: JSON."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = wrong_paths(file.path for file in self.files)
        if wrong:
            raise ValueError(wrong)
        if self.bytes != sum(file.size for file in self.files):
            raise ValueError("bytes is not the sum of the files' sizes")
        if self.digest in (self.parent, *self.needs):
            raise ValueError("an entry is neither its own parent nor does it need itself")
        return self


class Fault(Strict):
    """One thing that `StageStore.verify` found wrong."""

    digest: str | None
    """The entry; None for a fault of the store itself."""
    path: str
    """Below the store."""
    reason: str
    """What is wrong."""
    is_lack: bool = False
    """True: the entry itself is sound, and another one that it needs is missing."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def differences(
    entry: Entry, sizes: Mapping[str, int], sha256: Callable[[str], str] | None
) -> list[tuple[str, str]]:
    """Return path and reason of each difference between a folder and its manifest.

    Args:
        entry: The manifest.
        sizes: What is in the folder: path to bytes, -1 for what is no plain file.
        sha256: Hashes a file of the folder; None compares sizes only.
    """
    expected = {file.path: file for file in entry.files}
    found = []
    for path, file in expected.items():
        if path not in sizes:
            found.append((path, "is missing"))
        elif sizes[path] == -1:
            found.append((path, "is not a plain file"))
        elif sizes[path] != file.size:
            found.append((path, f"has {sizes[path]} bytes, {file.size} were stored"))
        elif sha256 is not None and sha256(path) != file.sha256:
            found.append((path, "does not match its checksum"))
    # Loaders read what they find: a planted pickle beside good weights must not be among it.
    found += [(path, "is not in the manifest") for path in sizes if path not in expected]
    return found
