"""A Ray of our own on a machine that is too busy to start one in time."""

from __future__ import annotations

import pytest

from search.errors import StudyError
from search.runner.cluster import START_TRIES, started_patiently

SLOW = Exception("The current node timed out during startup. This could happen because ...")


def test_ray_that_was_too_slow_to_start_is_started_again() -> None:
    faults: list[Exception] = [SLOW, SLOW]

    def start() -> None:
        if faults:
            raise faults.pop()

    started_patiently(start)
    assert faults == []


def test_ray_that_never_starts_is_one_line_and_other_errors_rise_at_once() -> None:
    calls: list[Exception] = []

    def start(error: Exception) -> None:
        calls.append(error)
        raise error

    with pytest.raises(StudyError, match="too busy"):
        started_patiently(lambda: start(SLOW))
    assert len(calls) == START_TRIES
    other = ValueError("no such thing")
    with pytest.raises(ValueError, match="no such thing"):
        started_patiently(lambda: start(other))
    assert len(calls) == START_TRIES + 1
