"""Evaluators of the user's own: found, checked with place and line, versioned, and shipped as plain data."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from custom_tools import Package
from pydantic import TypeAdapter

from evaluators import custom
from evaluators.spec import EvaluatorSpec
from evaluators.suite import Suite
from search.check import all_problems
from search.cli.main import main
from search.schema import study_schema
from search.yaml_file import load_study

ROWS = {"asks": [{"prompt": "hi!"}, {"prompt": "ho"}]}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    return Package(tmp_path / "package", monkeypatch)


class EchoModel:
    def ready(self) -> Any:
        return nullcontext()

    def generate(self, conversations: list[Any], max_new_tokens: int) -> list[str]:
        return list(conversations)


def spec_of(name: str, **fields: Any) -> Any:
    return TypeAdapter(EvaluatorSpec).validate_json(
        json.dumps({"evaluator": name, "source": "asks", **fields})
    )


def suite_of(name: str, **fields: Any) -> Suite:
    return Suite({"mine": spec_of(name, **fields)}, ROWS, Path("."))


def study_with(study: Path, name: str, settings: str = "source: asks") -> Path:
    text = study.read_text().replace(
        "holdout:", f"  mine: {{evaluator: '{name}', {settings}}}\nholdout:", 1
    )
    study.write_text(text)
    return study


def found(study: Path, name: str, settings: str = "source: asks") -> list[str]:
    problems = all_problems(study_with(study, name, settings))
    return [str(each).removeprefix(str(study)) for each in problems if not each.is_warning]


def line_of(study: Path) -> int:
    lines = study.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if "mine:" in line)


def test_class_of_the_user_is_measured_like_ours(package: Package) -> None:
    module = package.marks()
    (score,) = suite_of(f"{module}:Marks").measure(EchoModel())["mine"].scores  # type: ignore[arg-type]
    assert (score.name, score.value, score.n, score.unit) == ("mine", 0.5, 2, "marks/reply")


def test_study_with_it_checks_clean_and_check_says_whose_code_it_ran(
    package: Package, good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{package.marks()}:Marks"
    study_with(good_study, name)
    assert main(["check", str(good_study)]) == 0
    assert (
        f"evaluator   mine: {name}, your own code, imported and so run" in capsys.readouterr().out
    )
    assert load_study(good_study).score_infos["mine"].unit == "marks/reply"


def test_unknown_key_and_wrong_value_are_refused_with_place_line_and_remedy(
    package: Package, good_study: Path
) -> None:
    name = f"{package.marks()}:Marks"
    messages = found(good_study, name, "source: asks, mrk: a, at_most: many, max_new_tokens: 0")
    place = f":{line_of(good_study)}: suite.mine"
    assert sorted(messages) == [
        f"{place}.at_most: 'many' is not a whole number; write a whole number",
        f"{place}.max_new_tokens: 0 is too small; write a number above 0",
        f"{place}.mrk: 'mrk' is not a key here; did you mean 'mark'?",
    ]


def test_missing_key_of_the_class_is_named(package: Package, good_study: Path) -> None:
    (message,) = found(good_study, f"{package.marks()}:Marks", "mark: a")
    assert message == f":{line_of(good_study)}: suite.mine.source: is missing; add it: text"


@pytest.mark.parametrize(
    ("text", "class_name", "message"),
    [
        ("import no_such_library", "Marks", r"ModuleNotFoundError: No module named 'no_such"),
        ("raise RuntimeError('two\\nlines')", "Marks", r"\(RuntimeError: two lines\); install"),
        ("import sys; sys.exit(3)", "Marks", r"\(SystemExit: 3\)"),
        ("x = 1", "Marks", r"is not there; name a class of that module"),
        ("Marks = dict", "Marks", r"is no evaluator; make it a subclass"),
        ("from evaluators.base import Evaluator as Marks", "Marks", r"lacks fingerprint, measure"),
        ("def f(:", "Marks", r"SyntaxError"),
    ],
)
def test_what_cannot_be_used_is_one_line_at_its_place(
    text: str, class_name: str, message: str, package: Package, good_study: Path
) -> None:
    name = f"{package.add(text)}:{class_name}"
    (found_message,) = found(good_study, name)
    assert found_message.startswith(f":{line_of(good_study)}: suite.mine.evaluator: {name} ")
    assert re.search(message, found_message)


def test_module_that_is_nowhere_comes_with_the_remedy(good_study: Path) -> None:
    (message,) = found(good_study, "no_such_package.mine:Mine")
    assert "cannot be imported (ModuleNotFoundError: No module named 'no_such_package')" in message
    assert message.endswith("install its package, or put its folder on PYTHONPATH")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("spec_class = MarksSpec", "spec_class = dict", "has no spec_class"),
        ("    version = 1\n", "", "has no version"),
        ("name=name, unit", "name='other', unit", "do not begin with the evaluator's name"),
        ("return (ScoreInfo(", "return 1 / 0 and (ScoreInfo(", "ZeroDivisionError"),
        ("    mark: str", "    model_config = {'extra': 'ignore'}\n    mark: str", "unknown keys"),
    ],
)
def test_class_that_breaks_a_promise_of_its_spec_is_refused(
    old: str, new: str, message: str, package: Package, good_study: Path
) -> None:
    (found_message,) = found(good_study, f"{package.marks((old, new))}:Marks")
    assert message in found_message


def test_rows_that_the_class_cannot_take_are_reported_at_check(
    package: Package, good_study: Path
) -> None:
    crash = ("super().__init__", "rows[99]; super().__init__")
    (message,) = found(good_study, f"{package.marks(crash)}:Marks")
    assert message.startswith(f":{line_of(good_study)}: suite.mine: users_module_")
    assert message.endswith("IndexError: list index out of range")


def test_version_of_the_suite_follows_version_and_spec_even_if_the_fingerprint_does_not(
    package: Package,
) -> None:
    lazy = "\ndef fingerprint(self): return 'always the same'\n"
    first = package.marks(more=lazy)
    versions = [
        suite_of(f"{first}:Marks").version,
        suite_of(f"{first}:Marks", mark="?").version,
        suite_of(f"{first}:Marks", source="asks", limit=1).version,
    ]
    assert len(set(versions)) == 3
    assert suite_of(f"{first}:Marks").version == versions[0]
    evaluator = custom.evaluator_class(f"{first}:Marks")
    evaluator.version = 2
    assert suite_of(f"{first}:Marks").version not in versions


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("(marks,)", "(marks, marks)", "measure returned the scores ['mine', 'mine'], announced"),
        ("return Measurement(", "return dict(", "measure returned dict and no Measurement"),
        ("counts = [", "counts = 1 / 0 or [", "ZeroDivisionError: division by zero"),
    ],
)
def test_measurement_that_is_none_is_missing_with_the_reason(
    old: str, new: str, reason: str, package: Package
) -> None:
    suite = suite_of(f"{package.marks((old, new))}:Marks")
    (score,) = suite.measure(EchoModel())["mine"].scores  # type: ignore[arg-type]
    assert score.value is None
    assert reason in (score.reason or "")


def test_process_without_the_package_reads_the_spec_and_says_what_is_lacking(
    package: Package,
) -> None:
    data = pickle.dumps(spec_of(f"{package.marks()}:Marks"))
    code = (
        "import pickle, sys; from pathlib import Path; from evaluators.suite import Suite\n"
        "spec = pickle.loads(sys.stdin.buffer.read())\n"
        "try: Suite({'mine': spec}, {}, Path('.'))\n"
        "except ValueError as error: print(error)\n"
    )
    root = Path(custom.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], input=data, cwd=root, capture_output=True, check=True
    )
    said = done.stdout.decode()
    assert "cannot be imported (ModuleNotFoundError" in said
    assert "PYTHONPATH" in said


def test_entry_point_gives_a_short_name(
    package: Package, good_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{package.marks()}:Marks"
    point = importlib.metadata.EntryPoint("marks", path, custom.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    custom.entry_points.cache_clear()
    try:
        assert suite_of("marks").infos[0].unit == "marks/reply"
        (message,) = found(good_study, "marks", "source: asks, mrk: 1")
        assert "suite.mine.mrk: 'mrk' is not a key here; did you mean 'mark'?" in message
        pattern = study_schema()["$defs"]["CustomSpec"]["properties"]["evaluator"]["pattern"]
        assert pattern.endswith("|marks)$")
    finally:
        monkeypatch.undo()
        custom.entry_points.cache_clear()


def test_own_names_win_over_import_paths_and_unknown_ones_are_still_suggested(
    good_study: Path,
) -> None:
    (message,) = found(good_study, "patern")
    assert message.endswith("suite.mine.evaluator: 'patern' is not known; did you mean 'pattern'?")


def test_list_names_ours_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluators", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["own"]["likelihood"] == "Bits per byte of a text."
