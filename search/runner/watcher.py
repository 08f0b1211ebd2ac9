"""Watcher: who is told what happens while a study runs."""

from __future__ import annotations

from typing import Protocol

from search.records import Proposal, TrialRecord


class Watcher(Protocol):
    """Who is told what happens while a study runs."""

    def started(self, proposal: Proposal) -> None:
        """Take note of a trial that starts."""
        ...

    def stage_done(self, number: int, n_boundaries: int) -> None:
        """Take note of a stage that was trained and scored; 0 boundaries: the worker can run no trial."""
        ...

    def finished(self, record: TrialRecord) -> None:
        """Take note of a trial that ended."""
        ...

    def retried(self, record: TrialRecord, seconds: float) -> None:
        """Take note of a trial that the machines failed, and that is tried again after so many seconds."""
        ...

    def warn(self, line: str) -> None:
        """Take note of something that a person should know, and that stops nothing."""
        ...

    def tick(self) -> None:
        """Take note that time went by; called often."""
        ...
