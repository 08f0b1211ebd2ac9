"""Problems of files as one line each: place, value and remedy, in the words of study.yaml."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

from evaluators.custom import CustomSpec, evaluator_class

KeyPath = tuple[str | int, ...]
_NUMBER = re.compile(r"[-+]?[0-9][0-9_,]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?")
_NAME_RULE = "letters, digits, _ and -, beginning with a letter or digit, at most 64 in all"


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file, at a place."""

    file: str
    """As the caller named it."""
    line: int | None
    """From 1; None for files without lines and for what holds for a whole file."""
    place: KeyPath
    """Keys from the top; empty for the whole file."""
    text: str
    """Value and remedy, one line."""
    is_warning: bool = False
    """True: the study runs all the same."""

    def __str__(self) -> str:
        where = f"{place_text(self.place)}: " if self.place else ""
        line = "" if self.line is None else f":{self.line}"
        return f"{self.file}{line}: {where}{self.text}"

    def as_json(self) -> dict[str, Any]:
        """Return the fields with the place as text."""
        return {**asdict(self), "place": place_text(self.place)}


def place_text(place: KeyPath) -> str:
    """Return a key path as people write it, such as `objectives[0].score`."""
    parts = []
    for key in place:
        if isinstance(key, int):
            parts.append(f"[{key}]")
        else:
            parts.append(f".{key}" if re.fullmatch(r"[\w-]{1,64}", key) else f".{value_text(key)}")
    return "".join(parts).removeprefix(".")


