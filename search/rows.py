"""Rows of sources: what each format demands, and rows brought to one shape. TRL's formats and two of our own.

messages            {"messages": [{"role", "content"}, ...]}, at least one of an assistant
prompt-completion   {"prompt", "completion"}, both text or both message lists
preference          {"prompt", "chosen", "rejected"}, all text or all message lists; without a prompt,
                    chosen and rejected are whole conversations and share their beginning
unpaired-preference {"prompt", "completion", "label"}, as prompt-completion, label true for a desirable answer
prompt              {"prompt"}, text or message list, and whatever else an evaluator reads
text                {"text"}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search.messages import names_text, suggest, value_text

Row = dict[str, Any]
MAX_DEPTH = 32
"""Deepest nesting of lists and objects in a row. A limit of our own: Python's depends on who calls."""
ROLES = ("system", "user", "assistant", "tool")
FIELDS = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "preference": ("chosen", "rejected"),
    "unpaired-preference": ("prompt", "completion", "label"),
    "prompt": ("prompt",),
    "text": ("text",),
}
"""Format to the fields that every row has."""


class RowError(ValueError):
    """A row does not have its format; the text names field, value and remedy."""


def checked_row(value: object, row_format: str) -> Row:
    """Return a row in the one shape that stages and evaluators read: no nulls, preference pairs with a prompt.

    Raises:
        RowError: The row does not have the format.
    """
    if not isinstance(value, Mapping):
        raise RowError(f"is {_kind(value)}, not an object; write {_example(row_format)}")
    row: Row = {
        str(key): plain for key, part in value.items() if (plain := _plain(part, 1)) is not None
    }
    for field in FIELDS[row_format]:
        if field not in row:
            raise RowError(
                f"{field} is missing, the row has {names_text(row)}; write {_example(row_format)}"
            )
    _check_text(row, "")
    if row_format == "messages":
        _check_messages(row["messages"], "messages")
        _need_assistant(row["messages"])
    elif row_format == "text":
        _check_filled(row["text"], "text")
    elif row_format == "prompt":
        _check_prompt(row["prompt"])
        if not isinstance(row.get("kind", ""), str):
            raise RowError(f"kind: is {_kind(row['kind'])}; write text or leave it out")
    elif row_format in ("prompt-completion", "unpaired-preference"):
        _check_prompt(row["prompt"])
        _check_answer(row, "completion")
        if row_format == "unpaired-preference" and not isinstance(row["label"], bool):
            raise RowError(f"label: is {_kind(row['label'])}; write true or false")
    else:
        row = _preference(row)
    return row


def is_usable(row: Row, row_format: str) -> bool:
    """Tell whether a legal row can teach or measure anything: a pair of two equal answers cannot."""
    return row_format != "preference" or row["chosen"] != row["rejected"]


def _preference(row: Row) -> Row:
    if "prompt" in row:
        _check_prompt(row["prompt"])
    else:
        row = _with_prompt(row)
    for field in ("chosen", "rejected"):
        _check_answer(row, field)
    return row


def _with_prompt(row: Row) -> Row:
    """Cut the common beginning of two conversations off as their prompt, as TRL's extract_prompt does."""
    for field in ("chosen", "rejected"):
        if isinstance(row[field], str):
            raise RowError(f"prompt is missing and {field} is text; write {_example('preference')}")
        _check_messages(row[field], field)
    chosen, rejected = row["chosen"], row["rejected"]
    n_shared = 0
    for first, second in zip(chosen, rejected, strict=False):
        if first != second:
            break
        n_shared += 1
    if n_shared == len(chosen) == len(rejected):
        n_shared -= 1  # Equal conversations: the last message is the answer of both.
    if not 0 < n_shared < min(len(chosen), len(rejected)):
        raise RowError(
            "chosen and rejected share no beginning that could be their prompt; add a prompt field"
        )
    return {
        **row,
        "prompt": chosen[:n_shared],
        "chosen": chosen[n_shared:],
        "rejected": rejected[n_shared:],
    }


