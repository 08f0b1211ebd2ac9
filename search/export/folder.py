"""A folder that appears whole or not at all, and files in it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.errors import SpecError
from search.folders import to_json


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give the place of a folder beside `out`, not made yet, that becomes `out` at the end; after an error it is gone.

    Raises:
        SpecError: `out` exists, or cannot be made.
    """
    if out.exists() or out.is_symlink():
        raise SpecError(f"--out: {out} exists already; name a new folder")
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, out)
    except OSError as error:
        raise SpecError(
            f"--out: {out} cannot be written ({error.strerror or error}); name another place"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write rows, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_json(row) + "\n" for row in rows)
