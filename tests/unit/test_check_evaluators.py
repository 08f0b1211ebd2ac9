"""`check` on evaluators: rows they cannot read, rules that ask for nothing, and nested rules with their place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from evaluators.suite import EVALUATORS
from search.check import all_problems
from search.schema import study_schema

STYLE = (
    'style:\n    evaluator: pattern\n    source: asks\n    rules: [{rule: contains, text: "!"}]\n'
)


def problems(study: Path, evaluator: str) -> list[str]:
    """Return the problems of the good study with another evaluator called `style`."""
    text = study.read_text()
    assert STYLE in text
    text = text.replace(STYLE, f"style: {evaluator}\n").replace(
        "score: style", "score: choice.accuracy"
    )
    study.write_text(text)
    return [f"{'warning' if p.is_warning else 'error'} {p}" for p in all_problems(study)]


def write_rows(study: Path, *rows: dict[str, Any]) -> None:
    text = "".join(json.dumps({"prompt": "What is it?", **row}) + "\n" for row in rows)
    (study.parent / "data" / "asks.jsonl").write_text(text)


CASES = [
    (
        "{evaluator: multiple_choice, source: asks}",
        "suite.style: row 0: choices is None; give a list of two texts or more",
    ),
    (
        "{evaluator: consistency, source: asks}",
        "suite.style: row 0: group is None; give text or a number that prompts of one meaning share",
    ),
    (
        "{evaluator: refusal, source: asks}",
        "suite.style: row 0: kind is None; give one of harmful, harmless, or name it in harmful or harmless",
    ),
    (
        "{evaluator: style, source: asks, more_like: prose, less_like: prose}",
        "suite.style: source prose has 1 different texts; a classifier needs 20 or more",
    ),
    (
        "{evaluator: style, source: asks, more_like: prose, less_like: asks}",
        "suite.style.source: source 'asks' has format prompt, and style reads text; name another",
    ),
    (
        "{evaluator: style, source: asks, more_like: prose, less_like: pears}",
        "suite.style.less_like: source 'pears' is not among the sources; did you mean 'pairs'?",
    ),
    (
        "{evaluator: pattern, source: asks, rules: [{rule: contains, field: gold}]}",
        "suite.style: row 0: field 'gold' holds no text; the row has prompt",
    ),
    (
        "{evaluator: pattern, source: asks, rules: [{rule: not, of: {rule: any_of, rules: [{rule: bulets}]}}]}",
        "suite.style.rules[0].of.rules[0].rule: 'bulets' is not known; did you mean 'bullets'?",
    ),
    (
        "{evaluator: pattern, source: asks, rules: [{rule: language, language: english}]}",
        "suite.style.rules[0]: language 'english' is not known; write an ISO 639 code, such as en, de or zh",
    ),
    (
        "{evaluator: consistency, source: asks, answer: 'Answer: .*'}",
        "suite.style: answer 'Answer: .*' has 0 groups; put the answer in one group, (...)",
    ),
    (
        "{evaluator: reward_model, source: asks, hub: a/b}",
        "suite.style: hub 'a/b' needs revision, a commit of 40 hex digits",
    ),
]


@pytest.mark.parametrize(("evaluator", "text"), CASES)
def test_evaluator_that_cannot_measure_is_an_error_with_its_place(
    evaluator: str, text: str, good_study: Path
) -> None:
    write_rows(good_study, {}, {})
    found = problems(good_study, evaluator)
    assert len([each for each in found if text in each and each.startswith("error ")]) == 1, found


def test_reward_model_is_looked_for_beside_the_study(good_study: Path) -> None:
    (found,) = problems(good_study, "{evaluator: reward_model, source: asks, path: judge}")
    assert found.endswith(f"suite.style: {good_study.parent / 'judge'} is no folder; mend path")


@pytest.mark.parametrize(
    ("fields", "n_warnings"),
    [
        ("rules: [{rule: forbidden, words: [never]}]", 1),
        ("rules: [{rule: length, unit: words, at_most: 5}]", 1),
        ("allow_empty: true, rules: [{rule: length, unit: words, at_most: 5}]", 0),
        ("rules: [{rule: length, unit: words, at_least: 1, at_most: 5}]", 0),
    ],
)
def test_rules_that_an_empty_answer_satisfies_are_a_warning(
    fields: str, n_warnings: int, good_study: Path
) -> None:
    found = problems(good_study, f"{{evaluator: pattern, source: asks, {fields}}}")
    assert len(found) == n_warnings
    for each in found:
        assert each.startswith("warning ")
        assert "suite.style.rules: an empty answer would satisfy all rules" in each


GOOD = {
    "multiple_choice": (
        "{evaluator: multiple_choice, source: asks}",
        {"choices": ["a", "b"], "answer": 1},
    ),
    "consistency": ("{evaluator: consistency, source: asks}", {"group": "a"}),
    "refusal": ("{evaluator: refusal, source: asks, harmless: []}", {"kind": "harmful"}),
    "diversity": ("{evaluator: diversity, source: asks}", {}),
    "cost": ("{evaluator: cost}", {}),
    "pattern": (
        "{evaluator: pattern, source: asks, rules: [{rule: not, of: {rule: any_of, rules: [{rule: json}, "
        "{rule: all_of, rules: [{rule: title}, {rule: language, language: en}]}]}}, {rule: case, case: upper}]}",
        {},
    ),
}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_evaluator_with_its_rows_has_no_problems_and_fits_the_schema(
    name: str, good_study: Path
) -> None:
    import yaml

    evaluator, row = GOOD[name]
    write_rows(good_study, row, row)
    used = "" if "asks" in evaluator else "sources.asks: is used nowhere"
    assert [each for each in problems(good_study, evaluator) if not used or used not in each] == []
    study = yaml.safe_load(good_study.read_text().replace("1e-4", "1.0e-4"))
    schema = {**study_schema(), "$ref": "#/$defs/SuiteOfTest"}
    schema["$defs"]["SuiteOfTest"] = {"properties": {"suite": schema["properties"]["suite"]}}
    jsonschema.Draft202012Validator(
        {"$defs": schema["$defs"], "$ref": "#/$defs/SuiteOfTest"}
    ).validate(study)


def test_schema_describes_every_evaluator_and_every_field_of_it() -> None:
    definitions = study_schema()["$defs"]
    known = [each for each in definitions.values() if "evaluator" in each.get("properties", {})]
    named = {each["properties"]["evaluator"].get("const"): each for each in known}
    # One of the user's own has no name that is known here.
    assert set(named) == {*EVALUATORS, None}
    rules = [each for each in definitions.values() if "rule" in each.get("properties", {})]
    assert len(rules) == 26
    for each in [*named.values(), *rules]:
        assert each["description"]
        for field, value in each["properties"].items():
            assert field in ("evaluator", "rule") or value.get("description"), (each, field)


def test_checking_new_evaluators_loads_neither_torch_nor_the_classifier() -> None:
    code = (
        "import sys\n"
        "from evaluators.suite import EVALUATORS\n"
        "import importlib\n"
        "for place in EVALUATORS.values():\n"
        "    importlib.import_module(place.split(':')[0])\n"
        "print(sorted({'torch', 'sklearn', 'sacrebleu', 'transformers', 'py3langid'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
