"""Leases: the right to train one digest. It dies with its owner and cannot be used by one who lost it.

Each digest has a short log, leases/<xx>/<digest>/<counter>. A lease, its renewals, its end and a commit are records;
whoever creates counter n + 1 after having read n is the one who decides what n + 1 is, since creation is exclusive.
So a renewal or commit of a stale owner fails where another one has written in between, whatever either believed.

When is an owner dead? Its process is gone, if it ran on this machine; else when its log has not moved for its
`lease_seconds`, counted by the one who waits, from when it first looked. No clock is compared with another one's, so
clocks may be off by hours: a live owner that renews keeps its lease, and a dead one's is free after `lease_seconds` of
waiting. Only a waiter whose clock runs much faster takes a live lease, and then the first owner cannot commit.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from search.store import process
from search.store.errors import StaleLease, StoreError, explained
from search.store.files import Files
from search.store.names import Attempt
from search.store.sealed import Strict, seal, unseal

_COUNTER = re.compile(r"[0-9]{12}")
_MAX_RECORD = 8192
_RENEWALS = 3
"""Renewals per `lease_seconds`: two may be lost."""


class LeaseRecord(Strict):
    """One record of a log."""

    kind: Literal["lease", "commit", "free"]
    """`commit`: the attempt's manifest is written and anyone may publish it."""
    token: str = Field(max_length=64)
    """Of the lease: a random part, and the counter at which it began."""
    process: str = Field(max_length=256)
    """The owner's process, see `search.store.process`."""
    owner: str = Field(max_length=256)
    """The owner for people."""
    lease_seconds: float = Field(gt=0, le=86400)
    """How long the lease lives after this record."""
    attempt: Attempt | None = None
    """What is committed."""


@dataclass(frozen=True)
class Head:
    """The newest record of a log."""

    counter: int
    """0: there is none yet."""
    record: LeaseRecord | None
    """None: there is none yet, or it cannot be read and counts as a lease of someone unknown."""


class LeaseLog:
    """The logs of one store, seen by one owner."""

    def __init__(
        self, files: Files, owner: str, lease_seconds: float, steady: Callable[[], float]
    ) -> None:
        self.lease_seconds = lease_seconds
        self._files = files
        self._owner = owner[:256]
        self.steady = steady
        self._seen: dict[str, tuple[Head, float]] = {}
        self.given_up: set[str] = set()

    def head(self, digest: str) -> Head:
        """Read the newest record."""
        for _ in range(100):
            counters = self._counters(digest)
            if not counters:
                return Head(0, None)
            data = self._files.read(_path(digest, counters[-1]), _MAX_RECORD)
            if data is None:
                continue  # a newer one came, and this one was removed
            try:
                return Head(counters[-1], unseal(data, LeaseRecord))
            except ValueError:
                return Head(counters[-1], None)
        raise StoreError(f"{self._files.place}: the lease of {digest} does not hold still; retry")

    def is_free(self, digest: str, head: Head) -> bool:
        """Tell whether the digest has no live owner; looking starts the waiting."""
        record = head.record
        if head.counter == 0 or (record is not None and record.kind != "lease"):
            self._seen.pop(digest, None)
            return True
        if record is not None and (
            record.token in self.given_up or process.is_dead(record.process)
        ):
            return True
        now = self.steady()
        seen, since = self._seen.get(digest, (None, now))
        if seen != head:
            self._seen[digest] = (head, now)
            return False
        return now - since >= (record.lease_seconds if record else self.lease_seconds)

    def take(self, digest: str, head: Head, on_renew: Callable[[], None]) -> Lease | None:
        """Return the lease that follows a head, or None if somebody else was faster."""
        token = f"{uuid.uuid4().hex}-{head.counter + 1}"
        if not self.append(digest, head.counter, "lease", token):
            return None
        self._seen.pop(digest, None)
        return Lease(self, digest, token, head.counter + 1, on_renew)

    def append(
        self,
        digest: str,
        counter: int,
        kind: Literal["lease", "commit", "free"],
        token: str,
        attempt: str | None = None,
    ) -> bool:
        """Write the record after `counter`; False if the log has moved."""
        record = LeaseRecord(
            kind=kind,
            token=token,
            process=process.identity(),
            owner=self._owner,
            lease_seconds=self.lease_seconds,
            attempt=attempt,
        )
        with explained(self._files.place):
            if not self._files.create(_path(digest, counter + 1), seal(record)):
                return False
            # A record that came too late, after this counter was taken and removed, is not the newest.
            counters = self._counters(digest)
        is_newest = counters[-1:] == [counter + 1]
        old = [number for number in counters if number <= counter]
        for number in old if is_newest else [counter + 1]:
            with suppress(OSError):
                self._files.remove(_path(digest, number))
        return is_newest

    def _counters(self, digest: str) -> list[int]:
        names = self._files.names(f"leases/{digest[:2]}/{digest}")
        return [int(name) for name in names if _COUNTER.fullmatch(name)]


