"""A limit on how long a block may take, for measurements that would never end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_SECONDS = 5.0
"""A block that swallows the error meets it again after so long."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeoutError inside the block once it has taken too long.

    The error comes between two steps of Python, so that one long call into compiled code ends first. Signals reach the
    main thread alone, which is where trials run; in any other thread there is no limit.

    Args:
        seconds: The limit, above 0; None for none.

    Raises:
        TimeoutError: The block took longer.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took longer than {seconds:g} seconds")

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    outer_seconds, outer_interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if outer_seconds:
            left = outer_seconds - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), outer_interval)
