"""Our rules against the instruction checkers of IFEval that lm-evaluation-harness ships, on generated texts.

Theirs are not used themselves: importing them tries to download data of nltk, asks for two more packages, replaces
arguments that are missing by random ones, and counts text whose language cannot be told as right.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from evaluators.rule_specs import Rule
from evaluators.rules import satisfies

LINES = (
    *(
        "- figs",
        "* dates",
        "plain words here",
        "Section 1",
        "Section 2 more",
        "P.S. call me",
        "p. s. and so",
    ),
    *(
        "<<A title>>",
        "<< >>",
        "***",
        "******",
        "What, now?",
        "the CAT and the cat",
        "[name] is it",
        '"quoted"',
    ),
    *(
        "ALL CAPS",
        "all lower",
        '{"a": 1}',
        "```json",
        "```",
        "[1, 2]",
        "<<>>",
        "Who is it?",
        "",
        "eel",
    ),
)
TEXTS = st.lists(st.sampled_from(LINES), max_size=7).map("\n".join).map(str.strip).filter(bool)
PROMPT = "Who is it?"


@pytest.fixture(scope="module")
def theirs() -> Iterator[dict[str, Any]]:
    """Their checkers by id; what their import would download or lacks is stood in for."""
    stand_ins = {
        name: types.ModuleType(name)
        for name in ("langdetect", "immutabledict")
        if name not in sys.modules
    }
    for module in stand_ins.values():
        module.immutabledict = dict  # type: ignore[attr-defined]
    patch = pytest.MonkeyPatch()
    patch.setattr(nltk.data, "find", lambda *_: None)
    for name, module in stand_ins.items():
        patch.setitem(sys.modules, name, module)
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    yield INSTRUCTION_DICT
    patch.undo()
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        del sys.modules[name]


def their_verdict(theirs: dict[str, Any], name: str, arguments: dict[str, Any], text: str) -> bool:
    instruction = theirs[name](name)
    instruction.build_description(**arguments)
    return bool(instruction.check_following(text))


PAIRS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"rule": "keywords", "words": ["cat", "plain"]},
        "keywords:existence",
        {"keywords": ["cat", "plain"]},
    ),
    (
        {"rule": "keywords", "words": ["cat"], "at_least": 2},
        "keywords:frequency",
        {"keyword": "cat", "frequency": 2, "relation": "at least"},
    ),
    (
        {"rule": "keywords", "words": ["cat"], "at_least": 0, "at_most": 1},
        "keywords:frequency",
        {"keyword": "cat", "frequency": 2, "relation": "less than"},
    ),
    (
        {"rule": "forbidden", "words": ["cat", "figs"]},
        "keywords:forbidden_words",
        {"forbidden_words": ["cat", "figs"]},
    ),
    (
        {"rule": "regex", "pattern": "[eE]", "at_least": 3},
        "keywords:letter_frequency",
        {"letter": "e", "let_frequency": 3, "let_relation": "at least"},
    ),
    (
        {"rule": "regex", "pattern": r"\w+", "at_least": 5},
        "length_constraints:number_words",
        {"num_words": 5, "relation": "at least"},
    ),
    (
        {"rule": "regex", "pattern": r"\[.*?\]"},
        "detectable_content:number_placeholders",
        {"num_placeholders": 1},
    ),
    (
        {"rule": "parts", "separator": "***", "at_least": 2, "at_most": 2},
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
    ),
    (
        {"rule": "sections", "at_least": 2},
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
    ),
    ({"rule": "title"}, "detectable_format:title", {}),
    ({"rule": "json"}, "detectable_format:json_format", {}),
    ({"rule": "without", "characters": ","}, "punctuation:no_comma", {}),
    ({"rule": "quoted"}, "startend:quotation", {}),
    (
        {"rule": "ends_with", "text": "more"},
        "startend:end_checker",
        {"end_phrase": "more"},
    ),
    (
        {"rule": "repeat_prompt", "more": False},
        "combination:repeat_prompt",
        {"prompt_to_repeat": PROMPT},
    ),
]


@pytest.mark.parametrize(("ours", "name", "arguments"), PAIRS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=TEXTS)
def test_rule_agrees_with_the_instruction_of_ifeval(
    theirs: dict[str, Any], ours: dict[str, Any], name: str, arguments: dict[str, Any], text: str
) -> None:
    rule = TypeAdapter(Rule).validate_json(TypeAdapter(dict).dump_json(ours))
    own = satisfies(rule, text, {"prompt": PROMPT})
    assert own == their_verdict(theirs, name, arguments, text)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=TEXTS.filter(lambda text: "***" not in text))
def test_bullets_agree_where_no_line_is_a_rule_of_dashes(theirs: dict[str, Any], text: str) -> None:
    rule = TypeAdapter(Rule).validate_python({"rule": "bullets", "at_least": 2, "at_most": 2})
    name, arguments = "detectable_format:number_bullet_lists", {"num_bullets": 2}
    assert satisfies(rule, text, {}) == their_verdict(theirs, name, arguments, text)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=TEXTS)
def test_what_is_a_postscript_or_two_answers_to_us_is_to_them(
    theirs: dict[str, Any], text: str
) -> None:
    postscript = TypeAdapter(Rule).validate_python({"rule": "postscript"})
    if satisfies(postscript, text, {}):
        arguments = {"postscript_marker": "P.S."}
        assert their_verdict(theirs, "detectable_content:postscript", arguments, text)
    parts = {"rule": "parts", "separator": "******", "at_least": 2, "at_most": 2, "distinct": True}
    if satisfies(TypeAdapter(Rule).validate_python(parts), text, {}):
        assert their_verdict(theirs, "combination:two_responses", {}, text)
