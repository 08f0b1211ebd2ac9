"""What is planted in real trainings of a small model is found by `apportion explain`, which trains what it lacks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "planted_trainings"))
import run as planted_run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["harmful", "redundant", "order"])
def test_what_is_planted_in_a_world_is_found_with_two_seeds_and_not_claimed_from_one(
    name: str,
) -> None:
    result = planted_run.run(name, 0)
    assert planted_run.is_right(result, 2)
    assert result["1"]["claims"] == []
    assert not planted_run.is_right(result, 1)


@pytest.mark.slow
def test_of_trainings_without_anything_to_learn_nothing_is_claimed() -> None:
    result = planted_run.run("nothing", 0)
    assert planted_run.is_right(result, 2)
