"""Rules that an output must satisfy, as study.yaml says them; `evaluators.rules` applies them. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evaluators.spec_base import Spec

_REGEX_FLAGS = {"ignorecase": re.IGNORECASE, "multiline": re.MULTILINE, "dotall": re.DOTALL}
_Text = Annotated[str, Field(min_length=1)]


class CountedSpec(Spec):
    """At least and at most so many of what a rule counts."""

    at_least: int = Field(default=1, ge=0)
    """Fewest."""
    at_most: int | None = Field(default=None, ge=0)
    """Most."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.at_most is None and self.at_least == 0:
            raise ValueError("at_least 0 alone asks for nothing; add at_most or raise it")
        if self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"at_most {self.at_most} is below at_least {self.at_least}; mend one of them"
            )
        return self

    def allows(self, n: int) -> bool:
        """Return whether a number is within the bounds."""
        return self.at_least <= n and (self.at_most is None or n <= self.at_most)


class RegexRule(CountedSpec):
    """The output matches a regular expression so many times, by default somewhere (`re.finditer`)."""

    rule: Literal["regex"]
    pattern: str
    """Python regular expression, such as `[eE]` for a letter or `\\[.+?\\]` for a placeholder."""
    flags: tuple[Literal["ignorecase", "multiline", "dotall"], ...] = ()
    """As in the `re` module."""
    negate: bool = False
    """True: the output must not match, and there are no bounds."""

    @model_validator(mode="after")
    def _check_pattern(self) -> RegexRule:
        try:
            self.compiled()
        except re.error as error:
            raise ValueError(
                f"pattern {self.pattern!r} is not a regular expression: {error}; mend it"
            ) from None
        if self.negate and (self.at_least, self.at_most) != (1, None):
            raise ValueError("negate allows no match at all; remove at_least and at_most")
        return self

    def compiled(self) -> re.Pattern[str]:
        """Return the compiled pattern; `re` keeps recent ones."""
        flags = re.NOFLAG
        for flag in self.flags:
            flags |= _REGEX_FLAGS[flag]
        return re.compile(self.pattern, flags)


class LengthRule(Spec):
    """The output has at least and at most so many units."""

    rule: Literal["length"]
    unit: Literal["characters", "words", "sentences", "lines", "paragraphs"]
    """Words are runs of non-space; sentences end with . ! or ? before a space or the end; empty lines do not count;
    paragraphs are divided by empty lines."""
    at_least: int | None = Field(default=None, ge=0)
    """Fewest units."""
    at_most: int | None = Field(default=None, ge=0)
    """Most units."""

    @model_validator(mode="after")
    def _check(self) -> LengthRule:
        if self.at_least is None and self.at_most is None:
            raise ValueError("gives no bound; give at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}; swap them")
        return self


class JsonSchemaRule(Spec):
    """The whole output is one JSON value that satisfies a JSON schema (draft 2020-12)."""

    rule: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")
    """The schema; `$ref` may point inside it, never outside."""

    @model_validator(mode="after")
    def _check(self) -> JsonSchemaRule:
        from evaluators.json_schema import schema_fault  # late: jsonschema costs start-up time

        fault = schema_fault(self.schema_)
        if fault is not None:
            raise ValueError(f"schema is not a usable JSON schema: {fault}; mend it")
        return self


class StartsWithRule(Spec):
    """The output starts with a text."""

    rule: Literal["starts_with"]
    text: str = Field(min_length=1)
    """The text; case matters."""


class EndsWithRule(Spec):
    """The output ends with a text."""

    rule: Literal["ends_with"]
    text: str = Field(min_length=1)
    """The text; case matters."""


class ContainsRule(Spec):
    """The output contains a text, or a field of its row. Exactly one of `text` and `field`."""

    rule: Literal["contains"]
    text: str | None = Field(default=None, min_length=1)
    """The text."""
    field: str | None = None
    """Name of a field of the row, such as a gold answer; of a list, one entry must be contained."""
    ignore_case: bool = False
    """True: upper and lower case are the same."""

    @model_validator(mode="after")
    def _check(self) -> ContainsRule:
        if (self.text is None) == (self.field is None):
            raise ValueError("has both or neither; give exactly one of text and field")
        return self


class ForbiddenRule(Spec):
    """The output contains none of some words."""

    rule: Literal["forbidden"]
    words: tuple[_Text, ...] = Field(min_length=1)
    """Whole words or phrases; case does not matter."""


class KeywordsRule(CountedSpec):
    """The output contains words so many times each, by default at least once."""

    rule: Literal["keywords"]
    words: tuple[_Text, ...] = Field(min_length=1)
    """Whole words or phrases; case does not matter."""
    need: Literal["all", "any"] = "all"
    """Whether the bounds must hold for all words or for one of them at least."""


