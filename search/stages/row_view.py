"""Rows as the model will see them: their tokens, which of them are trained, and what a stage draws of them.

Loads the tokenizer of a base and no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoTokenizer

from search.base_files import resolve_base
from search.errors import DataError, SpecError
from search.messages import one_line
from search.sources import Source
from search.spec import BaseSpec, TrainingSpec
from search.stages.base_model import pretrained_place
from search.stages.drawing import Drawing
from search.stages.mix import StagePlan
from search.stages.tokens import IGNORED, TokenRow, TokenRows, tokenise
from search.stages.weights import tokenizer_hash
from spaces.recipe import Stage

UNCUT = 2**40
"""A `max_length` that no row reaches."""


@dataclass(frozen=True)
class Reading:
    """The tokenizer of a base and how the study trains."""

    tokenizer: Any
    """A `PreTrainedTokenizer`."""
    hash: str
    """Names it."""
    training: TrainingSpec
    """Of the study."""

    @classmethod
    def load(cls, base: BaseSpec, root: Path, training: TrainingSpec) -> Reading:
        """Load the tokenizer of a base.

        Raises:
            SpecError: It is not there or cannot be read.
        """
        files = resolve_base(base, root)
        try:
            folder, revision = pretrained_place(files)
            tokenizer = AutoTokenizer.from_pretrained(
                folder, revision=revision, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            reason = one_line(str(error))[:200]
            raise SpecError(
                f"base: the tokenizer of {files.location} cannot be loaded ({reason}); "
                "put its files beside the weights"
            ) from error
        return cls(tokenizer, tokenizer_hash(tokenizer), training)

    def rows(self, source: Source, max_length: int | None = None) -> TokenRows:
        """Return the training rows of a source as token ids, cut as in training unless another length is given."""
        length = self.training.max_length if max_length is None else max_length
        return tokenise(source, self.tokenizer, self.hash, length, self.training.loss_on)


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of the rows of a source; those of `prompt` with the opening of an answer."""

    total: int
    """Of all rows, uncut; of a pair both answers count, each with its prompt."""
    median: float
    """Of a row."""
    longest: int
    """Of a row."""
    n_cut: int
    """Training rows that lose their end at `max_length`."""
    n_dropped: int
    """Training rows that are left out, since `max_length` or their content leaves nothing to learn."""


def count_tokens(source: Source, reading: Reading, is_trained: bool) -> TokenCounts:
    """Return the tokens of a source's rows.

    Args:
        source: With at least one row.
        reading: How they are read.
        is_trained: Whether training draws from it, so that `max_length` holds.

    Raises:
        DataError: The chat template is missing or rewrites prompts.
    """
    if source.format == "prompt":
        lengths = [len(_prompt_ids(row["prompt"], source, reading)) for row in source.rows]
        return TokenCounts(sum(lengths), median(lengths), max(lengths), 0, 0)
    whole = reading.rows(source, UNCUT)
    n_cut = n_dropped = 0
    if is_trained:
        try:
            n_dropped = reading.rows(source).n_dropped
        except DataError:  # No row is left.
            n_dropped = len(source.rows)
        over = sum(_longest(row) > reading.training.max_length for row in whole.rows)
        n_cut = max(0, over - (n_dropped - whole.n_dropped))
    counts = whole.n_tokens
    return TokenCounts(sum(counts), median(counts), max(counts), n_cut, n_dropped)


@dataclass(frozen=True)
class Piece:
    """A run of tokens of a row."""

    text: str
    """Decoded; not escaped."""
    is_trained: bool
    """Whether the loss sees its tokens."""


@dataclass(frozen=True)
class Shown:
    """One text of a row as the model sees it."""

    title: str
    """`row`, or which answer of a pair."""
    pieces: tuple[Piece, ...]
    """In order; together they are the text."""
    n_tokens: int
    """After cutting."""
    n_trained: int
    """Tokens that the loss sees."""
    n_cut: int
    """Tokens beyond `max_length`."""


def show_row(source: Source, at: int, reading: Reading) -> list[Shown]:
    """Return the texts of one row: one, or of a pair one for each answer; none if training drops the row.

    Args:
        source: Where the row is.
        at: Its position.
        reading: How it is read.

    Raises:
        DataError: The chat template is missing or rewrites prompts.
    """
    alone = replace(source, rows=[source.rows[at]], content_hash=f"{source.content_hash}/{at}")
    if source.format == "prompt":
        ids = _prompt_ids(source.rows[at]["prompt"], source, reading)
        return [_shown("row", ids, [False] * len(ids), 0, reading)]
    try:
        (row,) = reading.rows(alone).rows
        (whole,) = reading.rows(alone, UNCUT).rows
    except DataError as error:
        if "max_length" in str(error):
            return []
        raise
    if "input_ids" in row:
        is_trained = [label != IGNORED for label in row["labels"]]
        # The first token is never predicted.
        is_trained[0] = False
        n_cut = len(whole["input_ids"]) - len(row["input_ids"])
        return [_shown("row", row["input_ids"], is_trained, n_cut, reading)]
    found = []
    for field in ("chosen_ids", "rejected_ids", "completion_ids"):
        if field in row:
            prompt, answer = row["prompt_ids"], row[field]
            is_trained = [False] * len(prompt) + [True] * len(answer)
            n_cut = len(whole[field]) - len(answer)
            title = field.removesuffix("_ids")
            found.append(_shown(title, prompt + answer, is_trained, n_cut, reading))
    return found


def plan_draw(
    stage: Stage, sources: Mapping[str, Source], reading: Reading, seed: int
) -> StagePlan:
    """Return what a stage draws of its sources.

    Args:
        stage: Method, mix and dose.
        sources: Those of its mix, by name.
        reading: How they are read.
        seed: Of the order of rows. A trial has a seed of its own; counts differ by a few rows at most.

    Raises:
        DataError: A source has no row that can be trained on.
    """
    drawing = Drawing(sources, reading.training, reading.tokenizer, reading.hash)
    return drawing.plan(stage, drawing.rows(stage), seed, {})


def _prompt_ids(prompt: Any, source: Source, reading: Reading) -> list[int]:
    tokenizer = reading.tokenizer
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if not tokenizer.chat_template:
        raise DataError(
            f"source {source.name}: the base's tokenizer has no chat template for messages; "
            "write prompts as text, or take an instruct base"
        )
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _longest(row: TokenRow) -> int:
    """Return the tokens of a row that `max_length` is held against."""
    if "input_ids" in row:
        return len(row["input_ids"])
    answers = [
        row[field] for field in ("chosen_ids", "rejected_ids", "completion_ids") if field in row
    ]
    return len(row["prompt_ids"]) + max(map(len, answers))


def _shown(
    title: str, ids: Sequence[int], is_trained: Sequence[bool], n_cut: int, reading: Reading
) -> Shown:
    pieces = []
    for trained, run in groupby(zip(ids, is_trained, strict=True), key=lambda pair: pair[1]):
        # Cleaning would show the model's spaces other than they are.
        text = reading.tokenizer.decode(
            [token for token, _ in run], clean_up_tokenization_spaces=False
        )
        pieces.append(Piece(str(text), trained))
    return Shown(title, tuple(pieces), len(ids), sum(is_trained), n_cut)
