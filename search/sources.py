"""Read sources: files, folders and hub datasets become lists of checked rows with a content hash. No torch.

Source.content_hash is taken over the format and the rows that training may see, not over the file's bytes: the same
rows as .jsonl and as .parquet have the same hash, and so the same trained models.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from search.data.parts import Sorter
from search.data.spec import USES, GeneralisationSpec, Use
from search.errors import DataError
from search.messages import one_line, value_text
from search.rows import Row, RowError, checked_row, is_usable

if TYPE_CHECKING:
    from search.spec import SourceSpec

MAX_LINE_BYTES = 8 * 1024 * 1024
"""Longest row in bytes, as a line of a .jsonl file has them; longer ones are no rows but a whole file in one line."""
MAX_JSON_BYTES = 256 * 1024 * 1024
"""Longest .json file in bytes: it is parsed as a whole."""
MAX_SOURCE_BYTES = 4 * 1024**3
"""Most bytes of all rows of a source: they are held in memory, and a compressed file may hold any number."""
_BATCH_ROWS = 64
"""Rows of a .parquet file that are in memory at once before they are looked at."""

Numbered = tuple[int, object]
"""Number of a row (of its line, in a .jsonl file) from 1, and the row as it was read."""


@dataclass(frozen=True)
class View:
    """The rows of a source that one use may see."""

    rows: list[Row] = field(default_factory=list, repr=False)
    """In the order of the source."""
    numbers: list[int] = field(default_factory=list, repr=False)
    """Line or row number of each, from 1."""


@dataclass(frozen=True)
class Source:
    """One dataset, read and checked."""

    name: str
    """As in the study."""
    format: str
    """As in the study."""
    rows: list[Row] = field(repr=False)
    """What training may see; nulls are left out, and preference pairs have a prompt."""
    content_hash: str
    """Hex SHA-256 of format and rows."""
    n_skipped: int = 0
    """Pairs left out because both answers are equal."""
    views: dict[Use, View] = field(default_factory=dict, repr=False)
    """What each use may see; a use that is not here sees `rows`."""
    origin: str = ""
    """Path or hub id, as in the study."""

    def seen_by(self, use: Use) -> list[Row]:
        """Return the rows that a use may see; none may be left."""
        return self.views[use].rows if use in self.views else self.rows

    def place(self, use: Use, index: int) -> str:
        """Return where a row of a use is: `data/chat.jsonl:3`, or `data/chat.parquet: row 3`."""
        number = self.views[use].numbers[index] if use in self.views else index + 1
        return _place(self.origin, number)


def read_source(
    name: str, spec: SourceSpec, root: Path, generalisation: GeneralisationSpec | None = None
) -> Source:
    """Read a source, check each row against its format, and say who may see it.

    Args:
        name: Its name in the study.
        spec: Where it is and what it holds.
        root: Folder of the study file; paths start there.
        generalisation: Which kinds of rows the study holds out.

    Raises:
        DataError: It cannot be read, holds no rows, or a row does not have the format; one line with file, line (row,
            for files without lines), field, value and remedy.
    """
    origin = _origin(spec, root)
    numbered = _hub_rows(name, spec) if spec.hub is not None else _local_rows(name, spec, root)
    sorter = Sorter(spec.format, spec.parts, generalisation)
    views: dict[Use, View] = {use: View() for use in USES}
    n_rows = n_skipped = n_bytes = 0
    digest = hashlib.sha256(spec.format.encode())
    for number, raw in islice(numbered, spec.limit):
        try:
            row = checked_row(raw, spec.format)
            if not is_usable(row, spec.format):
                n_skipped += 1
                continue
            uses = sorter.uses(row)
            text = json.dumps(row, sort_keys=True, separators=(",", ":"))
            n_bytes += _checked_size(row, text)
            if n_bytes > MAX_SOURCE_BYTES:
                gib = MAX_SOURCE_BYTES / 2**30
                raise RowError(f"up to here are {gib:g} GiB of rows; set sources.{name}.limit")
        except RowError as error:
            raise DataError(f"{_place(origin, number)}: {error}") from None
        n_rows += 1
        for use in uses:
            views[use].rows.append(row if use == "train" else sorter.shown(row))
            views[use].numbers.append(number)
        if "train" in uses:
            digest.update(b"\n" + text.encode())
    if not n_rows:
        what = "only pairs of equal answers" if n_skipped else "no rows"
        raise DataError(f"{origin}: holds {what}; add rows or remove sources.{name}")
    shown = spec.hub if spec.hub is not None else spec.path
    rows = views["train"].rows
    return Source(name, spec.format, rows, digest.hexdigest(), n_skipped, views, str(shown))


def _place(origin: str, number: int) -> str:
    return f"{origin}:{number}" if origin.lower().endswith(".jsonl") else f"{origin}: row {number}"


def _origin(spec: SourceSpec, root: Path) -> str:
    return spec.hub if spec.hub is not None else str(root / (spec.path or ""))


def _local_rows(name: str, spec: SourceSpec, root: Path) -> Iterator[Numbered]:
    path = root / (spec.path or "")
    if not os.path.exists(path):  # pathlib raises for names that are too long
        raise DataError(f"{path}: there is no such file; correct sources.{name}.path or make it")
    if path.is_dir():
        return _saved_rows(name, spec, path)
    if not path.is_file():  # a pipe would wait for ever for its other end
        raise DataError(f"{path}: is a pipe or a device; name a plain file in sources.{name}.path")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        kinds = ", ".join(_READERS)
        raise DataError(
            f"{path}: {path.suffix or 'no ending'} is not known; use {kinds} or a datasets folder"
        )
    return _guarded(path, reader)


def _guarded(path: Path, reader: Callable[[Path], Iterator[Numbered]]) -> Iterator[Numbered]:
    try:
        yield from reader(path)
    except OSError as error:
        reason = one_line(error.strerror or str(error))
        raise DataError(f"{path}: cannot be read ({reason}); fix the file") from None


def _jsonl_rows(path: Path) -> Iterator[Numbered]:
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{where}: {_TOO_LONG}")
            text = _decoded(line, where).strip(" \t\r\n")
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text:
                yield number, _parsed(text, where)


def _json_rows(path: Path) -> Iterator[Numbered]:
    with path.open("rb") as stream:
        raw = stream.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise DataError(f"{path}: is longer than {MAX_JSON_BYTES // 2**20} MiB; write .jsonl")
    data = _parsed(_decoded(raw, str(path)).removeprefix("\ufeff"), str(path))
    if not isinstance(data, list):
        raise DataError(f"{path}: holds no list of rows; write [{{...}}, ...] or use .jsonl")
    yield from enumerate(data, 1)


def _parquet_rows(path: Path) -> Iterator[Numbered]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(_BATCH_ROWS):
                if batch.nbytes > _BATCH_ROWS * MAX_LINE_BYTES:
                    raise DataError(f"{_place(str(path), number + 1)}: {_TOO_LONG}")
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        reason = one_line(str(error))[:120]
        raise DataError(
            f"{path}: is not a readable parquet file ({reason}); write it anew"
        ) from None


_TOO_LONG = f"is longer than {MAX_LINE_BYTES // 2**20} MiB; write one row a line"


def _checked_size(row: Row, text: str) -> int:
    """Return about how many bytes a row takes; `text` is the row as JSON in ASCII.

    Raises:
        RowError: It is too long.
    """
    n_bytes = len(text)
    if n_bytes > MAX_LINE_BYTES:
        n_bytes = len(json.dumps(row, ensure_ascii=False).encode())
        if n_bytes > MAX_LINE_BYTES:
            raise RowError(_TOO_LONG)
    return n_bytes


_READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".parquet": _parquet_rows}


def _saved_rows(name: str, spec: SourceSpec, path: Path) -> Iterator[Numbered]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: is not a folder written by datasets.save_to_disk "
            f"({one_line(str(error))[:120]}); name a file or such a folder"
        ) from None
    yield from enumerate(_one_split(found, name, spec, str(path)), 1)


def _hub_rows(name: str, spec: SourceSpec) -> Iterator[Numbered]:
    import datasets

    try:
        found = datasets.load_dataset(
            spec.hub, name=spec.subset, split=spec.split, revision=spec.revision
        )
    except Exception as error:  # The hub client raises what its transports raise: no common base.
        reason = one_line(str(error))[:200]
        raise DataError(
            f"{spec.hub}: cannot be loaded from the hub ({type(error).__name__}: {reason}); "
            f"check sources.{name} (hub, subset, split, revision) and the network"
        ) from None
    yield from enumerate(_one_split(found, name, spec, str(spec.hub)), 1)


def _one_split(found: Any, name: str, spec: SourceSpec, origin: str) -> Any:
    if not isinstance(found, dict):
        return found
    splits = list(found)
    if spec.split is None and len(splits) == 1:
        return found[splits[0]]
    if spec.split not in splits:
        asked = "several splits" if spec.split is None else f"no split {value_text(spec.split)}"
        raise DataError(f"{origin}: has {asked}; set sources.{name}.split to {' or '.join(splits)}")
    return found[spec.split]


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte, position = raw[error.start], error.start + 1
        raise DataError(
            f"{where}: byte {position} (0x{byte:02x}) is not UTF-8; save the file as UTF-8"
        ) from None


def _parsed(text: str, where: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if error.lineno > 1 else ""
        raise DataError(
            f"{where}: is not JSON at column {error.colno}{line} ({error.msg}); mend it there"
        ) from None
    except RecursionError:
        raise DataError(f"{where}: is nested too deeply; flatten it") from None
    except ValueError as error:
        raise DataError(f"{where}: is not JSON ({one_line(str(error))[:120]}); mend it") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {value_text(twice)} is there twice")
    return row
