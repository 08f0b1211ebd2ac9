"""A wrong kind of value at every place of a study: one line that names the place and its line, and exit code 2."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import hostile
import pytest

from search.cli.main import main
from search.messages import place_text
from search.yaml_file import dump_yaml, read_yaml

GOOD = read_yaml(Path(__file__).parent / "malformed" / "good" / "study.yaml").data
WRONG = {"a list": [[["marked"]]], "a mapping": {"marked": [[1]]}}
"""What stands nowhere; each on the line of the place or on the next one."""
CASES = [
    pytest.param(place, value, id=f"{place_text(place)} is {kind}")
    for place in hostile.places(GOOD)
    for kind, value in WRONG.items()
]


@pytest.mark.parametrize(("place", "value"), CASES)
def test_a_wrong_kind_of_value_is_refused_at_its_place(
    place: hostile.Place, value: Any, good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = copy.deepcopy(GOOD)
    hostile.at(data, place[:-1])[place[-1]] = value
    good_study.write_text(dump_yaml(data))
    lines = good_study.read_text().splitlines()
    marked = next(number for number, line in enumerate(lines, 1) if "marked" in line)
    before = sorted(Path().rglob("*"))
    assert main(["check", str(good_study)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith((f"error: study.yaml:{marked - 1}: ", f"error: study.yaml:{marked}: "))
    assert f": {place_text(place)}" in err
    assert ";" in err
    assert not any(word in err for word in ("Traceback", "pydantic", "Input should", ".fixed"))
    assert sorted(Path().rglob("*")) == before


def test_there_are_at_least_150_places_and_kinds() -> None:
    assert len(CASES) >= 150
