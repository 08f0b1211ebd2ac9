"""Does an output satisfy a rule? Pure functions over text; outputs are untrusted, rules are the author's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators import rule_formats as formats
from evaluators import rule_specs as specs
from evaluators.json_schema import fits_schema
from evaluators.language import language_of
from evaluators.rule_specs import Rule, flat

_MARKS = " \t\r\n\"'.,;:!?()[]*_`"


def satisfies(rule: Rule, output: str, row: Mapping[str, Any]) -> bool:
    """Return whether an output, stripped of surrounding white space, satisfies a rule.

    Args:
        rule: The rule.
        output: What the model wrote.
        row: The row of the source that the prompt came from; `contains` may name a field of it, and `repeat_prompt`
            reads its prompt.

    Raises:
        ValueError: `contains` names a field that the row lacks or that holds no text.
    """
    text = output.strip()
    match rule:
        case specs.AnyOfRule():
            return any(satisfies(part, text, row) for part in rule.rules)
        case specs.AllOfRule():
            return all(satisfies(part, text, row) for part in rule.rules)
        case specs.NotRule():
            return not satisfies(rule.of, text, row)
        case specs.JsonSchemaRule():
            return fits_schema(text, rule.schema_)
        case specs.LanguageRule():
            return language_of(text, rule.among) == rule.language
        case specs.RepeatPromptRule():
            return _repeats(text, row["prompt"], rule.more)
    return _says(rule, text, row) if isinstance(rule, _Saying) else _has_form(rule, text)


_Saying = (
    specs.RegexRule
    | specs.StartsWithRule
    | specs.EndsWithRule
    | specs.ContainsRule
    | specs.ForbiddenRule
    | specs.KeywordsRule
)


def _says(rule: _Saying, text: str, row: Mapping[str, Any]) -> bool:
    match rule:
        case specs.RegexRule():
            return _matches(rule, text)
        case specs.StartsWithRule():
            return text.startswith(rule.text)
        case specs.EndsWithRule():
            return text.endswith(rule.text)
        case specs.ContainsRule():
            wanted = (rule.text,) if rule.text is not None else field_texts(row, rule.field or "")
            return any(_contains(text, part, rule.ignore_case) for part in wanted)
        case specs.ForbiddenRule():
            return not any(_n_of_word(text, word) for word in rule.words)
        case specs.KeywordsRule():
            held = [rule.allows(_n_of_word(text, word)) for word in rule.words]
            return all(held) if rule.need == "all" else any(held)


def _has_form(rule: Rule, text: str) -> bool:
    match rule:
        case specs.LengthRule():
            n_units = count_units(text, rule.unit)
            return (rule.at_least is None or n_units >= rule.at_least) and (
                rule.at_most is None or n_units <= rule.at_most
            )
        case specs.CaseRule():
            return text.isupper() if rule.case == "upper" else text.islower()
        case specs.BulletsRule():
            return rule.allows(formats.n_bullets(text))
        case specs.NumberedListRule():
            return rule.allows(formats.n_numbered(text))
        case specs.TitleRule():
            return formats.has_title(text, rule.style)
        case specs.JsonRule():
            return formats.is_json(text, rule.allow_fence)
        case specs.CodeBlockRule():
            return rule.allows(formats.n_code_blocks(text, rule.language))
        case specs.HeadingsRule():
            return formats.has_headings(text, rule)
        case specs.SectionsRule():
            return rule.allows(len(re.findall(rf"\b{re.escape(rule.word)}\s?\d+", text)))
        case specs.PartsRule():
            return rule.allows(formats.n_parts(text, rule))
        case specs.ParagraphStartRule():
            parts = formats.paragraphs(text)[rule.paragraph - 1 : rule.paragraph]
            return any(_bare(part.split()[0]) == _bare(rule.word) for part in parts)
        case specs.WithoutRule():
            return not set(rule.characters) & set(text)
        case specs.QuotedRule():
            return len(text) > 2 and text[0] == text[-1] == '"'
        case specs.PostscriptRule():
            return formats.has_postscript(text, rule.marker)
    raise AssertionError(rule)


def is_satisfied_by_nothing(rules: Sequence[Rule]) -> bool:
    """Return whether an empty output satisfies all rules, as it does those that only forbid."""
    fields = {
        rule.field: "x"
        for rule in flat(rules)
        if isinstance(rule, specs.ContainsRule) and rule.field is not None
    }
    return all(satisfies(rule, "", {"prompt": "x", **fields}) for rule in rules)


def field_texts(row: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Return the texts a row's field holds: one, or the entries of a list.

    Raises:
        ValueError: The field is absent, empty, or holds something else than text or numbers.
    """
    value = row.get(field)
    entries = value if isinstance(value, list | tuple) else [value]
    texts = tuple(str(entry).strip() for entry in entries if isinstance(entry, str | int | float))
    if not texts or len(texts) != len(entries) or not all(texts):
        known = ", ".join(sorted(row))
        raise ValueError(f"field {field!r} holds no text; the row has {known}")
    return texts


def count_units(text: str, unit: str) -> int:
    """Return the number of characters, words, sentences, lines or paragraphs of a stripped text.

    A sentence ends with one or more of . ! ? before white space or the end; words after the last such mark are one
    more.
    """
    if unit == "characters":
        return len(text)
    if unit == "words":
        return len(text.split())
    if unit == "lines":
        return sum(1 for line in text.splitlines() if line.strip())
    if unit == "paragraphs":
        return len(formats.paragraphs(text))
    return sum(1 for part in re.split(r"[.!?]+(?=\s|$)", text) if part.strip(" \t\r\n\"')"))


def _matches(rule: specs.RegexRule, text: str) -> bool:
    if rule.negate:
        return rule.compiled().search(text) is None
    return rule.allows(sum(1 for _ in rule.compiled().finditer(text)))


def _contains(text: str, part: str, ignore_case: bool) -> bool:
    return part.casefold() in text.casefold() if ignore_case else part in text


def _n_of_word(text: str, word: str) -> int:
    pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
    return len(re.findall(pattern, text, re.IGNORECASE))


def _repeats(text: str, prompt: Any, needs_more: bool) -> bool:
    """Return whether a text begins with a prompt's text, or with its last user message."""
    if not isinstance(prompt, str):
        prompt = [each["content"] for each in prompt if each["role"] == "user"][-1:]
        prompt = prompt[0] if prompt else ""
    wanted, said = (" ".join(part.casefold().split()) for part in (prompt, text))
    return bool(wanted) and said.startswith(wanted) and (not needs_more or len(said) > len(wanted))


def _bare(word: str) -> str:
    return word.strip(_MARKS).casefold()
