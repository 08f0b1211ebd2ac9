"""Errors of the stage store. All pickle: one message, no further state."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from search.errors import ApportionError


class StoreError(ApportionError, RuntimeError):
    """The store cannot do what was asked: a wrong name, a full disk, a folder that is no store."""


class StaleLease(StoreError):  # noqa: N818 - named as what it is, like Damaged
    """The lease is no longer its owner's: another one has taken it over, or it was released."""


class NotStored(StoreError):  # noqa: N818
    """Nothing whole is stored under this digest."""


class Damaged(NotStored):
    """A stored result did not match its manifest. It is in quarantine now: rebuild it."""


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn errors of the operating system into a StoreError that names the store and a remedy.

    Args:
        place: The store, as people know it.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        remedy = _REMEDIES.get(error.errno or 0, "check the folder, its rights and its disk")
        name = f" ({error.filename})" if isinstance(error.filename, str) else ""
        raise StoreError(f"{place}: {reason}{name}; {remedy}") from error


class ExplainedScratch(AbstractContextManager[Path]):
    """A scratch folder whose making explains its errors, while those of its user pass as they are."""

    def __init__(self, place: str, scratch: AbstractContextManager[Path]) -> None:
        self._place, self._scratch = place, scratch

    def __enter__(self) -> Path:
        with explained(self._place):
            return self._scratch.__enter__()

    def __exit__(self, *reason: Any) -> bool | None:
        return self._scratch.__exit__(*reason)


_FULL = "free space on its disk, or shrink it with `apportion store gc`"
_NO_LINKS = "this filesystem cannot link files, put the store on another one"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "it is read-only, put the store on a place that can be written",
    errno.EACCES: "ask for the right to write there, or name another folder",
    errno.EPERM: _NO_LINKS,
    errno.EOPNOTSUPP: _NO_LINKS,
}