class Lease:
    """The right to train one digest, held by whoever has this object. Safe to use from several threads."""

    def __init__(
        self, log: LeaseLog, digest: str, token: str, counter: int, on_renew: Callable[[], None]
    ) -> None:
        self.digest = digest
        self.token = token
        self._log = log
        self._counter = counter
        self._on_renew = on_renew
        self._began = log.steady()
        self._is_over = False
        self._lock = threading.RLock()

    @property
    def held_seconds(self) -> float:
        """Seconds since the lease was taken."""
        return self._log.steady() - self._began

    def is_valid(self) -> bool:
        """Tell whether the lease is still its owner's, by reading the store."""
        with self._lock:
            return not self._is_over and self.is_newest()

    def is_newest(self) -> bool:
        """Tell whether nobody else has written since: True for a lease that lives or that has committed."""
        with self._lock:
            head = self._log.head(self.digest)
            return head.record is not None and head.record.token == self.token

    def renew(self) -> None:
        """Let the lease live for another `lease_seconds`.

        Raises:
            StaleLease: It was taken over, or released.
        """
        with self._lock:
            if self._is_over:
                raise StaleLease(f"the lease of {self.digest} is over; take a new one")
            self._write("lease")
        with suppress(StoreError, OSError):
            self._on_renew()

    def release(self) -> None:
        """Let others have the digest now. Does nothing if the lease is over or lost."""
        with self._lock:
            if not self._is_over:
                try:
                    self._write("free")
                except StoreError:
                    # Lost, or the disk is full: then others wait until it expires.
                    self._log.given_up.add(self.token)
                self._is_over = True

    def commit(self, attempt: str) -> None:
        """Write that an attempt is what the digest is; the last thing a lease does.

        Raises:
            StaleLease: It was taken over, or released.
        """
        with self._lock:
            if self._is_over:
                raise StaleLease(f"the lease of {self.digest} is over; take a new one")
            self._write("commit", attempt)
            self._is_over = True

    @contextmanager
    def renewing(self) -> Iterator[Lease]:
        """Renew in the background while a block runs, and release at its end. A lost lease ends the renewals."""
        stop = threading.Event()
        thread = threading.Thread(
            target=self._renew_until, args=(stop,), name=f"lease-{self.digest[:8]}", daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            self.release()

    def _renew_until(self, stop: threading.Event) -> None:
        while not stop.wait(self._log.lease_seconds / _RENEWALS):
            try:
                self.renew()
            except StaleLease:
                return
            except StoreError:
                continue  # a full disk or a lost connection may be over at the next turn

    def _write(self, kind: Literal["lease", "commit", "free"], attempt: str | None = None) -> None:
        if not self._log.append(self.digest, self._counter, kind, self.token, attempt):
            raise StaleLease(
                f"the lease of {self.digest} was taken over by another owner; look for its result"
            )
        self._counter += 1


def _path(digest: str, counter: int) -> str:
    return f"leases/{digest[:2]}/{digest}/{counter:012d}"
