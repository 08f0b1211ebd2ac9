"""Claims about rows as tokens: which of them the loss sees, what is cut, what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from stage_tools import resident, turn

from search.errors import DataError
from search.sources import Source
from search.stages.tokens import IGNORED, TokenRows, tokenise, unpaired


def read(
    row_format: str, rows: list[dict[str, Any]], max_length: int = 99, loss_on: str = "completion"
) -> TokenRows:
    base = resident()
    source = Source("talk", row_format, rows, repr(rows))
    return tokenise(source, base.tokenizer, base.tokenizer_hash, max_length, loss_on)


def learnt(row: dict[str, list[int]]) -> str:
    tokens = [
        token
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
        if label != IGNORED
    ]
    return str(resident().tokenizer.decode(tokens))


def test_the_loss_sees_assistant_turns_alone() -> None:
    rows = read(
        "messages",
        [
            {
                "messages": [
                    turn("system", "be kind"),
                    turn("user", "hi"),
                    turn("assistant", "hello"),
                    turn("user", "bye"),
                    turn("assistant", "see you"),
                ]
            }
        ],
    ).rows
    assert learnt(rows[0]) == "hello<|im_end|>\nsee you<|im_end|>\n"


def test_the_loss_can_see_all_tokens() -> None:
    row = [{"messages": [turn("user", "hi"), turn("assistant", "hello")]}]
    (tokens,) = read("messages", row, loss_on="all").rows
    assert tokens["labels"] == tokens["input_ids"]


def test_a_conversation_and_its_prompt_and_completion_give_the_same_tokens() -> None:
    messages = [turn("user", "hi"), turn("assistant", "hello")]
    (whole,) = read("messages", [{"messages": messages}]).rows
    (split,) = read(
        "prompt-completion", [{"prompt": messages[:1], "completion": messages[1:]}]
    ).rows
    assert whole == split


def test_plain_text_gets_the_end_of_sequence_token_once() -> None:
    rows = read("text", [{"text": "hello"}, {"text": "hello<|im_end|>"}]).rows
    assert rows[0] == rows[1]
    assert resident().tokenizer.decode(rows[0]["input_ids"]) == "hello<|im_end|>"
    (row,) = read("prompt-completion", [{"prompt": "hello", "completion": " to you"}]).rows
    assert learnt(row) == " to you<|im_end|>"


def test_the_tokens_of_a_pair_are_both_answers_each_with_its_prompt() -> None:
    row = {"prompt": "the cat ", "chosen": "says hello", "rejected": "no"}
    rows = read("preference", [row])
    ids = rows.rows[0]
    tokenizer = resident().tokenizer
    assert tokenizer.decode(ids["prompt_ids"] + ids["chosen_ids"]) == "the cat says hello<|im_end|>"
    assert tokenizer.decode(ids["prompt_ids"] + ids["rejected_ids"]) == "the cat no<|im_end|>"
    lengths = {name: len(part) for name, part in ids.items()}
    assert rows.n_tokens[0] == (
        2 * lengths["prompt_ids"] + lengths["chosen_ids"] + lengths["rejected_ids"]
    )


def test_long_answers_are_cut_and_rows_with_nothing_to_learn_dropped() -> None:
    tokenizer = resident().tokenizer
    n_prompt = len(tokenizer("hello to you").input_ids)
    rows = [
        {"prompt": "hello to you", "completion": " hello hello hello"},
        {"prompt": "hello to you hello to you", "completion": " hello"},
    ]
    found = read("prompt-completion", rows, max_length=n_prompt + 2)
    assert found.n_tokens == (n_prompt + 2,)
    assert learnt(found.rows[0]) == " hello hello"
    assert found.n_dropped == 1
    with pytest.raises(DataError, match=r"source talk: every prompt fills max_length 3; raise it"):
        read("prompt-completion", rows, max_length=3)


def test_a_row_whose_only_token_is_its_first_teaches_nothing() -> None:
    # Nothing comes before the first token, so no model predicts it.
    rows = read("text", [{"text": "<|im_end|>"}, {"text": "hello"}], loss_on="all")
    assert (len(rows.rows), rows.n_dropped) == (1, 1)


def test_a_template_that_rewrites_prompts_is_refused() -> None:
    base = resident()
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = base.tokenizer.chat_template.replace(
        "assistant\n{% endif %}", "assistant\n<think>{% endif %}"
    )
    source = Source(
        "talk", "messages", [{"messages": [turn("user", "a"), turn("assistant", "b")]}], "x"
    )
    with pytest.raises(
        DataError, match=r"source talk: row 1: the base's chat template writes a prompt"
    ):
        tokenise(source, tokenizer, "other", 99, "completion")


def test_messages_without_a_template_are_refused_and_text_is_not() -> None:
    tokenizer = copy.deepcopy(resident().tokenizer)
    tokenizer.chat_template = None
    chat = Source(
        "talk", "messages", [{"messages": [turn("user", "a"), turn("assistant", "b")]}], "y"
    )
    with pytest.raises(
        DataError, match="no chat template for messages; write prompt and completion as text"
    ):
        tokenise(chat, tokenizer, "bare", 99, "completion")
    assert tokenise(Source("t", "text", [{"text": "a"}], "z"), tokenizer, "bare", 99, "all").rows


def test_sources_are_tokenised_once_per_process() -> None:
    rows = [{"text": "hello to you"}]
    assert read("text", rows) is read("text", rows)
    assert read("text", rows, max_length=4) is not read("text", rows)


def test_an_unpaired_answer_and_half_of_a_pair_give_the_same_tokens() -> None:
    ask, good, bad = turn("user", "hi"), turn("assistant", "hello"), turn("assistant", "no")
    pairs = read("preference", [{"prompt": [ask], "chosen": [good], "rejected": [bad]}])
    single = read(
        "unpaired-preference",
        [
            {"prompt": [ask], "completion": [good], "label": True},
            {"prompt": [ask], "completion": [bad], "label": False},
        ],
    )
    halves = unpaired(pairs)
    assert halves.rows == single.rows
    assert [row["label"] for row in halves.rows] == [True, False]
    assert halves.n_tokens == single.n_tokens
    assert sum(halves.n_tokens) == sum(pairs.n_tokens)
    assert unpaired(single) == single


def test_an_unpaired_answer_whose_prompt_fills_the_row_is_dropped() -> None:
    long = {"prompt": "hello to you " * 9, "completion": "hello", "label": True}
    short = {"prompt": "a", "completion": " hello to you", "label": False}
    rows = read("unpaired-preference", [long, short], max_length=3)
    assert rows.n_dropped == 1
    ((row,), (n_tokens,)) = rows.rows, rows.n_tokens
    assert len(row["prompt_ids"]) + len(row["completion_ids"]) == n_tokens == 3
