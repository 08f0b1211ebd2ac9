"""Rows of sources as token ids, in the shape that TRL's collators take. Tokenised once per process.

The rules are TRL's: conversations go through the chat template, plain text gets the end-of-sequence token, too long
rows keep their start. One is stricter: where the tokens of a prompt are not the first tokens of prompt and answer, a
chat template is refused rather than trained on a prompt that the model never sees when it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from search.errors import DataError
from search.sources import Source

IGNORED = -100
"""Label of a token that the loss leaves out."""

TokenRow = dict[str, Any]
UNPAIRED = "unpaired-preference"
"""Format of rows with prompt, completion and a label, as TRL calls it."""

_CACHE_SIZE = 64
_cache: dict[tuple[object, ...], TokenRows] = {}


@dataclass(frozen=True)
class TokenRows:
    """A tokenised source."""

    rows: tuple[TokenRow, ...]
    """`input_ids` and `labels` (SFT), `prompt_ids`, `chosen_ids` and `rejected_ids` (pairs), or `prompt_ids`,
    `completion_ids` and `label` (unpaired answers, True for desirable ones)."""
    n_tokens: tuple[int, ...]
    """Training tokens of each row; of a pair, prompt and chosen answer plus prompt and rejected answer."""
    n_dropped: int
    """Rows left out because `max_length` leaves nothing to learn of them."""
    numbers: tuple[int, ...]
    """Position of each row in the source, from 0; the halves of a pair have the same."""


def tokenise(
    source: Source, tokenizer: Any, tokenizer_hash: str, max_length: int, loss_on: str
) -> TokenRows:
    """Return a source's rows as token ids.

    Args:
        source: Rows in one of the formats messages, prompt-completion, text, preference and unpaired-preference.
        tokenizer: Of the base.
        tokenizer_hash: Names the tokenizer in the cache.
        max_length: Longest row in tokens.
        loss_on: `completion` or `all`; means nothing for preferences.

    Raises:
        DataError: The format cannot be trained on, the chat template is missing or rewrites prompts, or no row is left.
    """
    loss_on = "" if source.format in ("preference", UNPAIRED) else loss_on
    key = (source.content_hash, source.format, tokenizer_hash, max_length, loss_on)
    if key not in _cache:
        if len(_cache) >= _CACHE_SIZE:
            _cache.pop(next(iter(_cache)))
        _cache[key] = _tokenised(source, tokenizer, max_length, loss_on)
    return _cache[key]


def _tokenised(source: Source, tokenizer: Any, max_length: int, loss_on: str) -> TokenRows:
    readers: dict[str, Callable[[_Reader], list[TokenRow | None]]] = {
        "text": _text_rows,
        "messages": _message_rows,
        "prompt-completion": _completion_rows,
        "preference": _pair_rows,
        UNPAIRED: _unpaired_rows,
    }
    if source.format not in readers:
        raise DataError(
            f"source {source.name}: format {source.format} cannot be trained on; "
            f"use {', '.join(readers)}"
        )
    reader = _Reader(source, tokenizer, max_length, loss_on)
    read = enumerate(readers[source.format](reader))
    kept = {at: row for at, row in read if row is not None}
    rows = tuple(kept.values())
    if not rows:
        raise DataError(
            f"source {source.name}: every prompt fills max_length {max_length}; raise it or "
            "shorten the prompts"
        )
    n_dropped = len(source.rows) - len(rows)
    return TokenRows(rows, tuple(_n_tokens(row) for row in rows), n_dropped, tuple(kept))


def unpaired(tokens: TokenRows) -> TokenRows:
    """Return preference pairs as two unpaired answers each, the chosen one first; other rows as they are."""
    rows: list[TokenRow] = []
    numbers: list[int] = []
    for number, row in zip(tokens.numbers, tokens.rows, strict=True):
        if "chosen_ids" not in row:
            rows.append(row)
            numbers.append(number)
            continue
        numbers += [number, number]
        for field, label in (("chosen_ids", True), ("rejected_ids", False)):
            rows.append(
                {"prompt_ids": row["prompt_ids"], "completion_ids": row[field], "label": label}
            )
    counts = tuple(_n_tokens(row) for row in rows)
    return TokenRows(tuple(rows), counts, tokens.n_dropped, tuple(numbers))


def _n_tokens(row: TokenRow) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    if "completion_ids" in row:
        return len(row["prompt_ids"]) + len(row["completion_ids"])
    return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


@dataclass(frozen=True)
class _Reader:
    """Tokenises many texts at once; knows whose rows they are, for messages."""

    source: Source
    tokenizer: Any
    max_length: int
    loss_on: str

    def ids(self, texts: Sequence[str], is_rendered: bool) -> list[list[int]]:
        """Return token ids; a rendered conversation brings its special tokens along."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=not is_rendered)
        return [list(ids) for ids in encoded["input_ids"]]

    def rendered(self, messages: list[dict[str, Any]], is_prompt: bool) -> str:
        """Return a conversation as text; a prompt ends with the opening of the answer."""
        if not self.tokenizer.chat_template:
            raise DataError(
                f"source {self.source.name}: the base's tokenizer has no chat template for "
                "messages; write prompt and completion as text, or take an instruct base"
            )
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=is_prompt, tokenize=False
        )
        return str(text)

    def with_eos(self, text: str) -> str:
        """Return plain text with the end-of-sequence token."""
        eos = self.tokenizer.eos_token or ""
        return text if text.endswith(eos) else text + eos

    def prompt_length(self, number: int, prompt: list[int], whole: list[int], is_chat: bool) -> int:
        """Return how many tokens of a whole row are its prompt."""
        n_shared = 0
        for first, second in zip(prompt, whole, strict=False):
            if first != second:
                break
            n_shared += 1
        # Plain text may merge across the border; then the answer begins where the tokens part, as in TRL.
        if is_chat and n_shared < len(prompt):
            raise DataError(
                f"source {self.source.name}: row {number + 1}: the base's chat template writes a "
                "prompt differently once its answer follows; use another template, or rows of "
                "plain text"
            )
        return n_shared

    def sft_row(self, ids: list[int], is_learnt: Sequence[bool]) -> TokenRow | None:
        """Return a row cut to `max_length`; None if the loss would see none of its tokens."""
        ids = ids[: self.max_length]
        if self.loss_on == "all":
            labels = ids
        else:
            labels = [
                token if learnt else IGNORED for token, learnt in zip(ids, is_learnt, strict=False)
            ]
        # The first token is never predicted.
        if all(label == IGNORED for label in labels[1:]):
            return None
        return {"input_ids": ids, "labels": labels}


