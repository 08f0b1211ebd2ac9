"""From conversations and text to token ids, as training sees them, and what is summed over them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
