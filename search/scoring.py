"""What a suite said of one model, and what its evaluators know of the base, kept in the stage store. No torch."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from evaluators.redaction import redacted
from evaluators.scores import Item, Record, Score
from search.store import StageStore, StoreError

if TYPE_CHECKING:
    from evaluators.models import LoadedModel
    from evaluators.suite import Reference, Suite

POLL_SECONDS = 0.2
"""How often to look whether another process has measured the base."""
_FILE = "result.json"


class SuiteResult(Record):
    """Scores and items of one suite on one model."""

    scores: tuple[Score, ...]
    """In the suite's order."""
    items: tuple[Item, ...]
    """In the suite's order."""
    is_stored: bool
    """Whether it comes from the store and cost nothing now."""


def read_result(store: StageStore | None, digest: str, version: str) -> SuiteResult | None:
    """Return what this version of a suite said of a model, or None if it has not been asked."""
    try:
        files = store.scores(digest, version) if store else None
        if files is None:
            return None
        return SuiteResult.model_validate_json(files[_FILE]).model_copy(update={"is_stored": True})
    except (KeyError, ValidationError, StoreError):
        return None


def write_result(store: StageStore | None, digest: str, version: str, result: SuiteResult) -> None:
    """Keep a result, unless a score is missing: the next one who asks shall measure again."""
    if store is None or any(score.value is None for score in result.scores):
        return
    # No room, or no connection: the scores are in the trial's folder all the same.
    with suppress(StoreError):
        store.put_scores(digest, version, {_FILE: redacted(result.model_dump_json()).encode()})


def base_reference(
    suite: Suite,
    version: str,
    base: LoadedModel,
    origin: str,
    store: StageStore | None,
    limit_seconds: float | None = None,
) -> Reference:
    """Return what a suite's evaluators need to know of the base: from the store, or measured now and put there.

    If another process measures it at this moment, wait for that one, or take over when it dies.

    Args:
        suite: The suite.
        version: Equal versions measure the same.
        base: The untouched base.
        origin: Names the base's weights and the arithmetic that runs it: equal origins give equal bits.
        store: Where it is shared; None measures it here.
        limit_seconds: As for `Suite.measure`.
    """
    if store is None or not suite.needs_reference:
        return suite.reference(base, limit_seconds)
    digest = hashlib.sha256(f"reference {origin} {version}".encode()).hexdigest()
    key = f"reference-{version}"
    while True:
        found = _read_reference(suite, base, store, digest, key)
        if found is not None:
            return found
        try:
            lease = store.lease(digest)
        except StoreError:
            return suite.reference(base, limit_seconds)  # No store to be had just now.
        if lease is not None:
            with lease.renewing():
                # The owner before may have put it there since this one looked.
                found = _read_reference(suite, base, store, digest, key)
                return found or _measured_reference(suite, base, store, digest, key, limit_seconds)
        time.sleep(POLL_SECONDS)


def _read_reference(
    suite: Suite, base: LoadedModel, store: StageStore, digest: str, key: str
) -> Reference | None:
    # What is there and cannot be read is measured again and written over.
    with suppress(StoreError, ValueError):
        files = store.scores(digest, key)
        return None if files is None else suite.read_reference(files, base)
    return None


def _measured_reference(
    suite: Suite,
    base: LoadedModel,
    store: StageStore,
    digest: str,
    key: str,
    limit_seconds: float | None,
) -> Reference:
    reference = suite.reference(base, limit_seconds)
    files = suite.reference_files(reference)
    if files is not None:
        with suppress(StoreError):
            store.put_scores(digest, key, files)
    return reference