def _text_rows(reader: _Reader) -> list[TokenRow | None]:
    texts = [reader.with_eos(row["text"]) for row in reader.source.rows]
    return [reader.sft_row(ids, [True] * len(ids)) for ids in reader.ids(texts, False)]


def _message_rows(reader: _Reader) -> list[TokenRow | None]:
    rows: list[TokenRow | None] = []
    for number, row in enumerate(reader.source.rows):
        messages = row["messages"]
        ends = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        whole, *turns = reader.ids(
            [
                reader.rendered(messages, False),
                *(reader.rendered(messages[:at], True) for at in ends),
                *(reader.rendered(messages[: at + 1], False) for at in ends),
            ],
            True,
        )
        is_learnt = [False] * len(whole)
        for prompt, turn in zip(turns[: len(ends)], turns[len(ends) :], strict=True):
            reader.prompt_length(number, turn, whole, True)
            start = reader.prompt_length(number, prompt, whole, True)
            is_learnt[start : len(turn)] = [True] * (len(turn) - start)
        rows.append(reader.sft_row(whole, is_learnt))
    return rows


def _completion_rows(reader: _Reader) -> list[TokenRow | None]:
    rows: list[TokenRow | None] = []
    for number, (prompt, (whole,), is_chat) in enumerate(_answered(reader, ("completion",))):
        start = reader.prompt_length(number, prompt, whole, is_chat)
        rows.append(reader.sft_row(whole, [at >= start for at in range(len(whole))]))
    return rows


def _pair_rows(reader: _Reader) -> list[TokenRow | None]:
    rows: list[TokenRow | None] = []
    answers = _answered(reader, ("chosen", "rejected"))
    for number, (prompt, (chosen, rejected), is_chat) in enumerate(answers):
        start = min(
            reader.prompt_length(number, prompt, whole, is_chat) for whole in (chosen, rejected)
        )
        if start >= reader.max_length:
            rows.append(None)
            continue
        rows.append(
            {
                "prompt_ids": chosen[:start],
                "chosen_ids": chosen[start : reader.max_length],
                "rejected_ids": rejected[start : reader.max_length],
            }
        )
    return rows


def _unpaired_rows(reader: _Reader) -> list[TokenRow | None]:
    rows: list[TokenRow | None] = []
    for number, (prompt, (whole,), is_chat) in enumerate(_answered(reader, ("completion",))):
        start = reader.prompt_length(number, prompt, whole, is_chat)
        if start >= reader.max_length:
            rows.append(None)
            continue
        rows.append(
            {
                "prompt_ids": whole[:start],
                "completion_ids": whole[start : reader.max_length],
                "label": bool(reader.source.rows[number]["label"]),
            }
        )
    return rows


def _answered(
    reader: _Reader, fields: tuple[str, ...]
) -> list[tuple[list[int], list[list[int]], bool]]:
    """Return per row the prompt's ids, the ids of prompt and answer for each answer, and whether it is a chat."""
    is_chat = [not isinstance(row["prompt"], str) for row in reader.source.rows]
    texts = []
    for row, chat in zip(reader.source.rows, is_chat, strict=True):
        prompt = row["prompt"]
        texts.append(reader.rendered(prompt, True) if chat else prompt)
        for field in fields:
            whole = prompt + row[field]
            texts.append(reader.rendered(whole, False) if chat else reader.with_eos(whole))
    n_texts = 1 + len(fields)
    as_chat = [chat for chat in is_chat for _ in range(n_texts)]
    ids: list[list[int]] = [[]] * len(texts)
    for rendered in (True, False):
        places = [at for at, chat in enumerate(as_chat) if chat == rendered]
        found = reader.ids([texts[at] for at in places], rendered)
        for at, token_ids in zip(places, found, strict=True):
            ids[at] = token_ids
    return [
        (ids[at], ids[at + 1 : at + n_texts], is_chat[at // n_texts])
        for at in range(0, len(texts), n_texts)
    ]
