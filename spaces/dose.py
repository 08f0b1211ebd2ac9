"""Doses of several runs of one influence: a repeat's own dose, and a total split over rounds. Whole tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator

from spaces.spec import FloatValue, Spec, ends

MAX_FACTOR = 10.0
"""Most that a run's dose may be of the one before it."""


def _check_factor(value: FloatValue) -> FloatValue:
    low, high = ends(value)
    if low <= 0 or high > MAX_FACTOR:
        raise ValueError(
            f"{low if low <= 0 else high:g} is not possible; write a number above 0, at most {MAX_FACTOR:g}"
        )
    return value


class RepeatSpec(Spec):
    """What is different when an influence runs again: `{dose_factor: {low: 0.25, high: 2.0, log: true}}`."""

    dose_factor: Annotated[FloatValue, AfterValidator(_check_factor)]
    """Dose of each run as a multiple of the run before: the n-th has dose_tokens * dose_factor ** (n - 1), rounded."""


def repeat_doses(dose_tokens: int, factor: float, n_runs: int) -> list[int]:
    """Return the doses of an influence's runs, length n_runs: dose_tokens * factor ** (n - 1), rounded.

    The factor is first rounded so that the second run has whole tokens. So two doses say what the third is, which lets
    a sampler that has seen two runs plan the next.
    """
    if dose_tokens == 0:
        return [0] * n_runs
    exact = round(dose_tokens * factor) / dose_tokens
    return [round(dose_tokens * exact**n) for n in range(n_runs)]


def round_doses(total_tokens: int, n_rounds: int) -> list[int]:
    """Return a total split evenly over rounds, length n_rounds; parts sum to the total and differ by at most 1."""
    done = [total_tokens * n // n_rounds for n in range(n_rounds + 1)]
    return [after - before for before, after in pairwise(done)]
