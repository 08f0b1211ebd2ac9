"""AnswerCache: what judges answered, kept by a hash of the whole question, so that nothing is judged twice.

It lies in the user's cache, under `judged`. It holds answers and counts; questions are only hashed, and no key is ever
part of either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluators.user_cache import keep, user_cache

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
        return cls(user_cache() / "judged")

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
        """Keep an answer where the disk allows it."""
        keep(self._place(digest), kept.model_dump_json())

    def _place(self, digest: str) -> Path:
        return self._folder / digest[:2] / f"{digest}.json"
