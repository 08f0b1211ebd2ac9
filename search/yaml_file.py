"""Read study.yaml and recipe.yaml: strict YAML with line numbers, then a frozen model. No torch.

The dialect is YAML 1.2's core: `1e-4` is a number, `no` and `on` are text, and there are no tags,
no merge keys, no repeated keys and no infinities. Anchors and aliases work within the size limits.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from evaluators.redaction import redacted
from search.errors import SpecError
from search.messages import Problem, describe_errors, one_line, place_text, value_text
from search.spec import StudySpec

MAX_BYTES = 512 * 1024
"""Longest file in bytes; a study that needs more keeps data in it that belongs into a source."""
MAX_VALUES = 50_000
"""Most values after aliases are followed: ends alias bombs."""
MAX_DEPTH = 32
"""Deepest nesting."""
MAX_WHOLE_NUMBER = 2**63 - 1
"""Largest whole number; databases and samplers hold no larger ones."""

Key = str | int
KeyPath = tuple[Key, ...]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Located:
    """A YAML file as plain data, with the line of every key."""

    path: Path
    """As the caller named it; messages repeat it."""
    data: dict[str, Any]
    """The file's content."""
    lines: dict[KeyPath, int] = field(repr=False)
    """Key path to line number, from 1."""

    def line(self, place: KeyPath) -> int:
        """Return the line of a key path, or of the nearest parent that is in the file."""
        for n_keys in range(len(place), 0, -1):
            if place[:n_keys] in self.lines:
                return self.lines[place[:n_keys]]
        return 1

    def problem(self, place: KeyPath, text: str, is_warning: bool = False) -> Problem:
        """Return a problem at a key path."""
        return Problem(
            str(self.path), self.line(place), place, one_line(redacted(text)), is_warning
        )


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader up to the node graph, with YAML 1.2's scalars and without tags."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"tag {event.tag} is not allowed; remove it; quote text",
                problem_mark=event.start_mark,
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {MAX_DEPTH} levels; flatten it",
                problem_mark=event.start_mark,
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_SCALARS = (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
)
for _kind, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), _first
    )


