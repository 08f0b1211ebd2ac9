"""Every rule, kept and broken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from evaluators.reply_specs import PatternSpec
from evaluators.rules import count_units, satisfies
from evaluators.spec import EvaluatorSpec

ROW = {"gold": "Paris", "golds": ["four", "4"], "year": 1969, "nothing": None}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "boss": {"$ref": "#"}},
    "required": ["name"],
}


def rule_of(**rule: Any) -> Any:
    text = json.dumps({"evaluator": "pattern", "source": "ask", "rules": [rule]})
    spec = TypeAdapter(EvaluatorSpec).validate_json(text)
    assert isinstance(spec, PatternSpec)
    return spec.rules[0]


@pytest.mark.parametrize(
    ("rule", "kept", "broken"),
    [
        ({"rule": "regex", "pattern": "^Thought:"}, " Thought: yes", "A Thought:"),
        ({"rule": "regex", "pattern": "b$", "flags": ["multiline"]}, "ab\nc", "ac\nc"),
        ({"rule": "regex", "pattern": "a.b", "flags": ["dotall"]}, "a\nb", "ab"),
        ({"rule": "regex", "pattern": "yes", "flags": ["ignorecase"]}, "YES", "no"),
        ({"rule": "regex", "pattern": "yes", "negate": True}, "no", "yes"),
        ({"rule": "length", "unit": "characters", "at_most": 3}, " abc ", "abcd"),
        ({"rule": "length", "unit": "words", "at_least": 2}, "one two", "one"),
        ({"rule": "length", "unit": "sentences", "at_least": 2, "at_most": 2}, "A. B!", "A."),
        ({"rule": "length", "unit": "lines", "at_most": 1}, "one\n", "one\n\ntwo"),
        ({"rule": "json_schema", "schema": PERSON}, '{"name": "A"}', '{"name": 1}'),
        ({"rule": "json_schema", "schema": {}}, '["any"]', "```json\n[]\n```"),
        ({"rule": "json_schema", "schema": {}}, "0", "NaN"),
        (
            {"rule": "json_schema", "schema": PERSON},
            '{"name": "A", "boss": {"name": "B"}}',
            '{"name": "A", "boss": {}}',
        ),
        ({"rule": "json_schema", "schema": {}}, "[[]]", "[" * 100_000),
        ({"rule": "starts_with", "text": "Sure"}, "\nSure thing", "sure"),
        ({"rule": "ends_with", "text": "."}, "Done. ", "Done"),
        ({"rule": "contains", "text": "b"}, "abc", "ABC"),
        ({"rule": "contains", "text": "b", "ignore_case": True}, "ABC", "ac"),
        ({"rule": "contains", "field": "gold"}, "It is Paris.", "It is paris."),
        ({"rule": "contains", "field": "golds"}, "That makes 4", "That makes five"),
        ({"rule": "contains", "field": "year"}, "in 1969", "in 1970"),
        ({"rule": "forbidden", "words": ["I am sorry", "cat"]}, "concatenate", "A Cat sat"),
        ({"rule": "forbidden", "words": ["C++"]}, "C", "I like C++."),
    ],
)
def test_rule_holds_for_one_output_and_not_for_the_other(
    rule: dict[str, Any], kept: str, broken: str
) -> None:
    assert satisfies(rule_of(**rule), kept, ROW) is True
    assert satisfies(rule_of(**rule), broken, ROW) is False


def test_empty_output_has_no_units_of_any_kind() -> None:
    assert [count_units("", unit) for unit in ("characters", "words", "sentences", "lines")] == [
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("text", "n_sentences"),
    [
        ("Hi", 1),
        ("Pi is 3.14.", 1),
        ("Really?! Yes.", 2),
        ('He said "no."', 1),
        ("One. And more", 2),
        ("...", 0),
    ],
)
def test_sentences_end_with_a_mark_before_space_or_end(text: str, n_sentences: int) -> None:
    assert count_units(text, "sentences") == n_sentences


@pytest.mark.parametrize("field", ["absent", "nothing"])
def test_contains_a_field_that_holds_no_text_is_an_error_not_a_failure(field: str) -> None:
    with pytest.raises(ValueError, match=f"field '{field}' holds no text"):
        satisfies(rule_of(rule="contains", field=field), "x", ROW)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"rule": "regex", "pattern": "("}, "is not a regular expression"),
        ({"rule": "length", "unit": "words"}, "gives no bound"),
        ({"rule": "length", "unit": "words", "at_least": 3, "at_most": 2}, "swap them"),
        ({"rule": "json_schema", "schema": {"type": "objekt"}}, "not a usable JSON schema"),
        ({"rule": "json_schema", "schema": {"$ref": "http://a/b"}}, "points nowhere inside it"),
        ({"rule": "json_schema", "schema": {"$ref": "#/$defs/a"}}, "points nowhere inside it"),
        ({"rule": "json_schema", "schema": {"pattern": "("}}, "not a usable JSON schema"),
        ({"rule": "contains"}, "exactly one of text and field"),
        ({"rule": "contains", "text": "a", "field": "b"}, "exactly one of text and field"),
        ({"rule": "forbidden", "words": []}, "at least 1"),
    ],
)
def test_bad_rule_is_one_error_of_one_line(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        rule_of(**rule)
    (error,) = caught.value.errors()
    assert message in error["msg"]
    assert "\n" not in error["msg"]