def _check_prompt(value: object) -> None:
    if isinstance(value, str):
        _check_filled(value, "prompt")
        return
    _check_messages(value, "prompt")
    assert isinstance(value, list)
    if value[-1]["role"] == "assistant":
        last = len(value) - 1
        raise RowError(
            f"prompt[{last}].role: a prompt ends before the assistant; move this message"
        )


def _check_answer(row: Row, field: str) -> None:
    value = row[field]
    if isinstance(value, str) != isinstance(row["prompt"], str):
        raise RowError(
            f"{field}: is {_kind(value)} and prompt is {_kind(row['prompt'])}; write both alike"
        )
    if isinstance(value, str):
        _check_filled(value, field)
        return
    _check_messages(value, field)
    if value[0]["role"] != "assistant":
        role = value_text(value[0]["role"])
        raise RowError(f"{field}[0].role: is {role}; an answer begins with the assistant")


def _check_messages(value: object, field: str) -> None:
    if not isinstance(value, list):
        raise RowError(
            f"{field}: is {_kind(value)}, not a list of messages; write "
            '[{"role": "user", "content": "..."}, ...]'
        )
    if not value:
        raise RowError(f"{field}: is an empty list; add a message")
    for index, message in enumerate(value):
        where = f"{field}[{index}]"
        if not isinstance(message, dict):
            raise RowError(f'{where}: is {_kind(message)}; write {{"role": ..., "content": ...}}')
        for key in ("role", "content"):
            if key not in message:
                raise RowError(f"{where}.{key} is missing, it has {names_text(message)}; add it")
        if message["role"] not in ROLES:
            role = value_text(message["role"])
            hint = suggest(str(message["role"]), ROLES)
            raise RowError(f"{where}.role: {role} is not known; {hint}")
        _check_filled(message["content"], f"{where}.content")


def _need_assistant(messages: list[dict[str, Any]]) -> None:
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("messages: none is of the assistant; add the answer, or use format prompt")


def _check_filled(value: object, field: str) -> None:
    if not isinstance(value, str):
        raise RowError(f"{field}: is {_kind(value)}, not text; write text")
    if not value.strip():
        raise RowError(f"{field}: is empty; write text or remove the row")


def _check_text(value: object, where: str) -> None:
    """Refuse characters that tokenizers, databases or files choke on, wherever they are in a row."""
    if isinstance(value, str):
        if "\x00" in value:
            raise RowError(f"{where}: holds a NUL character; remove it")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = f"\\u{ord(value[error.start]):04x}"
            raise RowError(f"{where}: holds half a surrogate pair ({code}); remove it") from None
    elif isinstance(value, dict):
        for key, part in value.items():
            place = f"{where}.{names_text([key])}".lstrip(".")
            _check_text(key, place)
            _check_text(part, place)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_text(part, f"{where}[{index}]")


def _plain(value: object, depth: int) -> Any:
    """Return a value as JSON knows it, without nulls inside; what JSON does not know is left out (None)."""
    if isinstance(value, Mapping | list | tuple) and depth >= MAX_DEPTH:
        raise RowError("is nested too deeply; flatten it")
    if isinstance(value, Mapping):
        parts = {str(key): _plain(part, depth + 1) for key, part in value.items()}
        return {key: part for key, part in parts.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_plain(part, depth + 1) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | bool | int):
        return value
    return None


def _kind(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return value_text(value)
    if isinstance(value, str):
        return f"text ({value_text(value)})"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "a list" if isinstance(value, list) else "an object"


def _example(row_format: str) -> str:
    if row_format == "messages":
        return '{"messages": [{"role": "user", "content": "..."}, ...]}'
    fields = ("prompt", *FIELDS[row_format]) if row_format == "preference" else FIELDS[row_format]
    return "{" + ", ".join(f'"{field}": "..."' for field in fields) + "}"
