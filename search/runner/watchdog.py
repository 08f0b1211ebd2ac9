"""Ends a process that makes no progress, and leaves behind where it stood.

with watched(trial_folder / "hang.txt", seconds=3600):
    ...                                  # calls `evaluators.pulse.beat` now and then, or is ended

A thread could not end work that holds the interpreter; Python's fault handler can: it waits in C, writes where every
thread stands, and leaves by `_exit`. Leases of the process die with it.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evaluators.pulse import heard_by

_LEAST_SECONDS = 1.0
"""Between two settings of the alarm: beats come more often."""


@contextmanager
def watched(traces: Path, seconds: float | None) -> Iterator[None]:
    """End this process when nothing beats for so long; one block at a time in a process.

    Args:
        traces: File for where the threads stood; gone after a block that ended. What is in it was a hang.
        seconds: None: never.
    """
    if seconds is None:
        yield
        return
    with traces.open("w") as file:
        armed_at = float("-inf")

        def arm(_: Mapping[str, Any]) -> None:
            nonlocal armed_at
            now = time.monotonic()
            if now - armed_at >= min(_LEAST_SECONDS, seconds / 4):
                armed_at = now
                faulthandler.dump_traceback_later(seconds, exit=True, file=file)

        arm({})
        try:
            with heard_by(arm):
                yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    with suppress(OSError):
        traces.unlink()


def is_hang(traces: Path) -> bool:
    """Return whether a process that was watched with this file was ended for want of progress."""
    try:
        return traces.stat().st_size > 0
    except OSError:
        return False
