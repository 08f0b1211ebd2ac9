"""What kind of failure ended a trial: the recipe's own, or one of the machines, after which it is tried again."""

from __future__ import annotations

import errno
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from search.errors import Diverged, MemoryShortage
from search.folders import TrialFolder, utc_now
from search.outcomes import Failure, FailureKind
from search.records import Proposal, TrialRecord
from search.trial_log import TrialLog

INFRASTRUCTURE: frozenset[FailureKind] = frozenset({"worker", "storage", "device"})
"""Kinds that say nothing of the recipe."""
WORDS: dict[FailureKind, str] = {
    "recipe": "error",
    "scores": "score missing",
    "diverged": "diverged",
    "memory": "too little memory",
    "hang": "no progress",
    "worker": "machine: process died",
    "storage": "machine: storage away or full",
    "device": "machine: accelerator lost",
}
"""Kinds for people."""
FIRST_WAIT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 300.0

_STORAGE_ERRORS = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "ENXIO", "ENODEV", "ENOTCONN", "ETIMEDOUT"),
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ENETDOWN", "ENETUNREACH", "EREMOTEIO"),
    )
    if hasattr(errno, name)
}
"""Errors of the operating system that say that a disk or a network is full or away."""
_DEVICE_ERRORS = ("AcceleratorError",)
_DEVICE_TEXTS = ("CUDA error", "cudaError", "NCCL error", "uncorrectable ECC", "HIP error")


def kind_of(error: BaseException) -> FailureKind:
    """Return what kind of failure an error in a stage or a measurement is.

    The error that caused it is looked at as well: what trains wraps what it cannot handle.
    """
    for each in _causes(error):
        if isinstance(each, Diverged | FloatingPointError):
            return "diverged"
        if isinstance(each, MemoryShortage | MemoryError) or _name(each) == "OutOfMemoryError":
            return "memory"
        if isinstance(each, OSError) and each.errno in _STORAGE_ERRORS:
            return "storage"
        text = str(each)
        if _name(each) in _DEVICE_ERRORS or any(known in text for known in _DEVICE_TEXTS):
            return "device"
    return "recipe"


def failure_text(record: TrialRecord) -> str:
    """Return kind and reason of a failed trial, for people."""
    reason = record.reason or "no reason recorded"
    return reason if record.failure is None else f"{WORDS[record.failure.kind]}: {reason}"


def counts_text(records: Sequence[TrialRecord]) -> str:
    """Return how many trials failed, by kind, such as `3 failed (2 diverged, 1 machine: process died)`."""
    failed = [record for record in records if record.state == "FAIL"]
    kinds = Counter(WORDS[each.failure.kind] for each in failed if each.failure is not None)
    told = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    return f"{len(failed)} failed" + (f" ({told})" if told else "")


def settled(record: TrialRecord, reason: str | None, lost: tuple[Failure, ...]) -> TrialRecord:
    """Return the record of a trial that ended as it will stay.

    Args:
        record: As its worker left it.
        reason: Why it counts as failed; None if it does not.
        lost: Failures after which it was tried again.
    """
    changes: dict[str, Any] = {}
    if lost and record.lost_attempts != lost:
        rest = round(record.seconds.rest + sum(failure.seconds for failure in lost), 3)
        seconds = record.seconds.model_copy(update={"rest": rest})
        changes |= {"lost_attempts": lost, "seconds": seconds}
    if reason is not None and record.state != "FAIL":
        kind: FailureKind = "diverged" if "not finite" in reason else "scores"
        failure = Failure(kind=kind, reason=reason, at=utc_now())
        changes |= {"state": "FAIL", "reason": reason, "failure": failure}
    return record.model_copy(update=changes) if changes else record


def open_again(
    folder: TrialFolder, record: TrialRecord, lost: tuple[Failure, ...], seconds: float
) -> None:
    """Record that a trial waits to be tried again: as one in flight, also for a later driver.

    Args:
        folder: Of the trial.
        record: Of the attempt that failed.
        lost: Failures so far.
        seconds: Until the next attempt.
    """
    changes = {"state": "RUNNING", "reason": None, "failure": None, "finished_at": None}
    folder.write_record(record.model_copy(update={**changes, "lost_attempts": lost}))
    TrialLog(folder.log).write("tried again", "warning", in_seconds=seconds)


def wait_seconds(n_failures: int) -> float:
    """Return how long to wait after so many failures (from 1) before the next attempt, in seconds."""
    return float(min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (n_failures - 1)))


class Retries:
    """Trials that the machines failed, waiting to be tried again; one per study and launch."""

    def __init__(self, at_most: int) -> None:
        """Allow each trial so many further attempts."""
        self._at_most = at_most
        self._failures: dict[int, list[Failure]] = {}
        self._waiting: list[tuple[float, Proposal]] = []

    @property
    def waiting(self) -> bool:
        """Whether any trial waits to be tried again."""
        return bool(self._waiting)

    def take(self, proposal: Proposal, record: TrialRecord, now: float) -> float | None:
        """Take note of a failure; return the seconds until the next attempt, None if there is none.

        Args:
            proposal: What failed.
            record: How, and what it took.
            now: Seconds of a clock that only grows.
        """
        earlier, failure = self._failures.setdefault(proposal.number, []), record.failure
        if failure is None or failure.kind not in INFRASTRUCTURE or len(earlier) >= self._at_most:
            return None
        earlier.append(failure.model_copy(update={"seconds": record.seconds.total}))
        seconds = wait_seconds(len(earlier))
        self._waiting.append((now + seconds, proposal))
        return seconds

    def due(self, now: float) -> Proposal | None:
        """Return a trial whose wait is over; it waits no more."""
        for at, (when, proposal) in enumerate(self._waiting):
            if when <= now:
                del self._waiting[at]
                return proposal
        return None

    def failures(self, number: int) -> tuple[Failure, ...]:
        """Return the failures after which a trial was tried again, in order."""
        return tuple(self._failures.get(number, ()))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, at most eight."""

    def all_of(each: BaseException | None) -> Iterator[BaseException]:
        while each is not None:
            yield each
            each = each.__cause__

    return itertools.islice(all_of(error), 8)


def _name(error: BaseException) -> str:
    return type(error).__name__
