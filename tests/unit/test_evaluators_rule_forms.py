"""Rules of form, keywords and language on hand-made outputs, and rules made of rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from evaluators.rule_specs import Rule
from evaluators.rules import is_satisfied_by_nothing, satisfies


def rule_of(text: str) -> Rule:
    import yaml

    return TypeAdapter(Rule).validate_json(json.dumps(yaml.safe_load(text)))


def holds(text: str, output: str, row: dict[str, Any] | None = None) -> bool:
    return satisfies(rule_of(text), output, row or {"prompt": "Who?"})


LIST = "Fruit:\n- figs\n* dates\n+ plums\n---\n-5 degrees"
STEPS = "1. wash\n2) cut\n  3. eat"
PAGE = "# Intro\nhello\n\n## Methods ##\nwe did\n```\n# no heading\n```\n# Results\nfine"
CASES = [
    ("{rule: regex, pattern: '[eE]', at_least: 2, at_most: 3}", "eel", "seed eel", "fog"),
    ("{rule: length, unit: paragraphs, at_least: 2, at_most: 2}", "a\n\nb", "a\nb", "a\n \nb\n\nc"),
    ("{rule: keywords, words: [cat, dog]}", "A dog, a CAT", "a cat", "cats and dogs"),
    ("{rule: keywords, words: [cat, dog], need: any}", "one dog", "cats", ""),
    ("{rule: keywords, words: [cat], at_least: 2, at_most: 2}", "cat cat", "cat", "cat cat cat"),
    ("{rule: keywords, words: [cat], at_least: 0, at_most: 1}", "none", "cat cat", "Cat! cat"),
    ("{rule: language, language: de}", "Der Hund schläft im Garten.", "The dog sleeps.", "42"),
    ("{rule: language, language: en, among: [en, fr]}", "No idea.", "Je ne sais pas.", "..."),
    ("{rule: language, language: zh}", "我不知道他在哪里。", "彼がどこにいるかわかりません。", ""),
    ("{rule: case, case: upper}", "YES, 2!", "Yes", "22"),
    ("{rule: case, case: lower}", "yes, 2!", "Yes", ""),
    ("{rule: bullets, at_least: 3, at_most: 3}", LIST, "- one\n- two", "---\n---\n---"),
    ("{rule: numbered_list, at_least: 3}", STEPS, "1. a\n3. b\n4. c", "2. a\n3. b\n4. c"),
    ("{rule: title}", "<<My day>>\nhello", "<<>>", "<<  >>"),
    ("{rule: title, style: heading}", "# My day\nhello", "My day\n# no", "#hash"),
    ("{rule: json}", '```json\n{"a": [1]}\n```', "a: 1", "NaN"),
    ("{rule: json, allow_fence: false}", "[1, 2]", "```\n[1]\n```", ""),
    (
        "{rule: code_block, language: python}",
        "so:\n```python\nx\n```",
        "```\nx\n```",
        "```python\nx",
    ),
    ("{rule: code_block, at_least: 2}", "```\na\n```\n\n```\nb\n```", "```\na\n```", "```\n\n```"),
    ("{rule: headings, titles: [intro, results]}", PAGE, "# Results\na\n# Intro\nb", "# Intro\na"),
    ("{rule: headings, titles: [no heading]}", "# no heading\nx", PAGE, "no heading"),
    ("{rule: headings, titles: [a, b]}", "# a\nx\n# b\ny", "# a\n# b\ny", "# a\nx\n# b"),
    ("{rule: headings, titles: [a], level: 2}", "# b\n## a\nx", "# a\nx", "### a\nx"),
    ("{rule: headings, titles: [a], only: true}", "# a\nx", "# a\nx\n# b\ny", "# b\nx\n# a\ny"),
    ("{rule: sections, at_least: 2}", "Section 1\na\nSection 2\nb", "Section 1\na", "Sections two"),
    ("{rule: parts, separator: '***', at_least: 2}", "a\n***\nb", "a", "***a***"),
    ("{rule: parts, separator: '***', at_least: 2, at_most: 2}", "***\na\n***\nb", "a******b", ""),
    ("{rule: parts, separator: '##', at_least: 2, distinct: true}", "a##b", "a ## a", "a##"),
    ("{rule: paragraph_start, paragraph: 2, word: Then}", "a\n\n*then*, b", "a\n\nNow b", "then"),
    ("{rule: without, characters: ',;'}", "a. b", "a, b", "a; b"),
    ("{rule: quoted}", '"yes"', '"yes" he said', '"'),
    ("{rule: repeat_prompt}", "who? Me.", "who?", "Me. Who?"),
    ("{rule: repeat_prompt, more: false}", "WHO?", "What?", ""),
    ("{rule: postscript}", "Bye.\nP. S. call", "Bye.\nP.S.", "the P.S. is absent"),
    ("{rule: postscript, marker: PPS}", "Bye.\npps: call", "Bye", "the PPS"),
    ("{rule: any_of, rules: [{rule: quoted}, {rule: json}]}", "[1]", "yes", ""),
    ("{rule: all_of, rules: [{rule: quoted}, {rule: json}]}", '"a"', "[1]", '"a\nb"'),
    ("{rule: not, of: {rule: any_of, rules: [{rule: quoted}, {rule: json}]}}", "a", "[1]", '"a"'),
]


@pytest.mark.parametrize(("rule", "good", "bad", "also_bad"), CASES)
def test_rule_holds_for_one_output_and_not_for_two(
    rule: str, good: str, bad: str, also_bad: str
) -> None:
    assert [holds(rule, output) for output in (good, bad, also_bad)] == [True, False, False]


def test_prompt_that_is_repeated_is_the_last_user_message() -> None:
    ask = [{"role": role, "content": text} for role, text in (("system", "s"), ("user", "Why?"))]
    row = {"prompt": ask}
    assert holds("{rule: repeat_prompt}", "Why?\n\nBecause.", row)
    assert not holds("{rule: repeat_prompt}", "s Because.", row)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["{rule: forbidden, words: [bad]}"], True),
        (["{rule: length, unit: words, at_most: 9}", "{rule: without, characters: ','}"], True),
        (["{rule: not, of: {rule: contains, field: gold}}"], True),
        (["{rule: forbidden, words: [bad]}", "{rule: contains, field: gold}"], False),
        (["{rule: not, of: {rule: repeat_prompt}}", "{rule: case, case: lower}"], False),
        (["{rule: any_of, rules: [{rule: quoted}, {rule: without, characters: x}]}"], True),
    ],
)
def test_rules_that_only_forbid_are_satisfied_by_nothing(rules: list[str], expected: bool) -> None:
    assert is_satisfied_by_nothing([rule_of(rule) for rule in rules]) is expected


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("{rule: regex, pattern: a, negate: true, at_most: 3}", "negate allows no match"),
        ("{rule: bullets, at_least: 0}", "asks for nothing"),
        ("{rule: keywords, words: [a], at_most: 0}", "at_most 0 is below at_least 1"),
        ("{rule: language, language: klingon}", "'klingon' is not known; write an ISO 639"),
        ("{rule: language, language: en, among: [de, fr]}", "among must hold 'en'"),
        ("{rule: any_of, rules: []}", "at least 1 item"),
        ("{rule: not, of: {rule: length, unit: words}}", "gives no bound"),
    ],
)
def test_rule_that_cannot_be_meant_is_refused_with_a_remedy(rule: str, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        rule_of(rule)


def test_rule_survives_its_own_json() -> None:
    for text, *_ in CASES:
        rule = rule_of(text)
        again = TypeAdapter(Rule).validate_json(rule.model_dump_json())
        assert again == rule


@pytest.mark.parametrize(
    "output", ["\x00", "`" * 5000, "#" * 5000, "- " * 5000, "<<" * 5000, "[" * 9999]
)
def test_odd_outputs_are_judged_and_never_raise(output: str) -> None:
    assert {holds(text, output) for text, *_ in CASES} <= {True, False}
