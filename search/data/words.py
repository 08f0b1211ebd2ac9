"""What a row asks and answers, as words that compare: without case, punctuation and spacing."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from search.rows import Row

Words = tuple[str, ...]
# Scripts without spaces (Thai to Khmer, kana, Han) are compared character by character. A sign of arithmetic before a
# digit is a word: 3 + 4 is not 3 - 4.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
    r"|[-+*/%^=<>\u00d7\u00f7\u2212](?=\s*\d)"
)
_APOSTROPHES = re.compile(r"(?<=\w)['\u2019\u02bc](?=\w)")


def words_of(text: str) -> Words:
    """Return the words of a text: Unicode NFKC, case folded, apostrophes dropped (`don't` is `dont`).

    A text without letters and digits, such as one of emoji, is returned as it is between its spaces.
    """
    plain = _APOSTROPHES.sub("", unicodedata.normalize("NFKC", text).casefold())
    return tuple(_WORD.findall(plain)) or tuple(plain.split())


@dataclass(frozen=True)
class RowWords:
    """One row as it is compared."""

    asked: Words
    """The prompt without system messages, all turns of the user together; of format `text`, the text."""
    questions: tuple[Words, ...]
    """All that the row asks on the way: each turn of the user, and all turns up to it. `asked` is among them."""
    answers: tuple[Words, ...]
    """What the assistant says in it, chosen or rejected."""


def row_words(row: Row, row_format: str) -> RowWords:
    """Return a checked row as words."""
    if row_format == "text":
        asked = words_of(row["text"])
        return RowWords(asked, (asked,), ())
    asked_messages = row["messages"] if row_format == "messages" else row["prompt"]
    turns, answers = _turns(asked_messages)
    for field in ("completion", "chosen", "rejected"):
        if field in row and row_format not in ("messages", "prompt"):
            more_turns, more_answers = _turns(row[field], role="assistant")
            turns, answers = turns + more_turns, answers + more_answers
    upto = [tuple(word for turn in turns[:n] for word in turn) for n in range(1, len(turns) + 1)]
    # Without a turn of the user, a system message or the beginning of an answer is all that is asked.
    asked = upto[-1] if upto else words_of(_all_text(asked_messages))
    questions = tuple(dict.fromkeys([*turns, *upto, asked]))
    return RowWords(asked, questions, tuple(answers))


def asked_text(row: Row, row_format: str) -> str:
    """Return what a row asks as one line of normalised text; equal for rows that ask the same."""
    return " ".join(row_words(row, row_format).asked)


def _turns(value: Any, role: str = "user") -> tuple[list[Words], list[Words]]:
    """Return the words of a text or of the messages of the user, and of those of the assistant."""
    messages = [{"role": role, "content": value}] if isinstance(value, str) else value
    said: dict[str, list[Words]] = {"user": [], "assistant": []}
    for message in messages:
        if message["role"] in said:
            said[message["role"]].append(words_of(message["content"]))
    return said["user"], said["assistant"]


def _all_text(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(each["content"] for each in value)
