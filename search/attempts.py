"""Which attempt at a trial may write: one at a time, although an earlier one may live on where nobody sees it.

A machine that the network has lost trains on, and may come back when its trial was long given to another one. The
driver names each attempt in a file of the study's folder, and a worker asks there before it writes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from search.folders import write_whole
from search.holding import LostHold

FOLDER = ".attempts"


class Attempts:
    """The attempts at the trials of one study."""

    def __init__(self, study: Path) -> None:
        """Take the study's folder."""
        self._folder = study / FOLDER

    def begin(self, number: int) -> str:
        """Let a new attempt at a trial write, and no earlier one; returns its name."""
        name = secrets.token_hex(8)
        self._folder.mkdir(exist_ok=True)
        write_whole(self._file(number), name)
        return name

    def end(self, number: int) -> None:
        """Let no attempt at a trial write any more."""
        self._file(number).unlink(missing_ok=True)

    def fence(self, number: int, name: str) -> Callable[[], None]:
        """Return what an attempt asks before it writes; it raises LostHold where another one has the trial by now."""

        def check() -> None:
            try:
                current = self._file(number).read_text()
            except FileNotFoundError:
                current = ""
            if current != name:
                raise LostHold(
                    f"trial {number} was given to another attempt while this one could not be seen; it writes no more"
                )

        return check

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:04d}"
