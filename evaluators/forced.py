"""Teacher forcing: a model reads given tokens, and each is judged by what stands before it.

The vocabulary head, half of a small model's work, is applied only to the positions that count, in blocks; sequences of
like length share a batch, and those that share their prompt share a row where the model's attention allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.head import token_changes, token_logps
from evaluators.packing import Input, input_of, may_pack, rows_of
from evaluators.pulse import beat
from evaluators.tokens import TokenSequence


class Capacity(NamedTuple):
    """How much runs at once; fixed by the kind of device, so that results do not depend on what else is in memory."""

    batch_tokens: int
    """Padded tokens of a batch."""
    batch_rows: int
    """Rows of a batch."""
    logits: int
    """Entries (positions times vocabulary) of a block of logits."""


CAPACITIES = {"cpu": Capacity(4096, 32, 2**24), "cuda": Capacity(32768, 128, 2**27)}


class Batch(NamedTuple):
    """What predicts the tokens of some sequences."""

    indices: list[int]
    counts: list[int]
    """Predicted tokens per sequence."""
    hidden: Tensor
    """(N, H): the hidden states that predict the tokens, sequence after sequence."""
    targets: Tensor
    """(N,): the tokens."""


def batches_of_like_length(lengths: Sequence[int], capacity: Capacity) -> Iterator[list[int]]:
    """Yield indices of sequences of so many tokens, longest first, as many as run at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        n_rows = max(1, min(capacity.batch_rows, capacity.batch_tokens // lengths[order[0]]))
        yield order[:n_rows]
        order = order[n_rows:]


class TeacherForcing:
    """A causal language model that reads given tokens; used in inference mode."""

    def __init__(self, model: Any, device: torch.device) -> None:
        """Take a `PreTrainedModel` without wrapper, and the device it is on."""
        self.model, self.device = model, device
        self.capacity = CAPACITIES.get(device.type, CAPACITIES["cuda"])
        self._head_is_plain = False
        self._is_packing: bool | None = None

    def scored(self, sequences: Sequence[TokenSequence]) -> Iterator[Batch]:
        """Yield the hidden states that predict the tokens from `first` on, batch by batch."""
        self._check_head()
        all_rows = rows_of(sequences, self._packs())
        for chosen in batches_of_like_length([len(row.ids) for row in all_rows], self.capacity):
            rows = [all_rows[index] for index in chosen]
            hidden_BTH = self._hidden(input_of(rows, self.device))
            hidden_NH = torch.cat(
                [hidden_TH[row.predicting] for hidden_TH, row in zip(hidden_BTH, rows, strict=True)]
            )
            indices = [index for row in rows for index in row.indices]
            own = [sequences[index] for index in indices]
            counts = [len(each.ids) - each.first for each in own]
            targets = [token for each in own for token in each.ids[each.first :]]
            beat()
            yield Batch(indices, counts, hidden_NH, torch.tensor(targets, device=self.device))

    def _hidden(self, batch: Input) -> Tensor:
        """Return the last hidden states (B, T, H)."""
        packed = (
            {}
            if batch.mask is None
            else {"attention_mask": batch.mask, "position_ids": batch.positions}
        )
        hidden_BTH: Tensor = self.model.base_model(
            input_ids=batch.ids, use_cache=False, **packed
        ).last_hidden_state
        return hidden_BTH

    def _packs(self) -> bool:
        """Return whether sequences in one row get the hidden states that they get in rows of their own."""
        if self._is_packing is None:
            self._is_packing = may_pack(self.model) and self._is_packing_exact()
        return self._is_packing

    def _is_packing_exact(self) -> bool:
        n_vocab = int(self.model.config.vocab_size)
        shared = [at % n_vocab for at in range(3, 8)]
        sequences = [
            TokenSequence([*shared, *(at % n_vocab for at in tail), 0], len(shared), 0)
            for tail in ((11, 12, 13), (17, 18))
        ]
        try:
            packed, *alone = [
                torch.cat(
                    [self._hidden(input_of([row], self.device))[0, row.predicting] for row in rows]
                )
                for rows in (rows_of(sequences, True), rows_of(sequences, False))
            ]
        except (TypeError, ValueError, RuntimeError):  # takes no positions, or no mask of this kind
            return False
        # Relative to a whole state: a few entries of it are a thousand times as large as the rest.
        distance_N = (packed.float() - alone[0].float()).norm(dim=-1)
        tolerance = 1e-3 if packed.dtype == torch.float32 else 0.05
        return bool((distance_N <= tolerance * alone[0].float().norm(dim=-1)).all())

    def _blocks(self, n_positions: int) -> Iterator[slice]:
        size = max(1, self.capacity.logits // int(self.model.config.vocab_size))
        for start in range(0, n_positions, size):
            yield slice(start, start + size)

    def summed(
        self, sequences: Sequence[TokenSequence], values: Callable[[Batch], Tensor]
    ) -> NDArray[np.float64]:
        """Return per-token values (N, C) summed in float64 over each sequence, shape (sequences, C)."""
        sums: list[Any] = [None] * len(sequences)
        for batch in self.scored(sequences):
            parts = torch.split(values(batch).double().cpu(), batch.counts)
            for index, part_NC in zip(batch.indices, parts, strict=True):
                sums[index] = part_NC.sum(dim=0).numpy()
        return np.stack(sums)

    def logps(self, batch: Batch) -> Tensor:
        """Return the log-probability of each token, shape (N, 1)."""
        head = self.model.get_output_embeddings()
        parts = [
            token_logps(head, batch.hidden[block], batch.targets[block])
            for block in self._blocks(len(batch.targets))
        ]
        return torch.cat(parts)[:, None]

    def changes(
        self, batch: Batch, base_NH: Tensor, head_weight: Tensor, head_bias: Tensor | None
    ) -> Tensor:
        """Return nats, the base's nats and KL(base || model) of each token, shape (N, 3)."""
        head, base = self.model.get_output_embeddings(), (head_weight, head_bias)
        parts = [
            token_changes(head, batch.hidden[block], base, base_NH[block], batch.targets[block])
            for block in self._blocks(len(batch.targets))
        ]
        return torch.cat(parts)

    def _check_head(self) -> None:
        """Refuse a model that does more between its last hidden state and its logits than apply its head."""
        if self._head_is_plain:
            return
        ids_BT = torch.arange(4, device=self.device)[None] % int(self.model.config.vocab_size)
        # The class's forward: trainers may have patched the instance's.
        logits = type(self.model).forward(self.model, input_ids=ids_BT, use_cache=False).logits
        hidden = self.model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        by_hand = self.model.get_output_embeddings()(hidden)
        if not torch.allclose(
            logits.float(), by_hand.float(), rtol=0.02, atol=0.02, equal_nan=True
        ):
            raise ValueError(
                f"{type(self.model).__name__} transforms its logits after the head (soft-capping or a scale), "
                "which evaluators do not support"
            )
        self._head_is_plain = True
