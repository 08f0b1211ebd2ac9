"""What study.json says, read leniently: a report on an old or partial folder is better than none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from search.errors import StudyError
from search.folders import read_record_text


@dataclass(frozen=True)
class LaunchLine:
    """One run or resume of the study, as the report shows it."""

    command: str
    """As typed; empty if it was not recorded."""
    started_at: str
    """UTC, ISO 8601; empty if it was not recorded."""
    wall_seconds: float | None
    """None if it was not recorded."""
    ended: str
    """How or when it ended; empty if it runs, was killed, or was not recorded."""


def read_study_file(path: Path) -> dict[str, Any]:
    """Return the content of study.json; empty where there is no such file.

    Raises:
        StudyError: The file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_record_text(path))
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: {error}; restore the file or remove it") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: holds no object at the top; restore the file or remove it")
    return content


def launches(study_file: dict[str, Any]) -> tuple[LaunchLine, ...]:
    """Return the launches that study.json lists, in order."""
    listed = study_file.get("launches")
    found = (
        [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    )
    return tuple(
        LaunchLine(
            command=_text(entry.get("command")),
            started_at=_text(entry.get("started_at")),
            wall_seconds=_wall_seconds(entry),
            ended=_text(entry.get("ended") or entry.get("ended_at")),
        )
        for entry in found
    )


def facts(study_file: dict[str, Any]) -> list[tuple[str, str]]:
    """Return provenance as (what, value) rows, nested keys joined by dots; versions are not among them."""
    rows = []
    # `root` is a folder of the machine and no part of what is needed to repeat the study.
    left_out = {"launches", "budget", "provenance", "versions", "root"}
    flat = {key: value for key, value in study_file.items() if key not in left_out}
    nested = study_file.get("provenance")
    if isinstance(nested, dict):
        flat.update({key: value for key, value in nested.items() if key not in left_out})
    for key, value in _flat(flat, ""):
        rows.append((key.replace("_", " "), value))
    return rows


def versions(study_file: dict[str, Any]) -> dict[str, str]:
    """Return package versions by name; empty if they were not recorded."""
    nested = study_file.get("provenance")
    found = study_file.get("versions") or (
        nested.get("versions") if isinstance(nested, dict) else None
    )
    return (
        {str(key): _text(value) for key, value in found.items()} if isinstance(found, dict) else {}
    )


def _wall_seconds(entry: dict[str, Any]) -> float | None:
    seconds = entry.get("wall_seconds")
    if isinstance(seconds, int | float):
        return float(seconds)
    try:
        began = datetime.fromisoformat(str(entry["started_at"]))
        ended = datetime.fromisoformat(str(entry["ended_at"]))
        return max(0.0, (ended - began).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None


def _flat(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        pairs = [(f"{name}.{key}" if name else str(key), part) for key, part in value.items()]
        return [row for key, part in pairs for row in _flat(part, key)]
    return [(name, _text(value))] if value not in (None, "", []) else []


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
