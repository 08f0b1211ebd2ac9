"""A folder that appears whole or not at all, and files in it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from search.errors import SpecError
from search.folders import to_json

KEPT = (".safetensors", ".json", ".jinja", ".model", ".txt", ".gguf")
"""Endings of what transformers reads of a model's folder, code of its own left out."""


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


def write_tokens(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as a folder of `datasets.save_to_disk`."""
    from datasets import Dataset

    Dataset.from_list(list(rows)).save_to_disk(path)


def write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    """Write a configuration for YAML 1.1, which other tools read and in which a plain `no` is false."""
    path.write_text(
        yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )


def copy_model(source: Path, folder: Path) -> None:
    """Copy what transformers reads of a model's folder."""
    folder.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in KEPT:
            shutil.copyfile(path, folder / path.name)
