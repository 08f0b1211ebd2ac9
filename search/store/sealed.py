"""Sealed JSON: a checksum in front of a body, so that one flipped bit or a missing end is noticed. Also score packs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

from pydantic import ConfigDict, Field, ValidationError

from evaluators.scores import Record
from search.store.names import Digest, wrong_paths

MAX_SEALED = 8 << 20
"""Bytes of a manifest, a pin or the head of a pack: far above what is needed, far below what would hurt."""
MAX_PACK = 1 << 30
"""Bytes of the scores of one digest and suite."""
MAX_FILES = 10_000
_HEAD, _MIDDLE, _TAIL = b'{"sha256":"', b'","body":', b"}\n"


class Strict(Record):
    """Base of what the store writes: frozen, no unknown keys, no type taken for another."""

    model_config = ConfigDict(strict=True)


class FileRecord(Strict):
    """One file of an entry."""

    path: str = Field(max_length=512)
    """Below the entry, with slashes."""
    size: int = Field(ge=0)
    """Bytes."""
    sha256: Digest
    """Of the content."""


class PackHead(Strict):
    """First line of a score pack; the files' contents follow in the same order."""

    digest: Digest
    """The stage that was scored."""
    suite_version: str
    """Version of the suite that scored it."""
    files: tuple[FileRecord, ...] = Field(max_length=MAX_FILES)
    """In the order of their contents."""


_Kind = TypeVar("_Kind", bound=Strict)


def seal(record: Strict) -> bytes:
    """Return a record as one line of JSON with the SHA-256 of its body in front."""
    body = record.model_dump_json().encode()
    return _HEAD + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _TAIL


def unseal(data: bytes, kind: type[_Kind]) -> _Kind:
    """Return the record that `seal` was given.

    Raises:
        ValueError: Any byte differs from what was sealed, or the body is no such record; the text says which.
    """
    start = len(_HEAD) + 64 + len(_MIDDLE)
    if len(data) > MAX_SEALED:
        raise ValueError(f"is longer than {MAX_SEALED} bytes")
    if not data.startswith(_HEAD) or data[start - len(_MIDDLE) : start] != _MIDDLE:
        raise ValueError("has no checksum in front")
    if not data.endswith(_TAIL) or b"\n" in data[:-1]:
        raise ValueError("has no proper end")
    body = data[start : -len(_TAIL)]
    if hashlib.sha256(body).hexdigest().encode() != data[len(_HEAD) : len(_HEAD) + 64]:
        raise ValueError("does not match its checksum")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"is not a {kind.__name__.lower()}: {place} {first['msg']}") from None


def pack(digest: str, suite_version: str, files: Mapping[str, bytes]) -> bytes:
    """Return files as one text: a sealed head, then their contents.

    Raises:
        ValueError: A name is not allowed, or they are too many or too large.
    """
    size = sum(map(len, files.values()))
    wrong = wrong_paths(files)
    if wrong is None and (size > MAX_PACK or len(files) > MAX_FILES):
        wrong = f"{len(files)} files of {size} bytes; {MAX_FILES} of {MAX_PACK} bytes are allowed"
    if wrong is not None:
        raise ValueError(wrong)
    records = tuple(
        FileRecord(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in sorted(files.items())
    )
    head = seal(PackHead(digest=digest, suite_version=suite_version, files=records))
    return head + b"".join(files[record.path] for record in records)


def unpack(data: bytes, digest: str, suite_version: str) -> dict[str, bytes]:
    """Return the files of a pack.

    Raises:
        ValueError: Any byte differs from what was packed, or it is the pack of another stage or suite.
    """
    end = data.find(b"\n") + 1
    head = unseal(data[:end], PackHead)
    if (head.digest, head.suite_version) != (digest, suite_version):
        raise ValueError("holds the scores of another stage or suite")
    wrong = wrong_paths(record.path for record in head.files)
    if wrong:
        raise ValueError(wrong)
    files = {}
    for record in head.files:
        content = data[end : end + record.size]
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise ValueError(f"{record.path} does not match its checksum")
        files[record.path] = content
        end += record.size
    if end != len(data):
        raise ValueError(f"has {len(data) - end} bytes behind its last file")
    return files
