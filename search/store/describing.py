"""From a prepared folder and what its owner says of it to the manifest; refuses what a store could not give back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search.messages import one_line, value_text
from search.store import tree
from search.store.entry import Entry
from search.store.errors import StoreError
from search.store.leases import Lease
from search.store.names import checked_digest, checked_digests, wrong_paths
from search.store.sealed import MAX_SEALED, FileRecord, seal


def described(
    lease: Lease,
    files: Path,
    meta: Mapping[str, Any],
    now: float,
    find: Callable[[str], Entry | None],
) -> Entry:
    """Return the manifest of a new attempt; reads every file.

    Args:
        lease: Of the stage.
        files: The prepared folder.
        meta: See `StageStore.commit`.
        now: Seconds since 1970.
        find: Returns what is stored under a digest.

    Raises:
        StoreError: A file or a value cannot be stored.
    """
    digest = lease.digest
    plain = _checked_meta(meta)
    sizes = _checked_sizes(files)
    needs, parent = plain.get("needs", []), plain.get("parent")
    if not isinstance(needs, list):
        raise StoreError(f"meta['needs'] is {value_text(needs)}; give a list of digests")
    before = None if parent is None else find(checked_digest(parent))
    seconds = float(plain.get("seconds", lease.held_seconds))
    try:
        entry = Entry(
            digest=digest,
            attempt=uuid.uuid4().hex,
            parent=parent,
            needs=checked_digests(needs),
            seconds=seconds,
            path_seconds=seconds + (before.path_seconds if before is not None else 0.0),
            bytes=sum(sizes.values()),
            created_at=now,
            files=tuple(
                FileRecord(path=name, size=size, sha256=tree.sha256(files / name))
                for name, size in sizes.items()
            ),
            meta=plain,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "meta"
        raise StoreError(f"{files}: {place}: {one_line(first['msg'])}; store less") from None
    if len(seal(entry)) > MAX_SEALED:
        raise StoreError(f"{files}: meta and file names exceed {MAX_SEALED} bytes; store less")
    return entry


def _checked_sizes(files: Path) -> dict[str, int]:
    """Return the files of a prepared folder with their bytes, all of them plain."""
    if not files.is_dir():
        raise StoreError(f"{files}: is no folder; give the folder of the stage's files")
    sizes = tree.sizes(files)
    odd = next((name for name, size in sizes.items() if size == -1), None)
    wrong = wrong_paths(sizes) if odd is None else f"{value_text(odd)} is not a plain file"
    if wrong or not sizes:
        raise StoreError(f"{files}: {wrong or 'is empty'}; store plain files with plain names")
    return sizes


def _checked_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return meta as JSON gives it back."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"meta is not JSON ({error}); give text, numbers, lists") from None
    seconds = plain.get("seconds", 0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise StoreError(
            f"meta['seconds'] is {value_text(seconds)}; give the training time, at least 0"
        )
    return plain