class _Dumper(yaml.SafeDumper):
    """Writes text that `_Loader` would take for something else in quotes."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_yaml(path: Path) -> Located:
    """Read one YAML file whose top level is a mapping.

    Raises:
        SpecError: The file is missing, unreadable, too large or not in the dialect.
    """
    text = _read_text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        _refuse(path, _line_of(error), _yaml_problem(error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        _refuse(path, line, f"holds the control character {chr(error.character)!r}; remove it")
    if node is None or _is_null(node):
        _refuse(path, 1, "is empty; `apportion init` writes an example to start from")
    if not isinstance(node, yaml.MappingNode):
        _refuse(path, node.start_mark.line + 1, "holds no keys at the top; start with `name: ...`")
    builder = _Builder(path)
    data = builder.build(node, ())
    return Located(path, data, builder.lines)


def load_model(path: Path, model: type[M]) -> tuple[M, Located]:
    """Read a YAML file into a frozen model and keep the line numbers.

    Raises:
        SpecError: The file cannot be read or does not fit: the first problem, how many follow.
    """
    located = read_yaml(path)
    problems = model_problems(located, model)
    if isinstance(problems, list):
        raise SpecError(summary(problems))
    return problems, located


def model_problems(located: Located, model: type[M]) -> M | list[Problem]:
    """Return the model that a file holds, or all the reasons why it holds none, by line."""
    try:
        return model.model_validate_json(json.dumps(located.data))
    except ValidationError as error:
        found = describe_errors(error, model)
        problems = [located.problem(place, text) for place, text in found]
        return sorted(problems, key=lambda problem: problem.line or 0)


def load_study(path: Path) -> StudySpec:
    """Read study.yaml.

    Raises:
        SpecError: As `load_model`.
    """
    return load_model(path, StudySpec)[0]


def summary(problems: Sequence[Problem]) -> str:
    """Return the first problem as one line, and how many more there are."""
    more = len(problems) - 1
    return f"{problems[0]}" + (f" (and {more} more)" if more else "")


def dump_yaml(data: dict[str, Any]) -> str:
    """Return plain data as YAML text that `read_yaml` reads back as equal data."""
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return str(text)


class _Builder:
    """Turns the node graph into plain data and notes the line of every key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[KeyPath, int] = {}
        self.n_values = 0

    def build(self, node: yaml.Node, place: KeyPath) -> Any:
        self.n_values += 1
        if self.n_values > MAX_VALUES:
            _refuse(
                self.path,
                node.start_mark.line + 1,
                f"holds more than {MAX_VALUES} values, aliases followed; write fewer aliases",
            )
        if len(place) > MAX_DEPTH:
            line = node.start_mark.line + 1
            _refuse(self.path, line, f"nested deeper than {MAX_DEPTH} levels; remove the alias")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, place)
        return self._scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, place: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                text = "a key is a list or mapping; write text"
                _refuse(self.path, line, text, place)
            if not key_node.tag.endswith(":str"):
                text = f"key {value_text(key)} is not text; quote it"
                _refuse(self.path, line, text, place)
            if key == "<<":
                text = "merge keys (<<) are not supported; write the keys out"
                _refuse(self.path, line, text, place)
            self._check_text(key_node, key, place)
            if key in data:
                text = f"{value_text(key)} is here twice, first in line {lines[key]}; keep one"
                _refuse(self.path, line, text, place)
            lines[key] = line
            self.lines[(*place, key)] = line
            data[key] = self.build(value_node, (*place, key))
        return data

    def _sequence(self, node: yaml.SequenceNode, place: KeyPath) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            self.lines[(*place, index)] = item.start_mark.line + 1
            items.append(self.build(item, (*place, index)))
        return items

    def _scalar(self, node: yaml.Node, place: KeyPath) -> str | int | float | bool | None:
        text, kind = str(node.value), node.tag.rsplit(":", 1)[-1]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            whole = int(text, base) if len(text) < 40 else MAX_WHOLE_NUMBER + 1
            if abs(whole) > MAX_WHOLE_NUMBER:
                line = node.start_mark.line + 1
                what = f"{text[:40]} is too large; write a number below 2**63"
                _refuse(self.path, line, what, place)
            return whole
        if kind == "float":
            number = float(text) if text[-1].isdigit() or text[-1] == "." else math.inf
            if not math.isfinite(number):
                line = node.start_mark.line + 1
                what = f"{text[:40]} is not a finite number; write one that is"
                _refuse(self.path, line, what, place)
            return number
        self._check_text(node, text, place)
        return text

    def _check_text(self, node: yaml.Node, text: str, place: KeyPath) -> None:
        """Refuse half a surrogate pair, which only an escape such as "\\ud800" can bring in: no file can hold it."""
        half = next((char for char in text if "\ud800" <= char <= "\udfff"), None)
        if half is not None:
            what = f"holds half a surrogate pair (\\u{ord(half):04x}); remove it"
            _refuse(self.path, node.start_mark.line + 1, what, place)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(
            f"{path}: there is no such file; `apportion init DIR` writes an example"
        ) from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder; name the YAML file in it") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); fix its permissions") from None
    if len(raw) > MAX_BYTES:
        raise SpecError(f"{path}: is larger than {MAX_BYTES // 1024} KiB; move data into sources")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = raw[error.start]
        _refuse(path, line, f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8")


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")


def _line_of(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark is not None else 1


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    """Say what is wrong with the syntax, with the usual remedy."""
    problem = error.problem or error.context or "broken"
    if error.context is None and ";" in problem:
        return problem
    if "\\t" in problem:
        return "a tab is not allowed here; indent with spaces"
    if "another document" in problem or "single document" in str(error.context):
        return "a second document starts here (---); keep one document"
    if "mapping values are not allowed" in problem:
        return "a second ': ' in a line or a wrong indent; indent keys alike, quote text with ': '"
    if "undefined alias" in problem:
        return f"{problem}; define it with & above, or write the value out"
    return f"not valid YAML: {problem}; check indentation, brackets and quotes near this line"


def _refuse(path: Path, line: int, text: str, place: KeyPath = ()) -> NoReturn:
    where = f"{place_text(place)}: " if place else ""
    raise SpecError(f"{path}:{line}: {where}{one_line(text)}")
