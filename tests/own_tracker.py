"""A tracker as a user writes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.records import TrialRecord


class Mine:
    """A tracker of the user's own."""

    told: list[Any]

    def __init__(self, study: str, folder: Path, mark: str = "", fails: bool = False) -> None:
        Mine.told = [study, mark]
        self._fails = fails

    def scored(self, record: TrialRecord) -> None:
        if self._fails:
            raise ConnectionError("the server is away")
        Mine.told.append(("scored", record.number))

    def ended(self, record: TrialRecord) -> None:
        Mine.told.append(("ended", record.number))

    def close(self) -> None:
        Mine.told.append("closed")
