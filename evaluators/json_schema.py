"""JSON schemas of the `json_schema` rule: usable ones, and text that fits them. Nothing is ever fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012


def schema_fault(schema: Mapping[str, Any]) -> str | None:
    """Return why a JSON schema cannot be used, in one line, or None if it can."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        resolver = Registry().resolver_with_root(DRAFT202012.create_resource(dict(schema)))
        for reference in _references(schema):
            resolver.lookup(reference)
    except SchemaError as error:
        return f"{error.json_path} {error.message}".splitlines()[0]
    except Unresolvable as error:
        return f"$ref {error.ref!r} points nowhere inside it"
    return None


def fits_schema(text: str, schema: Mapping[str, Any]) -> bool:
    """Return whether a text is one JSON value that satisfies a usable schema."""
    validator = _validator(json.dumps(schema, sort_keys=True))
    try:
        return bool(validator.is_valid(json.loads(text, parse_constant=_refuse_constant)))
    except (ValueError, RecursionError):  # no JSON, or nested deeper than the stack allows
        return False


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _references(value)


@cache
def _validator(schema_text: str) -> jsonschema.Draft202012Validator:
    # An empty registry: the library's default one fetches remote references.
    return jsonschema.Draft202012Validator(json.loads(schema_text), registry=Registry())


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
