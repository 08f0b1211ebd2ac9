"""Store what a stage trained in a thread of its own, while the model is scored.

The weights stay where they are: nothing may change them until `wait` has returned. The lease is held until the entry
is there or cannot be had. Who is killed before leaves a dead lease and no entry, as if the stage had not been trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from search.stages.persist import StageWeights
from search.store import Lease, StageStore, StoreError


class StoredCheckpoints:
    """Keeps one stage in its middle in the store, for as long as its lease is held; see `search.stages.checkpoint`."""

    def __init__(self, store: StageStore, lease: Lease) -> None:
        self._store, self._lease = store, lease

    def put(self, write: Callable[[Path], dict[str, Any]]) -> None:
        """Keep what `write` writes; a lost lease and a full disk are no reason to stop training."""
        with (
            suppress(StoreError, OSError, SafetensorError),
            self._store.scratch() as scratch,
        ):
            folder = scratch / "state"
            folder.mkdir()
            self._store.put_checkpoint(self._lease, folder, write(folder))

    def get(self) -> tuple[Path, dict[str, Any]] | None:
        """Return what was kept last, by whoever held the lease."""
        with suppress(StoreError):
            return self._store.checkpoint(self._lease.digest)
        return None


class Storing:
    """One stage's result on its way into the store."""

    def __init__(
        self,
        store: StageStore,
        lease: Lease,
        held: ExitStack,
        weights: StageWeights,
        meta: Mapping[str, Any],
    ) -> None:
        """Begin.

        Args:
            store: Where it goes.
            lease: Of the stage.
            held: What keeps the lease alive; taken over, and closed at the end, whatever that is.
            weights: What was trained.
            meta: See `StageStore.commit`.
        """
        self._store, self._lease = store, lease
        self._weights, self._meta = weights, meta
        # One that ends with its only task. The interpreter waits for it, so that a program that is done loses nothing.
        executor = ThreadPoolExecutor(1, f"store-{lease.digest[:8]}")
        self._held = held.pop_all()
        try:
            self._seconds = executor.submit(self._store_it)
        except RuntimeError:  # no thread to be had
            self._held.close()
            raise
        executor.shutdown(wait=False)

    def wait(self) -> float:
        """Wait for the end and return the wall seconds that storing took. From now on the weights may change.

        A lost lease and a full disk are no errors: the stage is not stored, and the model is in memory all the same.
        """
        return self._seconds.result()

    def _store_it(self) -> float:
        started = time.monotonic()
        with (
            self._held,
            suppress(StoreError, OSError, SafetensorError),
            self._store.scratch() as scratch,
        ):
            folder = scratch / "result"
            folder.mkdir()
            self._weights.write(folder)
            self._store.commit(self._lease, folder, self._meta)
        return time.monotonic() - started
