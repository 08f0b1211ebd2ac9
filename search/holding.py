"""Who may run a study, confirm it or train for its explanations: one process at a time, on whatever machine.

hold = take_hold(results / "inner_voice", "run")     # refuses, and says who has it
hold.check()                                         # before whatever is written: is it still ours?
hold.release()

The right is a lease of `search.store.leases` in the study's own folder, so it holds wherever that folder is shared,
also if the storage is a database server. On the holder's own machine it is seen whether its process lives: then others
are refused at once, and the hold of a dead one is taken over at once. From elsewhere, who waits sees within
`LEASE_SECONDS` whether the lease is renewed.

Who lost its hold, such as a machine that was asleep, must not go on writing: every write of a driver and of its workers
asks `check` first. It reads the newest record of the log; between that and the write is a moment in which a process
that is suspended right there would not notice, and a network file system may show a record late. The storage asks again
when it commits.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from search.errors import StudyError
from search.messages import one_line
from search.store import StoreError, process
from search.store.errors import explained
from search.store.leases import Head, Lease, LeaseLog
from search.store.local import LocalFiles

Task = Literal["run", "confirm", "explain"]
LEASE_SECONDS = 60.0
"""How long a hold lives without a renewal; it is renewed three times as often."""
POLL_SECONDS = 1.0
"""How often to look whether a holder that cannot be seen from here gives a sign of life."""

_DOING: dict[Task, str] = {
    "run": "runs this study",
    "confirm": "confirms this study",
    "explain": "trains for an explanation of this study",
}


class LostHold(StudyError):  # noqa: N818 - named as what it is, like StaleLease
    """Another process has taken the study over; this one must write no more."""


@dataclass(frozen=True)
class Holder:
    """Who holds a study."""

    owner: str
    """Host, process and since when, for people."""
    is_alive: bool | None
    """None: its process cannot be seen from this machine."""


class Hold:
    """The right to one task on a study, held until `release` or the end of the process, and renewed meanwhile."""

    def __init__(self, place: Path, task: Task, lease: Lease) -> None:
        """Use `take_hold` instead."""
        self._fence = Fence(place, task, lease.token)
        self._lease = lease
        self._held = ExitStack()
        self._held.enter_context(lease.renewing())

    @property
    def token(self) -> str:
        """Names this hold; see `Fence`."""
        return self._fence.token

    def check(self) -> None:
        """Do nothing if the hold is still ours.

        Raises:
            LostHold: Another process has it.
        """
        self._fence.check()

    def release(self) -> None:
        """Let others have it; nothing if it is lost."""
        self._held.close()


class Fence:
    """What a process that works for the holder asks before it writes."""

    def __init__(self, place: Path, task: Task, token: str) -> None:
        """Take who is the holder.

        Args:
            place: The study's folder.
            task: What is held.
            token: Of the hold.
        """
        self._place, self._task, self.token = place, task, token
        self._log = _log(place)

    def check(self) -> None:
        """Do nothing if the holder is still the holder.

        Raises:
            LostHold: Another process is, or none.
        """
        record = _head(self._log, self._place, self._task).record
        if record is None or record.token != self.token:
            who = "nobody" if record is None else one_line(record.owner)
            raise LostHold(
                f"{self._place}: was taken over while this process gave no sign of life ({who} has it now); "
                "it writes no more"
            )


def take_hold(
    place: Path,
    task: Task,
    say: Callable[[str], None] = lambda _: None,
    lease_seconds: float = LEASE_SECONDS,
    steady: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Hold:
    """Return the right to a task on a study.

    Args:
        place: The study's folder; it exists.
        task: What for.
        say: Is told if this has to wait.
        lease_seconds: How long to wait for a sign of life of a holder that cannot be seen from here.
        steady: Seconds that never jump.
        sleep: Waits.

    Raises:
        StudyError: A live process has it, or the folder cannot hold leases.
    """
    log = _log(place, lease_seconds, steady)
    first: Head | None = None
    while True:
        head = _head(log, place, task)
        if _may_take(log, task, head):
            with _explained(place):
                lease = log.take(task, head, lambda: None)
            if lease is not None:
                return Hold(place, task, lease)
            continue
        owner = "unknown" if head.record is None else one_line(head.record.owner)
        is_alive = head.record is not None and process.is_alive(head.record.process)
        if is_alive or (first is not None and head != first):
            raise StudyError(
                f"{place}: another process {_DOING[task]} ({owner}); wait for it or stop it first"
            )
        if first is None:
            first = head
            say(
                f"{place}: a process on another machine had this study last ({owner}); "
                f"waiting up to {lease_seconds:.0f} s for a sign of life"
            )
        sleep(min(POLL_SECONDS, lease_seconds / 4))


def holder(place: Path, task: Task = "run") -> Holder | None:
    """Return who holds a task on a study; None if nobody does, or the last one is seen to be dead."""
    if not (place / _FOLDER).is_dir():
        return None
    record = _head(_log(place), place, task).record
    if record is None or record.kind != "lease" or process.is_dead(record.process):
        return None
    return Holder(one_line(record.owner), process.is_alive(record.process) or None)


_FOLDER = ".hold"


def _log(
    place: Path,
    lease_seconds: float = LEASE_SECONDS,
    steady: Callable[[], float] = time.monotonic,
) -> LeaseLog:
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    owner = f"host {socket.gethostname()[:100]}, process {os.getpid()}, since {began}"
    return LeaseLog(LocalFiles(place / _FOLDER), owner, lease_seconds, steady)


def _may_take(log: LeaseLog, task: Task, head: Head) -> bool:
    """Return whether nobody has it, its process is dead, or it has given no sign of life for long enough."""
    # One that is seen to live, and only sleeps, would wake up and find its study in other hands.
    is_held = head.record is not None and head.record.kind == "lease"
    if is_held and head.record is not None and process.is_alive(head.record.process):
        return False
    return log.is_free(task, head)


def _head(log: LeaseLog, place: Path, task: Task) -> Head:
    with _explained(place):
        return log.head(task)


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """Turn what goes wrong with the folder into one line of a study."""
    try:
        with explained(str(place)):
            yield
    except StoreError as error:
        raise StudyError(str(error)) from error
