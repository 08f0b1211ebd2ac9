"""Which process owns a lease, and is it dead? Answers only for processes of this very machine and namespace."""

from __future__ import annotations

import functools
import os
import re
import socket
from pathlib import Path

_PID = re.compile(r"[1-9][0-9]{0,8}")
SEPARATOR = "~"
"""Between the identity of the process and the rest of a name; occurs in no identity."""


def identity() -> str:
    """Return a text that names this process: machine, boot, namespace, number and start time, joined by colons.

    The number alone would be given to another process after a while, and be that of a stranger on another machine.
    Where the system does not tell (not Linux), parts are empty and nobody can call the process dead.
    """
    return _identity(os.getpid())


def is_dead(process: str) -> bool:
    """Tell whether a process is surely dead; False when it lives or cannot be seen from here.

    Args:
        process: What `identity` returned there; any text, since it may come from a stranger.
    """
    return _lives(process) is False


def is_alive(process: str) -> bool:
    """Tell whether a process surely lives; False when it is dead or cannot be seen from here.

    Args:
        process: As of `is_dead`.
    """
    return _lives(process) is True


def _lives(process: str) -> bool | None:
    """Tell whether a process lives; None when that cannot be seen from here."""
    *machine, pid, started = f"::{process}".rsplit(":", 2)
    here = _machine()
    if machine != ["::" + ":".join(here)] or not all(here) or not _PID.fullmatch(pid):
        return None
    number = int(pid)
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    found = _start_time(number)
    # A zombie can still be signalled; its start time is empty here.
    return None if found is None else found == started


@functools.lru_cache(maxsize=8)
def _identity(pid: int) -> str:
    return ":".join([*_machine(), str(pid), _start_time(pid) or ""])


def _machine() -> list[str]:
    # A clone of a virtual machine has the boot id of its original, so the host's name is part of it.
    host = "".join(char if char.isalnum() else "-" for char in socket.gethostname())[:64]
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return [host, "", ""]
    return [host, boot, space]


def _start_time(pid: int) -> str | None:
    """Return the start of a process in clock ticks since boot, empty for a zombie; None where it is not told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name is in brackets and may hold spaces; proc(5) counts fields from 1, the state is field 3.
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return "" if fields[0] in "ZX" else fields[19]
