"""The promises of an evaluator, each a check on a tiny random model. `verify` runs them all.

outcomes = verify("my_package.mine:Mine", {"source": "rows"})
"""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from evaluators.base import Evaluator, Reply
from evaluators.contract.rows import bad_rows, good_rows
from evaluators.contract.tiny import loaded
from evaluators.custom import evaluator_class, one_line
from evaluators.facts import StageFacts
from evaluators.scores import Item, Measurement
from evaluators.spec import EvaluatorSpec
from evaluators.suite import Suite, build_evaluator

NAME = "it"
_ROOT = Path(".")
_FACTS = (StageFacts(tokens=100, seconds=1.0), StageFacts(tokens=50, seconds=2.0))
_SPEC: TypeAdapter[Any] = TypeAdapter(EvaluatorSpec)
_FINGERPRINT = """
import json, sys
from pathlib import Path
from evaluators.contract.checks import NAME, spec_of
from evaluators.suite import build_evaluator
name, settings, rows = json.load(sys.stdin)
print("fingerprint", build_evaluator(NAME, spec_of(name, settings), rows, Path(".")).fingerprint())
"""


class Outcome(NamedTuple):
    """What came of one check."""

    claim: str
    """What is promised."""
    fault: str | None
    """How the promise is broken, one line; None if it holds."""
    is_skipped: bool = False
    """True: it does not apply, for the reason in `fault`."""


class BrokenError(Exception):
    """A promise does not hold; the message says how."""


class SkippedError(Exception):
    """A check does not apply; the message says why."""


Rows = Mapping[str, Sequence[Mapping[str, Any]]]


