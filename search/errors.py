"""Errors that a person can act on. Each maps to one exit code in `search.cli`; all pickle, since Ray ships them."""

from __future__ import annotations


class ApportionError(Exception):
    """Base of all errors that are the user's to fix; the message is one line with place, value and remedy."""

    exit_code = 2


class SpecError(ApportionError, ValueError):
    """A study or recipe file is wrong: unknown key, bad value, missing file."""


class DataError(ApportionError, ValueError):
    """A source cannot be read or holds rows of the wrong shape."""


class StudyError(ApportionError, RuntimeError):
    """The study on disk does not allow what was asked: it exists already, is missing or belongs to another spec."""


class StageError(RuntimeError):
    """A stage could not be trained; the trial fails with this reason and the study goes on."""


class Diverged(StageError):  # noqa: N818 - named as what it is
    """A loss, a gradient or a weight is not finite."""


class MemoryShortage(StageError):  # noqa: N818
    """A stage does not fit into the memory of the device."""
