"""Does an output satisfy a rule? Pure functions over text; outputs are untrusted, rules are the author's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evaluators.json_schema import fits_schema
from evaluators.spec import (
    ContainsRule,
    EndsWithRule,
    ForbiddenRule,
    JsonSchemaRule,
    LengthRule,
    RegexRule,
    Rule,
    StartsWithRule,
)


def satisfies(rule: Rule, output: str, row: Mapping[str, Any]) -> bool:
    """Return whether an output, stripped of surrounding white space, satisfies a rule.

    Args:
        rule: The rule.
        output: What the model wrote.
        row: The row of the source that the prompt came from; `contains` may name a field of it.

    Raises:
        ValueError: `contains` names a field that the row lacks or that holds no text.
    """
    text = output.strip()
    match rule:
        case RegexRule():
            return (rule.compiled().search(text) is None) == rule.negate
        case LengthRule():
            n_units = count_units(text, rule.unit)
            return (rule.at_least is None or n_units >= rule.at_least) and (
                rule.at_most is None or n_units <= rule.at_most
            )
        case JsonSchemaRule():
            return fits_schema(text, rule.schema_)
        case StartsWithRule():
            return text.startswith(rule.text)
        case EndsWithRule():
            return text.endswith(rule.text)
        case ContainsRule():
            wanted = (rule.text,) if rule.text is not None else field_texts(row, rule.field or "")
            return any(_contains(text, part, rule.ignore_case) for part in wanted)
        case ForbiddenRule():
            return not any(_has_word(text, word) for word in rule.words)


def field_texts(row: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Return the texts a row's field holds: one, or the entries of a list.

    Raises:
        ValueError: The field is absent, empty, or holds something else than text or numbers.
    """
    value = row.get(field)
    entries = value if isinstance(value, list | tuple) else [value]
    texts = tuple(str(entry).strip() for entry in entries if isinstance(entry, str | int | float))
    if not texts or len(texts) != len(entries) or not all(texts):
        known = ", ".join(sorted(row))
        raise ValueError(f"field {field!r} holds no text; the row has {known}")
    return texts


def count_units(text: str, unit: str) -> int:
    """Return the number of characters, words, sentences or lines of a stripped text.

    A sentence ends with one or more of . ! ? before white space or the end; words after the last such mark are one
    more.
    """
    if unit == "characters":
        return len(text)
    if unit == "words":
        return len(text.split())
    if unit == "lines":
        return sum(1 for line in text.splitlines() if line.strip())
    return sum(1 for part in re.split(r"[.!?]+(?=\s|$)", text) if part.strip(" \t\r\n\"')"))


def _contains(text: str, part: str, ignore_case: bool) -> bool:
    return part.casefold() in text.casefold() if ignore_case else part in text


def _has_word(text: str, word: str) -> bool:
    pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
    return re.search(pattern, text, re.IGNORECASE) is not None
