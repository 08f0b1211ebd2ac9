"""Log-probabilities of preference references, kept in memory: each stage after one parent would compute them again.

What a forward pass gives depends on all rows in it, down to the last bit, since padding and the order of sums do. So a
pass is the unit that is kept, and found again only by the very same rows, on the same parent under the same adapter.
Stages of one kind after one parent share their passes as far as they share the order of rows, which follows the seed.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Logps = tuple[tuple[float, float], ...]
"""Per row, log-probabilities of the chosen and of the rejected answer, in nats."""

MAX_PASSES = 4096
"""Passes that are kept, of a few hundred bytes each; the least recently used goes first."""


class ReferenceCache:
    """Passes over the rows of preference stages, by what determines them."""

    def __init__(self, max_passes: int = MAX_PASSES) -> None:
        """Start empty."""
        self._max_passes = max_passes
        self._kept: OrderedDict[str, Logps] = OrderedDict()
        self.n_found = 0
        """Passes that were not computed again."""

    def logps(
        self, model: str | None, rows: Sequence[Mapping[str, Any]], compute: Callable[[], Logps]
    ) -> Logps:
        """Return the log-probabilities of a pass: kept ones, bit for bit, or computed and kept now.

        Args:
            model: Names the parent (its digest) and what lies on it at this moment (the stage's adapter, untrained);
                None keeps nothing.
            rows: The rows of the pass in order, with `prompt_ids`, `chosen_ids` and `rejected_ids`.
            compute: Runs the pass.
        """
        if model is None:
            return compute()
        ids = [[row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]] for row in rows]
        key = hashlib.sha256(json.dumps([model, ids]).encode()).hexdigest()
        if key in self._kept:
            self.n_found += 1
        else:
            self._kept[key] = compute()
            if len(self._kept) > self._max_passes:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


CACHE = ReferenceCache()
"""Of this process."""
