"""Found text in Markdown: escaped, in fences, in tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def escaped(text: str) -> str:
    """Return a text on one line in which Markdown and HTML see no markup."""
    return _kept(" ".join(text.split()))


def _kept(line: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", line)


def with_code(text: str) -> str:
    """Return a text of ours, escaped, in which what stands between backticks stays code."""
    parts = text.split("`")
    return "".join(
        f"`{' '.join(part.split())}`" if at % 2 and at < len(parts) - 1 else _kept(part)
        for at, part in enumerate(parts)
    )


def fenced(text: str) -> str:
    """Return a text in a code fence that is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are escaped already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def heading(name: str, direction: str) -> str:
    """Return a score with the way that is better."""
    return f"{escaped(name)} {'↑' if direction == 'maximise' else '↓'}"
