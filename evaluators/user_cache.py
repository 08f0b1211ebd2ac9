"""The user's cache: $APPORTION_CACHE, else ~/.cache/apportion. Anything in it can be deleted at any time."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def user_cache() -> Path:
    """Return the folder; it need not exist."""
    chosen = os.environ.get("APPORTION_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "apportion"


def keep(place: Path, text: str) -> None:
    """Write a file whole. A full or read-only disk is no reason to lose what is at hand."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=place.parent, prefix=".")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(beside, place)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside)
            raise