class Trial:
    """One evaluator on trial, with its data; each model is measured once."""

    def __init__(self, name: str, settings: Mapping[str, Any], rows: Rows) -> None:
        """Build the evaluator.

        Args:
            name: Import path or entry point.
            settings: As study.yaml would say them.
            rows: Source to rows; sources without get six good ones of the first format they take.

        Raises:
            ValueError: The class, its spec or the rows do not fit; the message is one line.
        """
        self.name, self.settings = name, dict(settings)
        self.spec = spec_of(name, settings)
        self.rows = {
            source: list(rows[source]) if source in rows else good_rows(formats[0])
            for source, formats in self.spec.sources()
        }
        unknown = set(rows) - set(self.rows)
        if unknown:
            known = ", ".join(self.rows) or "it reads none"
            raise ValueError(f"source {min(unknown)!r} is not among its sources; known: {known}")
        self.suite = self.new_suite()

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator."""
        return self.suite.evaluators[0]

    def new_suite(self) -> Suite:
        """Return a suite of this evaluator alone, built anew."""
        return Suite({NAME: self.spec}, self.rows, _ROOT)

    def build(self, rows: Rows) -> Evaluator:
        """Return the evaluator built on other rows."""
        return build_evaluator(NAME, self.spec, rows, _ROOT)

    @cached_property
    def reference(self) -> Any:
        """What it knows of the base."""
        found = self.suite.reference(loaded())
        if found.faults:
            raise BrokenError(found.faults[NAME])
        return found

    @cached_property
    def measurement(self) -> Measurement:
        """What it says of a model that is not the base."""
        return self.measure(loaded(0.05))

    def measure(self, model: Any, suite: Suite | None = None, is_base: bool = False) -> Measurement:
        """Return what it says of a model."""
        suite = suite or self.suite
        found = {**suite.measure(model, self.reference, is_base), **suite.account(_FACTS)}
        return found[NAME]


def spec_of(name: str, settings: Mapping[str, Any]) -> Any:
    """Return the spec that study.yaml would give.

    Raises:
        ValueError: It does not fit; the message is one line.
    """
    try:
        return _SPEC.validate_json(json.dumps({**settings, "evaluator": name}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        keys = [str(key) for key in first["loc"][1:] if key not in (name, "evaluator")]
        where = f"{'.'.join(keys)}: " if keys else ""
        is_unknown = first["type"] == "extra_forbidden"
        what = "is not a key here" if is_unknown else first["msg"].removeprefix("Value error, ")
        raise ValueError(one_line(where + what)) from None


def default_settings(name: str) -> dict[str, Any]:
    """Return settings to begin with: a source called `rows` where the spec wants one."""
    field = evaluator_class(name).spec_class.model_fields.get("source")
    return {"source": "rows"} if field is not None and field.is_required() else {}


def verify(name: str, settings: Mapping[str, Any], rows: Rows) -> Iterator[Outcome]:
    """Run all checks; see Trial for arguments and errors."""
    trial = Trial(name, settings, rows)
    for claim, check in CHECKS.items():
        try:
            check(trial)
        except SkippedError as reason:
            yield Outcome(claim, one_line(str(reason)), is_skipped=True)
        except BrokenError as fault:
            yield Outcome(claim, one_line(str(fault)))
        except Exception as error:  # code of the user's
            yield Outcome(claim, one_line(f"{type(error).__name__}: {error}"))
        else:
            yield Outcome(claim, None)


def _refuses_unknown_keys(trial: Trial) -> None:
    try:
        spec_of(trial.name, {**trial.settings, "no_such_key": 1})
    except ValueError:
        return
    raise BrokenError("its spec takes no_such_key")


def _announced(trial: Trial) -> None:
    found = trial.measurement
    for score, info in zip(found.scores, trial.suite.infos, strict=True):
        if score.value is None:
            raise BrokenError(f"{score.name} is missing on a healthy model: {score.reason}")
        if (score.unit, score.direction) != (info.unit, info.direction):
            raise BrokenError(
                f"{score.name} has {score.unit}, {score.direction}; announced were {info.unit}, "
                f"{info.direction}"
            )
        if score.n < 1:
            raise BrokenError(f"{score.name} has n = {score.n}; count the items that entered it")


def _numbered(trial: Trial) -> None:
    items = trial.measurement.items
    if not items:
        raise BrokenError("there are no items; return one for each row")
    if [each.index for each in items] != list(range(len(items))):
        raise BrokenError("item.index does not count from 0 in the order of the items")
    strangers = {each.evaluator for each in items} - {NAME}
    if strangers:
        raise BrokenError(f"items belong to {min(strangers)!r}; pass self.name")


def _deterministic(trial: Trial) -> None:
    first = trial.measurement
    trial.measure(loaded(0.2))
    again = trial.measure(loaded(0.05), trial.new_suite())
    if again != first:
        raise BrokenError(_difference(first, again))


def _base(trial: Trial) -> None:
    plain, as_base = (trial.measure(loaded(), is_base=flag) for flag in (False, True))
    if plain != as_base:
        raise BrokenError(_difference(plain, as_base))


def _recomputable(trial: Trial) -> None:
    items = tuple(
        Item.model_validate_json(each.model_dump_json()) for each in trial.measurement.items
    )
    recompute = getattr(trial.evaluator, "recompute", None)
    if recompute is not None:
        found = {name: [float(value)] for name, value in recompute(items).items()}
        where = "recompute(items) gives"
    else:
        keys = {key for each in items for key in each.values}
        columns = {key: [each.values[key] for each in items if key in each.values] for key in keys}
        means = [math.fsum(column) / len(column) for column in columns.values()]
        found = {info.name: means for info in trial.suite.infos}
        where = "means of item values are"
    for score in trial.measurement.scores:
        value = score.value if score.value is not None else math.nan
        close = found.get(score.name, [])
        if not any(math.isclose(each, value, rel_tol=1e-6, abs_tol=1e-9) for each in close):
            given = ", ".join(f"{each:g}" for each in sorted(close)) or "nothing"
            raise BrokenError(
                f"{score.name} is {value:g}, and {where} {given}; keep in item.values what the score is "
                "the mean of, or define recompute(items)"
            )


def _json(trial: Trial) -> None:
    found = trial.measurement
    if Measurement.model_validate_json(found.model_dump_json()) != found:
        raise BrokenError(
            "scores or items change when written as JSON; keep plain JSON values in details"
        )


def _picklable(trial: Trial) -> None:
    copy = pickle.loads(pickle.dumps(trial.suite))
    pickle.loads(pickle.dumps(trial.reference))
    found = trial.measure(loaded(0.05), copy)
    if found != trial.measurement:
        raise BrokenError(_difference(trial.measurement, found))


def _kept_reference(trial: Trial) -> None:
    if not trial.evaluator.needs_reference:
        raise SkippedError("it needs nothing of the base")
    files = trial.suite.reference_files(trial.reference)
    if files is None:
        raise SkippedError("write_reference returns None, so every process measures the base")
    kept = trial.suite.read_reference(files, loaded())
    found = trial.suite.measure(loaded(0.05), kept)[NAME]
    if found != trial.measurement:
        raise BrokenError(_difference(trial.measurement, found))


def _stable(trial: Trial) -> None:
    own = trial.evaluator.fingerprint()
    if trial.new_suite().evaluators[0].fingerprint() != own:
        raise BrokenError("built twice, it has two fingerprints")
    # Sets and hash() differ between processes, and so would the names under which scores are kept.
    done = subprocess.run(
        [sys.executable, "-c", _FINGERPRINT],
        input=json.dumps([trial.name, trial.settings, trial.rows]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1234"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BrokenError(f"it cannot be built in a process of its own: {last}")
    if f"fingerprint {own}" not in done.stdout.splitlines():
        raise BrokenError(
            "another process gets another fingerprint; leave out sets, hash(), paths, time"
        )


def _follows_data(trial: Trial) -> None:
    if not any(trial.rows.values()):
        raise SkippedError("it has no rows")
    fewer = {source: rows[1:] or rows for source, rows in trial.rows.items()}
    if all(fewer[source] == rows for source, rows in trial.rows.items()):
        raise SkippedError("it has one row")
    if trial.build(fewer).fingerprint() == trial.evaluator.fingerprint():
        raise BrokenError("other rows give the same fingerprint; hash the rows as well")


def _missing_on_nan(trial: Trial) -> None:
    if trial.evaluator.needs_facts:
        raise SkippedError("it does not look at weights")
    model = loaded()
    for parameter in model.model.parameters():
        parameter.data[:] = math.nan
    for score in trial.measure(model).scores:
        if score.value is not None:
            raise BrokenError(
                f"{score.name} is {score.value:g} for a model whose weights are not numbers; "
                "return Score.missing with the reason, or raise"
            )
        if not score.reason:
            raise BrokenError(f"{score.name} is missing without a reason")


def _silent_model(trial: Trial) -> None:
    outputs = [Reply("", is_cut=False) for _ in trial.evaluator.prompts()]
    if not outputs:
        raise SkippedError("it lets no model write")
    part = trial.reference.parts.get(NAME)
    model = loaded(0.05)
    with model.ready():
        found = trial.evaluator.measure(model, part, outputs)
    for score in found.scores:
        if score.value is None and not score.reason:
            raise BrokenError(f"{score.name} is missing without a reason")
    if len(found.items) < len(outputs):
        raise BrokenError("it leaves empty replies out of its items, so that nobody sees them")


def _refuses_bad_rows(trial: Trial) -> None:
    if not trial.rows:
        raise SkippedError("it has no rows")
    for source, rows in trial.rows.items():
        for what, bad in [("no rows at all", []), *bad_rows(rows)]:
            try:
                trial.build({**trial.rows, source: bad})
            except ValueError as error:
                text = str(error)
            else:
                raise BrokenError(f"it takes {what}; raise ValueError that names the row")
            if bad and "row 1" not in text:
                raise BrokenError(f"of {what} it says {text!r}; name the place, such as 'row 1'")
            if bad and "Error:" in text:
                raise BrokenError(f"{what} ends in {text!r}; raise ValueError that names the row")


def _leaves_model(trial: Trial) -> None:
    import torch

    model = loaded(0.05)
    inner = model.model
    inner.train()
    inner.lm_head.requires_grad_(False)
    before = {name: value.clone() for name, value in inner.state_dict().items()}
    flags = [each.requires_grad for each in inner.parameters()]
    random_state = torch.get_rng_state()
    trial.measure(model)
    if not all(torch.equal(value, before[name]) for name, value in inner.state_dict().items()):
        raise BrokenError("the model's weights are others afterwards")
    if not all(each.training for each in inner.modules()):
        raise BrokenError("the model is no longer in training mode afterwards")
    if [each.requires_grad for each in inner.parameters()] != flags:
        raise BrokenError("the parameters' requires_grad are others afterwards")
    if not torch.equal(torch.get_rng_state(), random_state):
        raise BrokenError(
            "torch's random numbers go on elsewhere afterwards; use a generator of your own"
        )


CHECKS: dict[str, Callable[[Trial], None]] = {
    "refuses keys it does not know": _refuses_unknown_keys,
    "refuses bad rows, and says which": _refuses_bad_rows,
    "gives the scores it announces, each with unit, direction and n": _announced,
    "numbers its items": _numbered,
    "says the same of the same model": _deterministic,
    "says of the base what measuring it like any model gives": _base,
    "has scores that follow from its items": _recomputable,
    "has scores and items that survive JSON": _json,
    "can be pickled": _picklable,
    "keeps what it knows of the base": _kept_reference,
    "has the same fingerprint in every process": _stable,
    "has another fingerprint for other rows": _follows_data,
    "gives missing scores with a reason where weights are not finite": _missing_on_nan,
    "copes with a model that says nothing": _silent_model,
    "leaves the model as it was": _leaves_model,
}


def _difference(first: Measurement, second: Measurement) -> str:
    for one, other in zip(first.scores, second.scores, strict=True):
        if one != other:
            return f"{one.name}: once {one.value or one.reason}, once {other.value or other.reason}"
    return "the items differ"
