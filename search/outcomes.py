"""Why attempts at trials failed, and what a study has used of its budget, as frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evaluators.scores import Record

FailureKind = Literal[
    "recipe", "scores", "diverged", "memory", "hang", "worker", "storage", "device"
]
"""Of the recipe itself: an error in a stage (`recipe`), a score that it needs is missing (`scores`), numbers that are
not finite (`diverged`), too little memory (`memory`), no progress (`hang`). Of the machines: the process died
(`worker`), a disk or a network was full or away (`storage`), the accelerator gave up (`device`)."""


class Failure(Record):
    """Why an attempt at a trial failed."""

    kind: FailureKind
    """The recipe's own fault, or one of the machines; of the latter, a trial is tried again."""
    reason: str
    """One line."""
    at: str
    """UTC, ISO 8601."""
    seconds: float = 0.0
    """Wall time that the attempt took; charged to the trial, as rest, if it is tried again."""


@dataclass(frozen=True)
class Spent:
    """What a study has used of its budget."""

    trials: int
    failed_trials: int
    train_tokens: int
    compute_seconds: float
    wall_seconds: float
