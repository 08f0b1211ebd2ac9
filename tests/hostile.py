"""Hostile input for tests: values no file should hold, and changes of good data at drawn places.

    @given(hostile.changed(good))
    def test_...(data): ...

`from_schema` draws along a JSON Schema: most of what it draws has the right shape at every place, and little of it
means anything together. `changed` takes good data and puts something wrong into one place of it, or two.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Data = Any
Place = tuple[str | int, ...]

TEXTS = (
    "", " ", "\n", "\t", "\x00", "\x1b[31mred", "\u202egnp.exe", "\ufeff", "\ud800", "\U0001f600" * 30,
    "../../etc/passwd", "/etc/passwd", "~root/.ssh/id_rsa", "C:\\x", "\\\\host\\share", "-rf", "--help", "a/../b", ".",
    "..", "con", "%00", "%s%n", "{0.__class__}", "{{7*7}}", "${HOME}", "${NOPE}", "$(id)", "`id`", "; rm x", "| id",
    "' OR 1=1 --", "<script>alert(1)</script>", "](javascript:alert(1))", "!!python/object/apply:os.system [id]",
    "os:system", "builtins:eval", "search.errors:SpecError", "file:///etc/passwd", "http://127.0.0.1:1/x",
    "s3://bucket/x", "memory://x", "sqlite://", "sqlite:///../../x.db", "postgresql://u:p@127.0.0.1:1/x", "null",
    "true", "1e999", "nan", "0x1F", "1_000", "50%-10%", "-1%-200%", "9-0", "a" * 300, "é" * 200, "__proto__",
    "__class__", "base", "(a+)+$", "[", "(?P<x>", "\\", "tone", "taste", "style", "retention.kl", "chat", "pairs",
)  # fmt: skip
"""Texts that mean something to a shell, a path, a database, a page, a format string, or to us."""
NUMBERS = (
    0, -1, 1, 2, 3, 2**31, 2**63 - 1, -(2**63), 10**6, 0.0, -0.0, 1e-320, 1e308, -1e308, 0.1, 0.5, 1.0, 1.5, 100, 1e-9,
)  # fmt: skip
SHAPES: tuple[Data, ...] = (
    None, True, False, [], {}, [[]], [{}], {"": None}, {"a": {"a": {"a": {}}}}, [None], ["a"], [1, "a", None],
    {"low": 1, "high": 0}, {"low": 1}, {"choice": []}, {"choice": [1, "a"]}, {"choice": [[1]]}, {"choice": [None]},
    {"low": 0, "high": 2**63 - 1, "log": True}, {"simplex": {}}, {"simplex": {"chat": {"low": 2}}}, {"kind": "lora"},
    {"kind": ["lora"]}, {"kind": {}}, {"path": "model", "hub": "a/b"}, {"evaluator": "pattern"}, {"choice": [4, 8]},
    {"low": 1e-4, "high": 1e-3}, ["tone", "tone"], [["tone"]], [["tone", "tone"]], "[1,2]", {"fixed": 1}, {"-1": 0},
)  # fmt: skip
values = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(NUMBERS),
    st.sampled_from(SHAPES).map(copy.deepcopy),
    st.text(max_size=8),
)


def places(data: Data, above: Place = ()) -> Iterator[Place]:
    """Yield the place of every value below the top."""
    inner: Any = ()
    if isinstance(data, Mapping):
        inner = data.items()
    elif isinstance(data, list):
        inner = enumerate(data)
    for key, value in inner:
        yield (*above, key)
        yield from places(value, (*above, key))


def at(data: Data, place: Place) -> Data:
    """Return what is at a place."""
    for key in place:
        data = data[key]
    return data


@st.composite
def changed(draw: st.DrawFn, good: Data, most: int = 2) -> Data:
    """Good data with one to `most` places replaced, removed, renamed, doubled or swapped with others."""
    data = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, most))):
        known = list(places(data))
        if not known:
            break
        place = draw(st.sampled_from(known))
        holder, key = at(data, place[:-1]), place[-1]
        how = draw(
            st.sampled_from(("replace", "replace", "replace", "remove", "rename", "swap", "add"))
        )
        if how == "replace":
            holder[key] = draw(values)
        elif how == "remove":
            del holder[key]
        elif how == "swap":
            holder[key] = copy.deepcopy(at(data, draw(st.sampled_from(known))))
        elif isinstance(holder, dict):
            name = draw(st.sampled_from(TEXTS))
            holder[name] = holder.pop(key) if how == "rename" else draw(values)
        else:
            holder.append(copy.deepcopy(holder[key]) if how == "rename" else draw(values))
    return data


def from_schema(schema: Mapping[str, Any]) -> st.SearchStrategy[Data]:
    """Data along a JSON Schema of pydantic's: right keys and kinds, and now and then a hostile value."""
    return st.composite(lambda draw: _drawn(draw, schema, schema.get("$defs", {}), 0))()


