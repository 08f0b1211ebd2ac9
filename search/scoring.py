"""What a suite said of one model, and keeping it in the stage store beside the model. No torch."""

from __future__ import annotations

from contextlib import suppress

from pydantic import ValidationError

from evaluators.scores import Item, Record, Score
from search.store import StageStore, StoreError

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
        store.put_scores(digest, version, {_FILE: result.model_dump_json().encode()})
