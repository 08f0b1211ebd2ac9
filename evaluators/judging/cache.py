"""AnswerCache: what judges answered, kept by a hash of the whole question, so that nothing is judged twice.

It lies in $APPORTION_CACHE, else ~/.cache/apportion, under `judged`. Anything in it can be deleted at any time. It
holds answers and counts; questions are only hashed, and no key is ever part of either.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

CACHE_VERSION = 1
"""Raise it when equal questions could have meant something else."""
MAX_BYTES = 2**20


class Kept(BaseModel):
    """One answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str
    """As the judge wrote it."""
    n_requests: int = Field(ge=1)
    tokens_in: int = Field(ge=0)
    tokens_out: int = Field(ge=0)


class AnswerCache:
    """Answers in a folder, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_user(cls) -> AnswerCache:
        """Return the user's cache."""
        chosen = os.environ.get("APPORTION_CACHE")
        home = Path(chosen) if chosen else Path.home() / ".cache" / "apportion"
        return cls(home / "judged")

    @staticmethod
    def digest(url: str, body: Mapping[str, Any]) -> str:
        """Return the name of a question: SHA-256 of where it is asked and all that is sent."""
        text = json.dumps([CACHE_VERSION, url, body], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self, digest: str) -> Kept | None:
        """Return an answer, or None if there is none that can be read."""
        with suppress(OSError, ValidationError), self._place(digest).open("rb") as stream:
            return Kept.model_validate_json(stream.read(MAX_BYTES))
        return None

    def write(self, digest: str, kept: Kept) -> None:
        """Keep an answer. A full or read-only disk is no reason to lose the verdict that is at hand."""
        place = self._place(digest)
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=place.parent, prefix=".")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(kept.model_dump_json())
                os.replace(beside, place)
            except BaseException:
                with suppress(OSError):
                    os.unlink(beside)
                raise

    def _place(self, digest: str) -> Path:
        return self._folder / digest[:2] / f"{digest}.json"
