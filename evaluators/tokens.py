"""From conversations and text to token ids, as training sees them, and what is summed over them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Conversation


class TokenSequence(NamedTuple):
    """Token ids, of which those from `first` on are to be predicted."""

    ids: list[int]
    first: int
    """At least 1: the first token has nothing to be predicted from."""
    owner: int
    """Index of the row it belongs to."""


class Logp(NamedTuple):
    """Log-probability of a completion given its prompt."""

    nats: float
    """Sum over its tokens, at most 0."""
    n_tokens: int


class TextNats(NamedTuple):
    """Negative log-likelihood of one text."""

    nats: float
    """Sum over its tokens, at least 0."""
    n_tokens: int
    n_bytes: int
    """UTF-8 bytes of the text."""


class TextChange(NamedTuple):
    """One text under a model and under the base."""

    nats: float
    """As in TextNats, of the model."""
    base_nats: float
    """The same of the base."""
    kl_nats: float
    """KL(base || model), summed over its tokens."""
    n_tokens: int
    n_bytes: int


def prompt_ids(tokenizer: Any, conversation: Conversation) -> list[int]:
    """Return the token ids after which the model writes.

    Messages go through the chat template, open for an answer; if the last one is the assistant's, it is continued. Raw
    text is tokenised as it is.
    """
    if isinstance(conversation, str):
        return list(tokenizer(conversation)["input_ids"])
    is_open = conversation[-1]["role"] == "assistant"
    return _template_ids(
        tokenizer, conversation, add_generation_prompt=not is_open, continue_final_message=is_open
    )


def completion_sequences(
    tokenizer: Any, row: int, prompt: Conversation, completions: tuple[Conversation, ...]
) -> list[TokenSequence]:
    """Return prompt and completion as one sequence per completion.

    As TRL's DPO does: raw completions get the end-of-sequence token, and all completions start at the first token where
    one of them diverges from the prompt alone.

    Raises:
        ValueError: A completion has no tokens, or raw text and messages are mixed.
    """
    alone = prompt_ids(tokenizer, prompt)
    full = []
    for completion in completions:
        if isinstance(prompt, str) and isinstance(completion, str):
            end = tokenizer.eos_token or ""
            text = prompt + completion + ("" if completion.endswith(end) else end)
            full.append(list(tokenizer(text)["input_ids"]))
        elif isinstance(prompt, list) and isinstance(completion, list):
            full.append(_template_ids(tokenizer, prompt + completion))
        else:
            raise ValueError(f"row {row} mixes raw text and messages; use one of them")
    first = max(1, min(_common_prefix(alone, ids) for ids in full))
    if any(len(ids) <= first for ids in full):
        raise ValueError(f"row {row} has a completion without tokens; give it text")
    return [TokenSequence(ids, first, row) for ids in full]


def choice_sequences(
    tokenizer: Any, row: int, prompt: Conversation, choices: tuple[str, ...]
) -> list[TokenSequence]:
    """Return prompt and choice as one sequence per choice, split as lm-evaluation-harness splits them.

    After raw text a space stands before each choice; messages go through the chat template, open for an answer, and the
    choice follows at once. White space at the end of the prompt belongs to the choice; the choice's tokens are those
    beyond the number of tokens that the prompt has alone; the end of the choice is not part of it.

    Raises:
        ValueError: A choice has no tokens, or the prompt has none.
    """
    if isinstance(prompt, str):
        context, delimiter, options = prompt, " ", {}
    else:
        context = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        delimiter, options = "", {"add_special_tokens": False}
    bare = context.rstrip()
    delimiter = context[len(bare) :] + delimiter
    n_context = len(tokenizer(bare, **options)["input_ids"])
    if not n_context:
        raise ValueError(f"row {row} has a prompt without tokens; give it text")
    sequences = []
    for choice in choices:
        ids = list(tokenizer(bare + delimiter + choice, **options)["input_ids"])
        if len(ids) <= n_context:
            raise ValueError(f"row {row} has a choice without tokens of its own; lengthen it")
        sequences.append(TokenSequence(ids, n_context, row))
    return sequences


def text_windows(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[TokenSequence]:
    """Return texts in windows that predict at most `max_tokens` tokens each and every token once.

    A window starts with the token before it; the first one with the beginning-of-sequence token, or the
    end-of-sequence token where the tokenizer has none (as lm-evaluation-harness does for rolling likelihoods).

    Raises:
        ValueError: The tokenizer has neither.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ValueError("the tokenizer has neither a bos nor an eos token to start a text with")
    windows = []
    for owner, text in enumerate(texts):
        ids = [start, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        windows += [
            TokenSequence(ids[at : at + max_tokens + 1], 1, owner)
            for at in range(0, len(ids) - 1, max_tokens)
        ]
    return windows


def _template_ids(tokenizer: Any, messages: list[dict[str, str]], **options: bool) -> list[int]:
    encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
    return list(encoded["input_ids"])


def _common_prefix(left: list[int], right: list[int]) -> int:
    for at, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return at
    return min(len(left), len(right))


def limit_of_each(limit: int | Sequence[int], n: int) -> list[int]:
    """Return a limit for each of `n` prompts, given one of all or all of them."""
    return [limit] * n if isinstance(limit, int) else list(limit)


def by_text(
    sums: NDArray[np.float64], windows: Sequence[TokenSequence], n_texts: int
) -> NDArray[np.float64]:
    """Return sums per window (windows, C) added up per text, shape (texts, C)."""
    totals = np.zeros((n_texts, sums.shape[1]))
    np.add.at(totals, [window.owner for window in windows], sums)
    return totals


def n_tokens_by_text(windows: Sequence[TokenSequence], n_texts: int) -> list[int]:
    """Return the predicted tokens of each text."""
    counts = [0] * n_texts
    for window in windows:
        counts[window.owner] += len(window.ids) - window.first
    return counts
