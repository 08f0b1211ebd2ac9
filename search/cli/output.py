"""What several commands share: words for amounts, and writing a file that the user named."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from evaluators.redaction import redacted
from search.errors import StudyError


def duration(seconds: float) -> str:
    """Return seconds as people say them: `42 s`, `7 min`, `3.5 h`, `2.1 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def visible(text: str) -> str:
    """Return text that a terminal takes for text: what would steer it, or turn the order of letters, is escaped.

    Line breaks and printable characters stay; all else, such as escape, backspace, tabs and the marks of right-to-left
    text, becomes `\\x1b` or `\\u202e`.
    """
    return "".join(
        character if character == "\n" or character.isprintable() else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def print_json(data: Any) -> None:
    """Print data as one line of JSON on stdout."""
    typer.echo(json.dumps(data, allow_nan=False))


def write_file(path: Path, text: str) -> None:
    """Write a file whole: beside it first, then renamed. Secrets in the text are masked.

    Raises:
        StudyError: The place cannot be written to.
    """
    write_bytes(path, redacted(text).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file whole, as `write_file` does.

    Raises:
        StudyError: The place cannot be written to.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise StudyError(
            f"{path}: cannot be written ({error.strerror}); name another place"
        ) from None
