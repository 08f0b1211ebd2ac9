"""The JSON Schema of study.yaml agrees with the models on good and wrong studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from search.cli.init import example_folders
from search.schema import SCHEMA_LINE, study_schema, with_schema_line
from search.yaml_file import read_yaml


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(study_schema())
    return jsonschema.Draft202012Validator(study_schema())


@pytest.mark.parametrize("example", example_folders().values(), ids=lambda path: path.name)
def test_example_fits_the_schema(example: Path, validator: jsonschema.Draft202012Validator) -> None:
    assert list(validator.iter_errors(read_yaml(example / "study.yaml").data)) == []


def test_good_study_fits_the_schema(
    good_study: Path, validator: jsonschema.Draft202012Validator
) -> None:
    assert list(validator.iter_errors(read_yaml(good_study).data)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: demo\n", ""),
        ("method: sft", "method: sfx"),
        ("method: sft", "methd: sft"),
        ("{choice: [4, 8]}", "eight"),
        ("{choice: [4, 8]}", "{choice: []}"),
        ("{low: 1000, high: 4000, log: true}", "{low: 1000}"),
        ("kind: full", "kind: half"),
        ("trials: 4", "trials: 0"),
        ("name: demo", "name: ../demo"),
    ],
)
def test_wrong_study_does_not_fit_the_schema(
    good_study: Path, validator: jsonschema.Draft202012Validator, old: str, new: str
) -> None:
    good_study.write_text(good_study.read_text().replace(old, new, 1))
    assert not validator.is_valid(read_yaml(good_study).data)


def test_every_key_of_every_model_is_described() -> None:
    definitions: dict[str, Any] = study_schema()["$defs"]
    named = [
        f"{model}.{key}"
        for model, definition in definitions.items()
        for key, value in definition.get("properties", {}).items()
        if "description" not in value and "const" not in value
    ]
    assert named == []


def test_line_for_editors_is_written_once() -> None:
    assert with_schema_line("name: a\n") == SCHEMA_LINE + "name: a\n"
    assert with_schema_line(SCHEMA_LINE + "name: a\n") == SCHEMA_LINE + "name: a\n"
