"""A model of the stage store by its digest, as a merge takes it."""

from __future__ import annotations

from pydantic import ValidationError

from search.errors import StageError
from search.records import StageRecord
from search.stages.base_model import ResidentBase
from search.stages.model_ref import ModelRef
from search.stages.persist import restore_stage
from search.store import Entry, StageStore, StoreError


def stored_model(base: ResidentBase, store: StageStore | None, name: str, digest: str) -> ModelRef:
    """Return the model that a digest names; earlier ones of the base are stale.

    Args:
        base: The base, not in use otherwise.
        store: Where the model is.
        name: What the merge calls it, for messages.
        digest: Of the stage that made it.

    Raises:
        StageError: It is not there, needs a stage that is not, or comes from another base.
    """
    told = f"model {name} ({digest[:12]})"
    if store is None:
        raise StageError(
            f"{told} is in no stage store that is open here; name the store that has it"
        )
    ref = base.fresh()
    for each in (*_entry(store, told, digest).needs, digest):
        entry = _entry(store, told, each)
        if entry.meta.get("base") != base.fingerprint:
            raise StageError(
                f"{told} comes from another base model than this one; merge its own kind"
            )
        try:
            stage = StageRecord.model_validate(entry.meta["record"]).stage
            restore_stage(ref, stage, store.fetch(each))
        except (KeyError, ValidationError, StoreError) as error:
            raise StageError(f"{told} cannot be read from the stage store: {error}") from error
    return ref


def _entry(store: StageStore, told: str, digest: str) -> Entry:
    try:
        entry = store.find(digest)
    except StoreError as error:
        raise StageError(f"{told} cannot be read from the stage store: {error}") from error
    if entry is None:
        raise StageError(
            f"{told}: the stage store does not hold {digest[:12]}; train it again first"
        )
    return entry
