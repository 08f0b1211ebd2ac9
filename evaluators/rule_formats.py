"""Forms that rules ask for: lists, headings, fences, parts. Pure functions over stripped, untrusted text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from evaluators.rule_specs import HeadingsRule, PartsRule

_BULLET = re.compile(r"^[ \t]*[-*+•][ \t]+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^[ \t]*(\d{1,4})[.)][ \t]+\S", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"^(`{3,})[ \t]*([^\s`]*)[^`\n]*\n(.*?)^\1`*[ \t]*$", re.MULTILINE | re.DOTALL)
_WHOLE_FENCE = re.compile(r"\A```[ \t]*(?:json)?[ \t]*\n?(.*?)\n?[ \t]*```\Z", re.DOTALL | re.I)


def n_bullets(text: str) -> int:
    """Return the number of lines that begin with a bullet and hold more."""
    return len(_BULLET.findall(text))


def n_numbered(text: str) -> int:
    """Return the length of the text's numbered list, or 0 where its numbers do not go 1, 2, 3 and so on."""
    numbers = [int(number) for number in _NUMBERED.findall(text)]
    return len(numbers) if numbers == list(range(1, len(numbers) + 1)) else 0


def has_title(text: str, style: str) -> bool:
    """Return whether there is a `<<title>>`, or whether the first line is a Markdown heading."""
    if style == "angle":
        return any(map(_is_angle_title, text.split("\n")))
    return _HEADING.match(text.partition("\n")[0]) is not None


def is_json(text: str, allow_fence: bool) -> bool:
    """Return whether a text is one JSON value, perhaps in a code fence; NaN and infinities are none."""
    found = _WHOLE_FENCE.match(text) if allow_fence else None
    try:
        json.loads(found[1] if found else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def n_code_blocks(text: str, language: str | None) -> int:
    """Return the number of closed code fences that hold something, of one language if one is given."""
    return sum(
        1
        for _, mark, body in _FENCE.findall(text)
        if body.strip() and (language is None or mark.casefold() == language.casefold())
    )


def has_headings(text: str, rule: HeadingsRule) -> bool:
    """Return whether a text has the headings of a rule in their order; see HeadingsRule."""
    found = [
        (title, is_filled)
        for level, title, is_filled in _headings(text)
        if rule.level is None or level == rule.level
    ]
    wanted = [" ".join(title.casefold().split()) for title in rule.titles]
    at = 0
    for title, is_filled in found:
        if at < len(wanted) and title == wanted[at] and (is_filled or not rule.filled):
            at += 1
        elif rule.only:
            return False
    return at == len(wanted)


def n_parts(text: str, rule: PartsRule) -> int:
    """Return the number of parts between separators; 0 where one inside is empty, or two equal ones are not allowed."""
    parts = [part.strip() for part in text.split(rule.separator)]
    # A separator may also stand before the first part and after the last.
    parts = parts[not parts[0] :]
    parts = parts[: len(parts) - (bool(parts) and not parts[-1])]
    if not all(parts) or (rule.distinct and len(set(parts)) < len(parts)):
        return 0
    return len(parts)


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text: what stands between empty lines."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def has_postscript(text: str, marker: str) -> bool:
    """Return whether a line begins with a marker and says more."""
    start = r"\s?".join(map(re.escape, marker.split() if " " in marker else _letters(marker)))
    return re.search(rf"^[ \t]*{start}[ \t]*\S", text, re.MULTILINE | re.IGNORECASE) is not None


def _is_angle_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end and bool(line[start:end].strip("<> \t\r"))


def _letters(marker: str) -> Sequence[str]:
    """Return `P.S.` as `P.` and `S.`, between which people may put a space."""
    return re.findall(r"[^.]+\.?|\.", marker)


def _headings(text: str) -> list[tuple[int, str, bool]]:
    """Return level, casefolded title and whether text follows, of each heading outside code fences."""
    found: list[tuple[int, str, bool]] = []
    in_fence = False
    for line in text.splitlines():
        in_fence ^= line.startswith("```")
        heading = None if in_fence else _HEADING.match(line)
        if heading:
            found.append((len(heading[1]), " ".join(heading[2].casefold().split()), False))
        elif line.strip() and found:
            found[-1] = (*found[-1][:2], True)
    return found


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
