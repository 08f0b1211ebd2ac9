"""The JSON Schema of study.yaml, for editors: completion, descriptions and first errors while typing."""

from __future__ import annotations

import json
from typing import Any

from search.spec import StudySpec

SCHEMA_FILE = "study.schema.json"
"""Written beside study.yaml by `apportion init`."""
SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
"""First line of a study file; editors with the YAML language server read it."""


def study_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of StudySpec.

    It knows keys, types, bounds and descriptions. What ties two places together, such as an objective and its
    score, is left to `apportion check`.
    """
    schema = StudySpec.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "study.yaml of apportion",
    }


def schema_text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(study_schema(), indent=2, ensure_ascii=False) + "\n"


def with_schema_line(study_text: str) -> str:
    """Return the text of a study file with the line that tells editors its schema."""
    return study_text if "yaml-language-server" in study_text else SCHEMA_LINE + study_text
