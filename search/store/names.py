"""Which names a store takes: digests, names of pins and versions, paths of files. All else is refused.

A name becomes part of a path, and manifests may come from strangers: so no dots first, no `..`, no absolute paths.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Annotated

from pydantic import StringConstraints

from search.messages import value_text
from search.store.errors import StoreError

MAX_PATH, MAX_DEPTH = 512, 8
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]{0,199}")

Digest = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
Attempt = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{32}\z")]


def checked_digest(digest: str) -> str:
    """Return a digest as it came.

    Raises:
        StoreError: It is not 64 lower-case hex digits.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise StoreError(f"digest {value_text(digest)} is not 64 hex digits; give a whole digest")
    return digest


def is_digest(name: str) -> bool:
    """Tell whether a name in a folder could be a digest."""
    return _DIGEST.fullmatch(name) is not None


def checked_name(name: str, what: str) -> str:
    """Return the name of a pin or the version of a suite as it came.

    Args:
        name: The name.
        what: What it names, for the message.

    Raises:
        StoreError: It could lead out of its folder or hide in it.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StoreError(
            f"{what} {value_text(name)} is not allowed; use letters, digits, _, - and dots, "
            "beginning with a letter or digit, at most 64 in all"
        )
    return name


def is_plain_path(path: str) -> bool:
    """Tell whether a path stays below its folder on every filesystem: `a/b.json`, not `../b`, `/b`, `.b` or `a//b`."""
    parts = path.split("/")
    return (
        len(path) <= MAX_PATH
        and len(parts) <= MAX_DEPTH
        and all(_PART.fullmatch(part) for part in parts)
    )


def wrong_paths(paths: Iterable[str]) -> str | None:
    """Return what is wrong with the paths of one entry, or None: each plain, none twice, none the folder of another."""
    known: set[str] = set()
    for path in paths:
        if not is_plain_path(path):
            return f"file name {value_text(path)} is not allowed"
        if path in known:
            return f"file name {value_text(path)} is there twice"
        known.add(path)
    return next(
        (f"{value_text(path)} is a file and a folder" for path in known if _folders(path) & known),
        None,
    )


def checked_digests(digests: Collection[str]) -> tuple[str, ...]:
    """Return digests in order and without repetition.

    Raises:
        StoreError: One of them is none.
    """
    if isinstance(digests, str):
        raise StoreError("digests are a list; write [digest] for a single one")
    return tuple(dict.fromkeys(checked_digest(digest) for digest in digests))


def _folders(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:n]) for n in range(1, len(parts))}