def _drawn(
    draw: st.DrawFn, schema: Mapping[str, Any], known: Mapping[str, Any], depth: int
) -> Data:
    if draw(st.integers(0, 24)) == 24:
        return draw(values)
    if "$ref" in schema:
        return _drawn(draw, known[schema["$ref"].rpartition("/")[2]], known, depth)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            options = schema[several]
            if depth > 8:  # the shallow ones first
                options = sorted(options, key=lambda one: len(json.dumps(one)))[:1]
            return _drawn(draw, draw(st.sampled_from(options)), known, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    kind = schema.get("type")
    if kind == "object":
        return _object(draw, schema, known, depth)
    if kind == "array":
        of = schema.get("items") or {"type": "string"}
        most = 0 if depth > 8 else 3
        return [_drawn(draw, of, known, depth + 1) for _ in range(draw(st.integers(0, most)))]
    if kind == "integer":
        return draw(st.sampled_from((0, 1, 2, 4, 8, 100, -1)))
    if kind == "number":
        return draw(st.sampled_from((0.0, 0.1, 0.5, 1, 2.0, 1e-4, -1.0)))
    if kind == "boolean":
        return draw(st.booleans())
    if kind == "null":
        return None
    return draw(
        st.sampled_from(("tone", "taste", "chat", "pairs", "style", "model", "a", "0-3", "all"))
    )


def _object(
    draw: st.DrawFn, schema: Mapping[str, Any], known: Mapping[str, Any], depth: int
) -> Data:
    required = set(schema.get("required", ()))
    data = {
        name: _drawn(draw, part, known, depth + 1)
        for name, part in schema.get("properties", {}).items()
        if name in required or (depth < 8 and draw(st.integers(0, 3)) == 0)
    }
    further = schema.get("additionalProperties")
    if isinstance(further, Mapping) and depth < 8:
        for _ in range(draw(st.integers(0, 2))):
            name = draw(st.sampled_from(("tone", "taste", "chat", "pairs", "style")))
            data[name] = _drawn(draw, further, known, depth + 1)
    return data


@st.composite
def damaged(draw: st.DrawFn, good: bytes, most: int = 3) -> bytes:
    """Bytes with one to `most` places flipped, cut, doubled, put in or taken out; never equal to the good ones."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, most))):
        at_byte = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(("flip", "cut", "insert", "delete", "double", "zero")))
        if how == "flip" and data:
            data[at_byte] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[at_byte:]
        elif how == "insert":
            data[at_byte:at_byte] = draw(st.sampled_from(BYTES))
        elif how == "delete":
            del data[at_byte : at_byte + draw(st.integers(1, 40))]
        elif how == "double":
            data[at_byte:at_byte] = data[at_byte : at_byte + 40]
        else:
            data[at_byte : at_byte + 8] = bytes(len(data[at_byte : at_byte + 8]))
    if bytes(data) == good:
        data += b"\x00"
    return bytes(data)


BYTES = (
    b"\x00", b"\xff", b"\xfe\xff", b"\xed\xa0\x80", b"\xf8", b"\n", b"\r", b"{", b"[", b"]", b"}", b'"', b"'", b":",
    b"\t", b"- ", b"&a ", b"*a", b"!!python/none ", b"!x ", b"<<: ", b"---\n", b"...\n", b"%YAML 9\n", b"#", b"|", b">",
    b"1e999", b"NaN", b"\\ud800", b"\xe2\x80\xae", b"\xc2\x85", b"\xe2\x80\xa8", b"? ", b"@", b"`", b"9" * 50,
)  # fmt: skip
"""Bytes that mean something to YAML, JSON or UTF-8."""


def sizes(small: int, large: int) -> pytest.MarkDecorator:
    """Parametrise a test with `n_examples`: always the same few, and with -m slow many that differ from run to run."""
    return pytest.mark.parametrize(
        "n_examples", [small, pytest.param(large, marks=pytest.mark.slow)]
    )


def holds(claim: Callable[[Any], object], data: st.SearchStrategy[Any], n_examples: int) -> None:
    """Check a claim on drawn data."""

    def asked(drawn: Any) -> None:
        claim(drawn)

    check = settings(
        max_examples=n_examples,
        derandomize=n_examples < 1000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(given(data)(asked))
    check()
