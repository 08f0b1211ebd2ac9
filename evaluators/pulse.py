"""Signs of life: whoever computes for long says now and then that it goes on, and a watchdog may listen.

beat()                      # an optimizer step, a token of a batch, an answer of a judge: something was done
with heard_by(watchdog):    # in a process that is watched
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Say that something was done; cheap enough for every step and token."""
    for listener in _listeners:
        listener()


@contextmanager
def heard_by(listener: Callable[[], None]) -> Iterator[None]:
    """Let a listener hear all beats of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
