"""Sequences that share their prompt in one row of a batch, so that the prompt is read once. No model is run here.

A preference pair or the choices of a question are prompt + completion, several times with the same prompt. In one row
stand the prompt and then each completion; a mask lets a completion see the prompt and itself, and its positions go on
where the prompt ends, so each token sees just what it sees in a row of its own. (The idea is that of shared-prefix or
tree attention: Juravsky et al. 2024, arXiv 2402.05099.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evaluators.tokens import TokenSequence

LONGEST_TOKENS = 1024
"""A row with several sequences has at most so many: its mask and attention grow with the square."""
PAD = -1


class Row(NamedTuple):
    """One row of input: what its sequences share, and then the rest of each, without the last token of each."""

    indices: list[int]
    """Of its sequences."""
    ids: list[int]
    positions: list[int]
    """Of each token in its own sequence."""
    parts: list[int]
    """0 for shared tokens, 1 and up for those of one sequence."""
    predicting: list[int]
    """Where the hidden states stand that predict the sequences' tokens from `first` on, sequence after sequence."""


class Input(NamedTuple):
    """What a model reads, (B, T)."""

    ids: Tensor
    positions: Tensor | None
    """None: counted from 0 in every row."""
    mask: Tensor | None
    """(B, 1, T, T): true where a token (third axis) sees another (fourth); None: all that stand before it."""


def rows_of(sequences: Sequence[TokenSequence], is_packing: bool) -> list[Row]:
    """Return the rows that hold each sequence once, neighbours that share their prompt in one row where asked."""
    rows: list[Row] = []
    for index, sequence in enumerate(sequences):
        n_own = len(sequence.ids) - 1 - sequence.first
        if (
            is_packing
            and rows
            and sequence.first > 1
            and len(rows[-1].ids) + n_own <= LONGEST_TOKENS
            and _share(sequences[rows[-1].indices[0]], sequence)
        ):
            row = rows[-1]
        else:
            n_shared = sequence.first
            row = Row([], sequence.ids[:n_shared], list(range(n_shared)), [0] * n_shared, [])
            rows.append(row)
        start, first = len(row.ids), sequence.first
        row.indices.append(index)
        row.ids.extend(sequence.ids[first:-1])
        row.positions.extend(range(first, first + n_own))
        row.parts.extend([len(row.indices)] * n_own)
        row.predicting.extend([first - 1, *range(start, start + n_own)])
    return rows


def _share(left: TokenSequence, right: TokenSequence) -> bool:
    first = right.first
    return left.first == first and left.ids[:first] == right.ids[:first]


def input_of(rows: Sequence[Row], device: Any) -> Input:
    """Return rows as one batch, padded on the right."""
    width = max(len(row.ids) for row in rows)

    def padded(values: list[int], pad: int) -> list[int]:
        return values + [pad] * (width - len(values))

    ids_BT = torch.tensor([padded(row.ids, 0) for row in rows], device=device)
    if all(len(row.indices) == 1 for row in rows):
        # Pads on the right need no mask: a causal model never looks at them from the left.
        return Input(ids_BT, None, None)
    parts_BT = torch.tensor([padded(row.parts, PAD) for row in rows], device=device)
    is_seen_BTT = (parts_BT[:, None, :] == 0) | (parts_BT[:, None, :] == parts_BT[:, :, None])
    return Input(
        ids_BT,
        torch.tensor([padded(row.positions, 0) for row in rows], device=device),
        is_seen_BTT.tril()[:, None],
    )


def may_pack(model: Any) -> bool:
    """Return whether a model's attention takes a mask as it is and looks back over the whole row."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if len(kinds) == 1 else None
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and kinds == {"full_attention"}
        and (window is None or getattr(config, "use_sliding_window", True) is False)
    )
