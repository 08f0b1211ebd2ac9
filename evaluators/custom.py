"""CustomSpec: an evaluator of the user's own in study.yaml, found by import path or entry point. No torch of ours.

    suite:
      shouting: {evaluator: "my_package.mine:Shouting", source: questions}

The class is a subclass of `evaluators.base.Evaluator`, built as `Shouting(name, spec, rows of its first source, ...)`.
Its `spec_class`, a subclass of `evaluators.spec_base.Spec`, says what study.yaml may write. A package may give it a
short name with an entry point in the group `apportion.evaluators`.

Importing runs the code of that module, in whatever process reads the study; workers too must find it. What a study
keeps of it, and ships to workers, is plain data: the class is looked up again where it is needed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import re
from functools import cache
from typing import Any, get_args

from pydantic import ConfigDict, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from evaluators.base import Evaluator
from evaluators.scores import ScoreInfo
from evaluators.spec_base import Sources, Spec

ENTRY_POINTS = "apportion.evaluators"
PATH = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
_KNOWN_ERRORS = frozenset(get_args(ErrorType))


def _schema(schema: dict[str, Any]) -> None:
    names = "".join(f"|{re.escape(name)}" for name in sorted(entry_points()))
    schema["properties"]["evaluator"]["pattern"] = f"^({PATH}{names})$"


class CustomSpec(Spec):
    """An evaluator of your own: a class by its import path; further keys are those of its `spec_class`."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_schema)

    evaluator: str
    """`package.module:Class`, or the name of an entry point in the group `apportion.evaluators`. It is imported, which
    runs its code, wherever the study is read."""

    @field_validator("evaluator")
    @classmethod
    def _check_evaluator(cls, name: str) -> str:
        evaluator_class(name)
        return name

    @model_validator(mode="after")
    def _check_settings(self) -> CustomSpec:
        try:
            inner = self.inner
        except ValidationError as error:
            raise _placed(error, self.evaluator) from None
        check_promises(inner, self.evaluator)
        return self

    @property
    def inner(self) -> Any:
        """The further keys as the class's own spec: a Spec with `sources()` and `infos(name)`.

        Raises:
            ValueError: The class cannot be imported here, or refuses them.
        """
        return _inner(self.evaluator, json.dumps(self.model_extra or {}, sort_keys=True))

    def sources(self) -> Sources:
        """Return the sources with the formats that fit."""
        return tuple(self.inner.sources())

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        return tuple(self.inner.infos(name))


@cache
def entry_points() -> dict[str, str]:
    """Return names that installed packages give to evaluators, with their import paths."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {point.name: point.value for point in found}


@cache
def evaluator_class(name: str) -> type[Evaluator]:
    """Return the class of an import path or an entry point, imported now.

    Raises:
        ValueError: It cannot be imported, or is no evaluator; the message is one line.
    """
    path = name if ":" in name else entry_points().get(name, name)
    if re.fullmatch(PATH, path) is None:
        raise ValueError(f"{_short(path)} is no import path; write such as my_package.mine:Mine")
    module_name, class_name = path.split(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module does while it is imported
        raise ValueError(
            f"{path} cannot be imported ({_reason(error)}); install its package, or put its folder on "
            "PYTHONPATH"
        ) from None
    found = getattr(module, class_name, None)
    fault = _class_fault(found)
    if fault is not None:
        raise ValueError(f"{path} {fault}")
    assert isinstance(found, type)
    return found


def check_promises(spec: Any, name: str) -> None:
    """Check that a custom spec names its sources and scores as ours do.

    Raises:
        ValueError: It does not; the message is one line.
    """
    who = f"spec_class of {name}"
    try:
        sources = [(str(source), tuple(formats)) for source, formats in spec.sources()]
        infos = tuple(spec.infos("it"))
    except Exception as error:  # code of the user's
        raise ValueError(
            f"{who} fails in sources() or infos() ({_reason(error)}); mend it"
        ) from None
    if not all(formats for _, formats in sources):
        raise ValueError(f"{who} has a source without formats; name those it reads")
    if not infos or not all(isinstance(info, ScoreInfo) for info in infos):
        raise ValueError(f"{who} announces no scores; return a tuple of ScoreInfo from infos()")
    names = [info.name for info in infos]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"it(\..+)?", each) for each in names):
        raise ValueError(
            f"{who} announces scores that repeat or do not begin with the evaluator's name; "
            "call them name or f'{name}.part'"
        )


def identity(spec: CustomSpec) -> list[Any]:
    """Return what, beside its own fingerprint, a custom evaluator's scores depend on: path, version and spec."""
    found = evaluator_class(spec.evaluator)
    return [spec.evaluator, found.version, spec.inner.model_dump(mode="json")]


@cache
def _inner(name: str, settings: str) -> Any:
    return evaluator_class(name).spec_class.model_validate_json(settings)


def _class_fault(found: object) -> str | None:
    if not isinstance(found, type):
        return "is not there; name a class of that module"
    if not issubclass(found, Evaluator):
        return "is no evaluator; make it a subclass of evaluators.base.Evaluator"
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        return f"lacks {lacking}; define what Evaluator leaves open"
    spec_class = getattr(found, "spec_class", None)
    if not (isinstance(spec_class, type) and issubclass(spec_class, Spec)):
        return "has no spec_class; set it to a subclass of evaluators.spec_base.Spec"
    if not all(callable(getattr(spec_class, each, None)) for each in ("sources", "infos")):
        return "has a spec_class that lacks sources() or infos(name); define both"
    config = spec_class.model_config
    if config.get("extra") != "forbid" or not config.get("frozen"):
        return "has a spec_class that is not frozen or takes unknown keys; keep the model_config of Spec"
    if not isinstance(getattr(found, "version", None), int):
        return (
            "has no version; set version = 1, and raise it when equal models would score otherwise"
        )
    return None


def _placed(error: ValidationError, name: str) -> ValidationError:
    """Return an error of the class's spec as one of CustomSpec; its places begin with the class's name."""
    details = []
    for each in error.errors(include_url=False):
        kind: str | PydanticCustomError = each["type"]
        if kind not in _KNOWN_ERRORS:
            kind = PydanticCustomError("custom", "{text}", {"text": each["msg"]})
        details.append(
            InitErrorDetails(
                type=kind, loc=(name, *each["loc"]), input=each["input"], ctx=each.get("ctx", {})
            )
        )
    return ValidationError.from_exception_data(error.title, details)


def one_line(text: str) -> str:
    """Return text without line breaks and repeated spaces."""
    return " ".join(text.split())


def _reason(error: BaseException) -> str:
    text = one_line(str(error))
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
