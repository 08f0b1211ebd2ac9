"""A trial's log: what happened when, one JSON object a line, in `trials/<number>/log.jsonl`.

Each line has `time` (UTC, ISO 8601), `level` (info, warning or error), `event`, and fields of the event. At `MAX_BYTES`
a new file begins: what was before is in `log.1.jsonl`, and what was before that is gone.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from evaluators.redaction import redacted
from search.records import TrialRecord

MAX_BYTES = 1_000_000
MAX_CHARACTERS = 1000
"""Of one text in a line."""
STEP_SECONDS = 10.0
"""Between two optimizer steps that are logged."""

Level = Literal["info", "warning", "error"]


class TrialLog:
    """Appends to the log of one trial. A log that cannot be written is no reason to fail: lines are lost then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stepped_at = -math.inf

    def write(self, event: str, level: Level = "info", **fields: Any) -> None:
        """Append a line."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level}
        shown = {name: _short(value) for name, value in fields.items()}
        text = redacted(json.dumps({**line, "event": event, **shown})) + "\n"
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size + len(text) > MAX_BYTES:
                os.replace(self._path, older(self._path))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)

    def hear(self, fields: Mapping[str, Any]) -> None:
        """Log a beat that says something, such as an optimizer step; few of many."""
        now = time.monotonic()
        if fields and now - self._stepped_at >= STEP_SECONDS:
            self._stepped_at = now
            self.write("step", **fields)

    def end(self, record: TrialRecord) -> None:
        """Log how the trial ended."""
        failed = record.state == "FAIL"
        kind = record.failure.kind if record.failure else None
        self.write(
            "ended",
            "error" if failed else "info",
            state=record.state,
            reason=record.reason,
            **({"kind": kind} if kind else {}),
            seconds=round(record.seconds.total, 3),
        )


def older(path: Path) -> Path:
    """Return where the lines before those of a log are."""
    return path.with_name(f"{path.stem}.1{path.suffix}")


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log and of what was before it; a last line that is not whole yet is left out."""
    for part in (older(path), path):
        try:
            text = part.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    yield found


def n_stages_logged(path: Path) -> int:
    """Return how many stages were trained since the trial was begun the last time."""
    n_stages = 0
    for line in read_log(path):
        n_stages = (
            0 if line.get("event") == "started" else n_stages + (line.get("event") == "stage")
        )
    return n_stages


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[:MAX_CHARACTERS]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value