def value_text(value: object) -> str:
    """Return a value as short text on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return one_line(text if len(text) <= 60 else f"{text[:57]}...")


def one_line(text: str) -> str:
    """Return text without line breaks and control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def names_text(names: Iterable[object]) -> str:
    """Return names from a file as one line, few and short whatever the file holds."""
    listed = [one_line(str(name))[:40] or "?" for name in islice(names, 8)]
    return ", ".join(listed) or "nothing"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'rank'?`, or what is known when nothing is near."""
    names = sorted(known)
    near = _nearest(word, names)
    if near is not None:
        return f"did you mean {near!r}?"
    if not names:
        return "there is none"
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {listed}"


def describe_errors(error: ValidationError, model: type[BaseModel]) -> list[tuple[KeyPath, str]]:
    """Return place and text of each distinct error, in pydantic's order.

    Args:
        error: What pydantic raised.
        model: The model that was asked for.
    """
    found: dict[KeyPath, str] = {}
    replaced: set[KeyPath] = set()
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # pydantic counts valid entries; the invalid ones are reported themselves
        spot = _walk(model, detail["loc"])
        if detail["type"] == "extra_forbidden" and spot.owner is not None:
            near = _nearest(str(spot.place[-1]), _keys(spot.owner))
            if near is not None:
                replaced.add((*spot.place[:-1], near))
        place, text = _describe(detail["type"], detail, spot)
        found.setdefault(place, text)
    return [
        (place, text)
        for place, text in found.items()
        if not (place in replaced and text.startswith("is missing"))
    ]


class _Spot(NamedTuple):
    """Where an error is: the place in the file and what the model wants there."""

    place: KeyPath
    wanted: Any
    """Annotation at the place; a union where the file may choose."""
    owner: type[BaseModel] | None
    """Model that holds the last key, if a model does."""
    is_key: bool
    """The error is about the last key itself and not about its value."""


def _walk(model: type[BaseModel], loc: Sequence[str | int]) -> _Spot:
    """Follow pydantic's location through the annotations; its union tags are no places."""
    place: KeyPath = ()
    wanted: Any = model
    union: Any = None
    owner: type[BaseModel] | None = None
    for key in loc:
        if key == "[key]":
            return _Spot(place, str, None, True)
        members = _members(wanted)
        if len(members) > 1:
            member = next((member for member in members if key in _tags(member)), None)
            if member is not None:
                wanted, union = member, wanted
                continue
        if _bare(wanted) is CustomSpec and key != "evaluator":
            # The places of a custom spec begin with the name of its class.
            wanted = evaluator_class(str(key)).spec_class
            continue
        wanted, owner = _below(members[0] if members else None, key)
        union = None
        place = (*place, key)
    is_narrowed = union is None or _is_model(wanted) or len(_members(wanted)) > 1
    return _Spot(place, wanted if is_narrowed else union, owner, False)


def _below(holder: Any, key: str | int) -> tuple[Any, type[BaseModel] | None]:
    holder = _bare(holder)
    if _is_model(holder):
        field = _keys(holder).get(str(key))
        return (None if field is None else field.annotation), holder
    arguments = get_args(holder)
    if get_origin(holder) is dict:
        return arguments[1], None
    if get_origin(holder) in (tuple, list) and isinstance(key, int):
        is_same_throughout = len(arguments) == 1 or arguments[-1] is Ellipsis
        return arguments[0 if is_same_throughout else min(key, len(arguments) - 1)], None
    return None, None


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union without None, or the annotation alone."""
    bare = _bare(annotation)
    if get_origin(bare) not in (Union, types.UnionType):
        return [annotation]
    members = [member for member in get_args(bare) if member is not type(None)]
    return _members(members[0]) if len(members) == 1 else members


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model by the names they have in files."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tags(member: Any) -> set[str]:
    """Return the names that pydantic may use for a member of a union."""
    tags = {part.tag for part in get_args(member)[1:] if isinstance(part, Tag)}
    bare = _bare(member)
    if _is_model(bare):
        for field in bare.model_fields.values():
            if get_origin(field.annotation) is Literal:
                tags.update(map(str, get_args(field.annotation)))
    return tags | {getattr(bare, "__name__", "")}


def _nearest(word: str, names: Iterable[str]) -> str | None:
    near = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return near[0] if near else None


def _describe(kind: str, detail: Mapping[str, Any], spot: _Spot) -> tuple[KeyPath, str]:
    value, context = detail["input"], detail.get("ctx", {})
    place = spot.place
    if spot.is_key:
        return place, f"name {value_text(value)} is not allowed; use {_NAME_RULE}"
    if kind == "missing":
        return place, f"is missing; add it: {_expected(spot.wanted)}"
    if kind == "extra_forbidden":
        return place, _unknown_key(str(place[-1]), spot.owner)
    if kind == "union_tag_not_found":
        key = context["discriminator"].strip("'")
        written = _nearest(key, map(str, value)) if isinstance(value, Mapping) else None
        if written is not None:
            return (
                *place,
                written,
            ), f"{value_text(written)} is not a key here; did you mean {key!r}?"
        return place, f"{key} is missing; write {_expected(spot.wanted)}"
    if kind == "union_tag_invalid":
        known = re.findall(r"'([^']*)'", context["expected_tags"])
        key = context["discriminator"].strip("'")
        return (
            *place,
            key,
        ), f"{value_text(context['tag'])} is not known; {suggest(context['tag'], known)}"
    if kind == "literal_error":
        known = [str(name) for name in get_args(_bare(_members(spot.wanted)[0]))]
        what = "is empty" if value is None else f"{value_text(value)} is not known"
        return place, f"{what}; {suggest(str(value), known)}"
    if kind == "value_error":
        return place, one_line(str(context["error"]))
    if kind in _BOUNDS:
        return place, _BOUNDS[kind](value, context)
    if kind.endswith(("_type", "_from_float", "_parsing")):
        return place, _wrong_type(value, spot.wanted)
    return place, one_line(f"{value_text(value)} does not fit: {detail['msg']}")


def _unknown_key(key: str, owner: type[BaseModel] | None) -> str:
    if owner is None:
        return f"{value_text(key)} is not a key here; remove it"
    if _nearest(key, _keys(owner)) is None:
        for name, field in _keys(owner).items():
            below = [_bare(member) for member in _members(field.annotation)]
            if any(_is_model(model) and key in _keys(model) for model in below):
                return f"{value_text(key)} is not a key here; did you mean {name}.{key}?"
    return f"{value_text(key)} is not a key here; {suggest(key, _keys(owner))}"


def _wrong_type(value: object, wanted: Any) -> str:
    expected = _expected(wanted)
    if value is None:
        return f"is empty; write {expected}"
    kinds = {_bare(member) for member in _members(wanted)}
    if isinstance(value, str) and _NUMBER.fullmatch(value) and kinds & {int, float}:
        return f"{value_text(value)} is text; write the number without quotes, _ and commas"
    noun = next((_NOUNS[kind] for kind in (int, float, bool, str) if kind in kinds), None)
    return (
        f"{value_text(value)} does not fit; write {expected}"
        if noun is None
        else (f"{value_text(value)} is not {noun}; write {expected}")
    )


_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _expected(wanted: Any) -> str:
    """Say what may stand at a place."""
    members = [_bare(member) for member in _members(wanted)]
    words = [_NOUNS[kind] for kind in (int, float, bool, str) if kind in members]
    if float in members and int in members:
        words.remove(_NOUNS[int])
    models = [member for member in members if _is_model(member)]
    fields = {name for model in models for name in model.model_fields}
    if words or "choice" in fields:
        words += ["{low: ..., high: ...}"] if "low" in fields else []
        words += ["{choice: [...]}"] if "choice" in fields else []
    elif models:
        words.append(_expected_model(models))
    for member in members:
        origin = get_origin(member)
        if origin is Literal:
            words.append("one of " + ", ".join(map(str, get_args(member))))
        elif origin is dict:
            words.append("`name: value` lines")
        elif origin in (tuple, list):
            words.append("a list, such as [...]")
    if "simplex" in fields and not models[1:]:
        words = ["`source: share` lines", "{simplex: {...}}"]
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]])) or "a value"


def _expected_model(models: Sequence[type[BaseModel]]) -> str:
    key = next(
        (
            name
            for name, field in models[0].model_fields.items()
            if get_origin(field.annotation) is Literal
        ),
        None,
    )
    if len(models) == 1 or key is None:
        return f"a mapping with {' or with '.join(map(_main_keys, models))}"
    tags = [get_args(model.model_fields[key].annotation)[0] for model in models]
    return f"a mapping with `{key}:` and one of {', '.join(map(str, tags))}"


def _main_keys(model: type[BaseModel]) -> str:
    names = [name for name, field in model.model_fields.items() if field.is_required()]
    return ", ".join(names or list(model.model_fields)[:6])


_Sentence = Callable[[Any, Mapping[str, Any]], str]


def _plain(number: float) -> str:
    return f"{number:g}"


def _pattern(value: Any, context: Mapping[str, Any]) -> str:
    if "A-Za-z0-9_-" in context["pattern"]:
        return f"name {value_text(value)} is not allowed; use {_NAME_RULE}"
    return f"{value_text(value)} does not have the form {context['pattern']}; write it so"


def _too_short(value: Any, context: Mapping[str, Any]) -> str:
    least, actual = context["min_length"], context["actual_length"]
    if not actual:
        return f"is empty; add at least {least}"
    return f"holds {actual}; add up to at least {least}"


_BOUNDS: dict[str, _Sentence] = {
    "greater_than": lambda v, c: (
        f"{value_text(v)} is too small; write a number above {_plain(c['gt'])}"
    ),
    "greater_than_equal": lambda v, c: (
        f"{value_text(v)} is too small; write at least {_plain(c['ge'])}"
    ),
    "less_than": lambda v, c: (
        f"{value_text(v)} is too large; write a number below {_plain(c['lt'])}"
    ),
    "less_than_equal": lambda v, c: (
        f"{value_text(v)} is too large; write at most {_plain(c['le'])}"
    ),
    "string_pattern_mismatch": _pattern,
    "string_too_short": lambda v, c: (
        f"{value_text(v)} is too short; write at least {c['min_length']} characters"
    ),
    "string_too_long": lambda v, c: (
        f"{value_text(v)} is too long; write at most {c['max_length']} characters"
    ),
    "too_short": _too_short,
    "too_long": lambda v, c: f"holds {c['actual_length']}; leave at most {c['max_length']}",
}