class LanguageRule(Spec):
    """The output is written in a language, as py3langid finds."""

    rule: Literal["language"]
    language: str
    """ISO 639 code, such as `en`."""
    among: tuple[str, ...] = ()
    """Codes to choose from; few make short texts sure. Default: all that the library knows."""

    @model_validator(mode="after")
    def _check(self) -> LanguageRule:
        from evaluators.language import known_languages  # late: loading takes a tenth of a second

        known = known_languages()
        unknown = [code for code in (self.language, *self.among) if code not in known]
        if unknown:
            raise ValueError(
                f"language {unknown[0]!r} is not known; write an ISO 639 code, such as en, de or zh"
            )
        if self.among and (self.language not in self.among or len(set(self.among)) < 2):
            raise ValueError(
                f"among must hold {self.language!r} and one language more; add what is lacking"
            )
        return self


class CaseRule(Spec):
    """All letters of the output are of one case, and there is one at least."""

    rule: Literal["case"]
    case: Literal["upper", "lower"]
    """The case."""


class BulletsRule(CountedSpec):
    """The output has so many lines that begin with a bullet: `-`, `*`, `+` or `•` and a space."""

    rule: Literal["bullets"]


class NumberedListRule(CountedSpec):
    """The output has a list of so many lines numbered `1.` or `1)`, then 2 and so on without a gap."""

    rule: Literal["numbered_list"]


class TitleRule(Spec):
    """The output has a title."""

    rule: Literal["title"]
    style: Literal["angle", "heading"] = "angle"
    """`angle`: `<<a title>>` anywhere; `heading`: the first line is a Markdown heading."""


class JsonRule(Spec):
    """The whole output is one JSON value; `json_schema` asks for more."""

    rule: Literal["json"]
    allow_fence: bool = True
    """True: it may stand in a Markdown code fence."""


class CodeBlockRule(CountedSpec):
    """The output has so many closed Markdown code fences that hold something."""

    rule: Literal["code_block"]
    language: str | None = None
    """Count only fences marked with this language."""


class HeadingsRule(Spec):
    """The output has Markdown headings in this order; others may stand between them."""

    rule: Literal["headings"]
    titles: tuple[_Text, ...] = Field(min_length=1)
    """Texts of the headings; case does not matter."""
    level: int | None = Field(default=None, ge=1, le=6)
    """Number of # signs. Default: any."""
    only: bool = False
    """True: there are no other headings of that level."""
    filled: bool = True
    """True: text follows each of them before the next heading."""


class SectionsRule(CountedSpec):
    """The output has so many sections that begin with a word and a number, such as `Section 1`."""

    rule: Literal["sections"]
    word: _Text = "Section"
    """The word; case matters."""


class PartsRule(CountedSpec):
    """The output has so many parts with a separator between them, none empty."""

    rule: Literal["parts"]
    separator: _Text
    """Such as `***` or `******`; white space around it does not count."""
    distinct: bool = False
    """True: no two parts are equal."""


class ParagraphStartRule(Spec):
    """A paragraph of the output begins with a word; paragraphs are divided by empty lines."""

    rule: Literal["paragraph_start"]
    paragraph: int = Field(ge=1)
    """Its number, from 1."""
    word: _Text
    """Case and punctuation around it do not matter."""


class WithoutRule(Spec):
    """The output has none of some characters, such as commas."""

    rule: Literal["without"]
    characters: _Text
    """The characters, one after the other."""


class QuotedRule(Spec):
    """The whole output stands in double quotation marks."""

    rule: Literal["quoted"]


class RepeatPromptRule(Spec):
    """The output begins with the last user message of its prompt, word for word; case does not matter."""

    rule: Literal["repeat_prompt"]
    more: bool = True
    """True: an answer must follow."""


class PostscriptRule(Spec):
    """A line of the output begins with a marker of a postscript, and text follows it."""

    rule: Literal["postscript"]
    marker: _Text = "P.S."
    """The marker; case does not matter."""


class AnyOfRule(Spec):
    """The output satisfies at least one of some rules."""

    rule: Literal["any_of"]
    rules: tuple[Rule, ...] = Field(min_length=1)
    """The rules."""


class AllOfRule(Spec):
    """The output satisfies all of some rules."""

    rule: Literal["all_of"]
    rules: tuple[Rule, ...] = Field(min_length=1)
    """The rules."""


class NotRule(Spec):
    """The output does not satisfy a rule."""

    rule: Literal["not"]
    of: Rule
    """The rule."""


Rule = Annotated[
    RegexRule
    | LengthRule
    | JsonSchemaRule
    | StartsWithRule
    | EndsWithRule
    | ContainsRule
    | ForbiddenRule
    | KeywordsRule
    | LanguageRule
    | CaseRule
    | BulletsRule
    | NumberedListRule
    | TitleRule
    | JsonRule
    | CodeBlockRule
    | HeadingsRule
    | SectionsRule
    | PartsRule
    | ParagraphStartRule
    | WithoutRule
    | QuotedRule
    | RepeatPromptRule
    | PostscriptRule
    | AnyOfRule
    | AllOfRule
    | NotRule,
    Field(discriminator="rule"),
]

for _composite in (AnyOfRule, AllOfRule, NotRule):
    _composite.model_rebuild()


def flat(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Yield all rules, those inside others as well."""
    for rule in rules:
        yield rule
        if isinstance(rule, AnyOfRule | AllOfRule):
            yield from flat(rule.rules)
        elif isinstance(rule, NotRule):
            yield from flat((rule.of,))
