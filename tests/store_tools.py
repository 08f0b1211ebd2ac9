"""Stores for tests: digests, clocks that stand still, entries of known content, and an operating system that fails."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.store import Entry, Lease, StageStore

FILES = {"weights.bin": b"w" * 600, "deep/config.json": b'{"rank": 4}'}
WRITES = (
    "open",
    "write",
    "mkdir",
    "link",
    "rename",
    "replace",
    "unlink",
    "fsync",
    "chmod",
    "utime",
)
NEED_SPACE = ("open", "write", "mkdir", "link", "fsync")


def digest_of(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def fill(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """Write a stage's result into a new folder below `folder`."""
    result = folder / "result"
    for name, data in files.items():
        (result / name).parent.mkdir(parents=True, exist_ok=True)
        (result / name).write_bytes(data)
    return result


def taken(store: StageStore, digest: str) -> Lease:
    lease = store.lease(digest)
    assert lease is not None
    return lease


def put(store: StageStore, digest: str, files: dict[str, bytes] = FILES, **meta: Any) -> Entry:
    """Train and store a stage."""
    with store.scratch() as folder:
        return store.commit(taken(store, digest), fill(folder, files), {"seconds": 1.0, **meta})


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def failing_writes(
    names: tuple[str, ...], from_call: int, fail: Callable[[], None], until_call: int | None = None
) -> Iterator[list[str]]:
    """Let calls of the operating system that write fail, from one of them on; yields the names of all such calls.

    A failing os.write writes half of its data first.
    """
    calls: list[str] = []
    real = {name: getattr(os, name) for name in names}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real[name](*args, **kwargs)
            calls.append(name)
            if from_call <= len(calls) and (until_call is None or len(calls) < until_call):
                if name == "write":
                    real[name](args[0], args[1][: len(args[1]) // 2])
                fail()
            return real[name](*args, **kwargs)

        return call

    for name in names:
        setattr(os, name, wrapped(name))
    try:
        yield calls
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(action: Callable[[], None]) -> int:
    """Run an action in a child process and return its exit status: -9 if it was killed."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
