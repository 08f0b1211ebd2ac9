"""Leaks that were found before are read from the user's cache, and only those of the very same rows and code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.data import known_leaks
from search.data.known_leaks import Rows
from search.data.leaks import Leak, Seen, find_leaks

TRAIN, SUITE, HOLDOUT = Seen("train", "a"), Seen("search", "b"), Seen("holdout", "c")
COMPARISONS = (((TRAIN,), (SUITE, HOLDOUT)), ((SUITE,), (HOLDOUT,)))
EXPECTED = [
    {(TRAIN, HOLDOUT): [Leak("same", 1, 0)]},
    {(SUITE, HOLDOUT): [Leak("same", 0, 1)]},
]


def rows_of(*more: str) -> dict[Seen, Rows]:
    def rows(*texts: str) -> Rows:
        return Rows("prompt", [{"prompt": text} for text in texts])

    return {
        TRAIN: rows("how are you today", "who is it that knocks", *more),
        SUITE: rows("what time is it in Rome"),
        HOLDOUT: rows("Who is it that knocks?", "What time is it in Rome?"),
    }


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each comparison that is really made; results are kept under `tmp_path`."""
    made: list[int] = []

    def counted(*sides: Any) -> Any:
        made.append(1)
        return find_leaks(*sides)

    monkeypatch.setenv("APPORTION_CACHE", str(tmp_path))
    monkeypatch.setattr(known_leaks, "find_leaks", counted)
    monkeypatch.setattr(known_leaks, "FEWEST_ROWS", 5)
    return made


def found(*more: str) -> Any:
    return known_leaks.known_leaks(rows_of(*more), COMPARISONS)


def test_same_rows_are_compared_once_and_others_anew(calls: list[int]) -> None:
    assert found() == EXPECTED
    assert found() == EXPECTED
    assert len(calls) == 2
    assert found("what time is it in Rome")[0] == {
        **{(TRAIN, SUITE): [Leak("same", 2, 0)]},
        (TRAIN, HOLDOUT): [Leak("same", 1, 0), Leak("same", 2, 1)],
    }
    assert len(calls) == 4


def test_other_code_compares_anew(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    found()
    monkeypatch.setattr(known_leaks, "_CODE", ("leaks.py", "near.py"))
    assert found() == EXPECTED
    assert len(calls) == 4


def test_few_rows_leave_nothing_behind(
    calls: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_leaks, "FEWEST_ROWS", 6)
    assert found() == EXPECTED
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "{",
        lambda kept: json.dumps(kept[:1]),
        lambda kept: json.dumps([[[TRAIN, HOLDOUT, [["same", 2, 0]]]], kept[1]]),
        lambda kept: json.dumps([[[TRAIN, HOLDOUT, [["same", -1, 0]]]], kept[1]]),
        lambda kept: json.dumps([[[TRAIN, ["holdout", "d"], [["same", 1, 0]]]], kept[1]]),
        lambda kept: json.dumps([[[TRAIN, HOLDOUT, [["alike", 1, 0]]]], kept[1]]),
    ],
)
def test_file_that_cannot_be_of_these_rows_is_not_believed(
    damage: Any, calls: list[int], tmp_path: Path
) -> None:
    found()
    (file,) = tmp_path.rglob("*.json")
    file.write_text(damage(json.loads(file.read_text())))
    assert found() == EXPECTED
    assert len(calls) == 4
    assert found() == EXPECTED
    assert len(calls) == 4
