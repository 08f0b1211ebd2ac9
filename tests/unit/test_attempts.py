"""One attempt at a trial writes at a time, also when an earlier one comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.attempts import Attempts
from search.folders import StudyFolder
from search.holding import LostHold


def test_earlier_attempt_that_comes_back_writes_no_more(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    first = attempts.fence(7, attempts.begin(7))
    other = attempts.fence(8, attempts.begin(8))
    first()
    second = attempts.fence(7, attempts.begin(7))
    second()
    with pytest.raises(LostHold, match="trial 7 was given to another attempt"):
        StudyFolder(tmp_path, first).trial(7).clear()
    StudyFolder(tmp_path, second).trial(7).clear()
    other()


def test_attempt_that_was_ended_writes_no_more_and_ending_twice_is_fine(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    check = attempts.fence(7, attempts.begin(7))
    attempts.end(7)
    attempts.end(7)
    with pytest.raises(LostHold):
        check()
