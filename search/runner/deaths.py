"""What ended a worker: judged by what it left in the trial's folder, and by the error that Ray has of it."""

from __future__ import annotations

import re

from evaluators.redaction import redacted
from search.failures import kind_of
from search.folders import TrialFolder, utc_now
from search.messages import one_line
from search.outcomes import Failure
from search.runner.watchdog import is_hang
from search.trial_log import n_stages_logged


def failure_of(
    folder: TrialFolder, error: BaseException | None, hang_seconds: float | None
) -> Failure:
    """Return why a trial ended whose worker recorded no end.

    Args:
        folder: Of the trial.
        error: What Ray says; None if it says nothing.
        hang_seconds: As in the study.
    """
    if is_hang(folder.hang):
        reason = (
            f"nothing was done for {hang_seconds:g} seconds (stopping.hang_seconds) in {_place(folder)}; "
            f"where it stood: {folder.hang.name}"
        )
        return Failure(kind="hang", reason=reason, at=utc_now())
    cause = getattr(error, "cause", None)
    kind = kind_of(cause) if isinstance(cause, BaseException) else "recipe"
    if kind in ("storage", "device"):
        return Failure(kind=kind, reason=_line(f"{type(cause).__name__}: {cause}"), at=utc_now())
    if cause is not None:
        reason = _line(f"the worker failed outside the trial: {type(cause).__name__}: {cause}")
    elif error is not None and _is_short_of_memory(str(error)):
        reason = (
            "the worker process was killed since the machine ran out of memory; fewer concurrent_trials, or a smaller "
            "micro_batch_rows, need less"
        )
    else:
        reason = "the worker process died (killed, out of memory, or a crash in native code)"
    return Failure(kind="worker", reason=reason, at=utc_now())


def _is_short_of_memory(text: str) -> bool:
    return re.search(r"out of memory|\bOOM\b|OutOfMemory", text) is not None


def _place(folder: TrialFolder) -> str:
    record = folder.read_record()
    if record is None or not record.recipe.stages:
        return "the untouched base"
    n_stages = len(record.recipe.stages)
    # The record comes when a step ends; the log knows what was done in it.
    n_trained, n_scored = (
        max(len(record.stages), n_stages_logged(folder.log)),
        len(record.boundaries),
    )
    if n_trained > n_scored or n_trained == n_stages:
        return f"the evaluation after stage {n_trained} of {n_stages}"
    return f"stage {n_trained + 1} of {n_stages} ({record.recipe.stages[n_trained].influence})"


def _line(text: str) -> str:
    return one_line(redacted(text))[:500]
