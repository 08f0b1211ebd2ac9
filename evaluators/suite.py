"""Suite: a named, versioned list of evaluators run on one loaded model. No torch until it measures."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.base import Evaluator, Prompt, Row
from evaluators.custom import CustomSpec, evaluator_class, identity, one_line
from evaluators.facts import Facts
from evaluators.pulse import beat
from evaluators.reply_specs import RewardModelSpec
from evaluators.scores import Measurement, Score, ScoreInfo
from evaluators.spec import EvaluatorSpec, HarnessSpec, RetentionSpec
from evaluators.subset import first_rows_of, n_first
from evaluators.time_limit import time_limit

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

EVALUATORS = {
    "pattern": "evaluators.behaviours.pattern:Pattern",
    "diversity": "evaluators.behaviours.diversity:Diversity",
    "consistency": "evaluators.behaviours.consistency:Consistency",
    "refusal": "evaluators.behaviours.refusal:Refusal",
    "style": "evaluators.behaviours.style:Style",
    "reward_model": "evaluators.behaviours.reward_model:RewardModel",
    "judge": "evaluators.behaviours.judge:Judge",
    "preference": "evaluators.behaviours.preference:Preference",
    "multiple_choice": "evaluators.behaviours.multiple_choice:MultipleChoice",
    "likelihood": "evaluators.behaviours.likelihood:Likelihood",
    "retention": "evaluators.behaviours.retention:Retention",
    "cost": "evaluators.behaviours.cost:Cost",
    "harness": "evaluators.harness:Harness",
}
GENERATION_VERSION = 2
"""Raise it when `evaluators.models` would give other outputs or log-probabilities."""
REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Part:
    """Some of an evaluator's rows."""

    indices: tuple[int, ...]
    """Positions in the evaluator's data, ascending."""
    n_all: int
    """Rows of the evaluator."""

    @property
    def fidelity(self) -> float:
        """Share of the rows, in (0, 1)."""
        return len(self.indices) / self.n_all


@dataclass(frozen=True)
class Reference:
    """What a suite's evaluators need to know of the base; measured once, picklable."""

    suite_version: str
    """Of the suite that measured it."""
    parts: Mapping[str, Any]
    """Evaluator name to what it found."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Evaluator name to why it found nothing."""


class Suite:
    """Evaluators by name, with their data.

    Args:
        specs: Evaluator name to spec.
        rows: Source name to rows, for every source that the specs name.
        root: Folder that relative paths in the specs count from.
        shares: Evaluator name to the share of its rows that is measured: the first of `subset.nested_order`. Those
            that are not named, and those that read no rows, measure all.
        seed: Of that order.

    Raises:
        ValueError: A source lacks rows, a row has the wrong shape, or a path leads nowhere.
    """

    version: str
    """Hash of specs, rows and evaluator versions: equal versions measure the same."""
    infos: tuple[ScoreInfo, ...]
    """What is known of all scores, in order."""

    parts: dict[str, Part]
    """Evaluator name to which of its rows are measured, where it is not all."""

    def __init__(
        self,
        specs: Mapping[str, EvaluatorSpec],
        rows: Mapping[str, Sequence[Row]],
        root: Path,
        shares: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.parts = {}
        evaluators = []
        for name, spec in specs.items():
            part = chosen_part(spec, rows, (shares or {}).get(name, 1.0), seed)
            if part is not None:
                self.parts[name] = part
            evaluators.append(build_evaluator(name, spec, rows, root, part))
        self.evaluators = tuple(evaluators)
        self.infos = tuple(info for evaluator in self.evaluators for info in evaluator.infos)
        parts: list[tuple[Any, ...]] = [
            (evaluator.name, evaluator.fingerprint()) for evaluator in self.evaluators
        ]
        # Of the user's own classes nobody knows what their fingerprints leave out.
        parts += [
            (name, identity(spec)) for name, spec in specs.items() if isinstance(spec, CustomSpec)
        ]
        parts += [(name, part.indices) for name, part in self.parts.items()]
        text = json.dumps([GENERATION_VERSION, parts])
        self.version = hashlib.sha256(text.encode()).hexdigest()

    def reference(self, base: LoadedModel, limit_seconds: float | None = None) -> Reference:
        """Return what the evaluators need to know of the base. An evaluator that raises leaves a reason instead.

        Args:
            base: The base.
            limit_seconds: As for `measure`.
        """
        parts: dict[str, Any] = {}
        faults: dict[str, str] = {}
        with base.ready():
            for evaluator in self.evaluators:
                if not evaluator.needs_reference:
                    continue
                try:
                    with time_limit(limit_seconds):
                        parts[evaluator.name] = evaluator.reference(base)
                except (
                    Exception
                ) as error:  # one evaluator's failure must not take the others' scores
                    faults[evaluator.name] = f"measuring the base failed: {_reason(error)}"
        return Reference(self.version, parts, faults)

    @property
    def needs_reference(self) -> bool:
        """Whether `reference` measures anything."""
        return any(evaluator.needs_reference for evaluator in self.evaluators)

    def reference_files(self, reference: Reference) -> dict[str, bytes] | None:
        """Return a reference as files by evaluator name; None if it has faults or an evaluator cannot keep its part."""
        if reference.faults:
            return None
        files = {}
        for evaluator in self.evaluators:
            if evaluator.name in reference.parts:
                data = evaluator.write_reference(reference.parts[evaluator.name])
                if data is None:
                    return None
                files[evaluator.name] = data
        return files

    def read_reference(self, files: Mapping[str, bytes], base: LoadedModel) -> Reference:
        """Return the reference that `reference_files` was given, bit for bit.

        Args:
            files: Not to be trusted.
            base: The base it was measured on.

        Raises:
            ValueError: They are no reference of this suite and base.
        """
        wanted = [evaluator for evaluator in self.evaluators if evaluator.needs_reference]
        if set(files) != {evaluator.name for evaluator in wanted}:
            raise ValueError("the reference has the parts of other evaluators")
        with base.ready():
            parts = {
                evaluator.name: evaluator.read_reference(files[evaluator.name], base)
                for evaluator in wanted
            }
        return Reference(self.version, parts)

    def measure(
        self,
        model: LoadedModel,
        reference: Reference | None = None,
        is_base: bool = False,
        limit_seconds: float | None = None,
    ) -> dict[str, Measurement]:
        """Return each evaluator's scores and items. An evaluator that raises gets missing scores with the reason.

        Those that look at how the model was made are left to `account`.

        Args:
            model: The model.
            reference: What `reference` returned for the base; without it, scores relative to the base are missing.
            is_base: Whether the model is the very base of the reference, so that nothing is measured twice.
            limit_seconds: What takes longer, be it one evaluator or writing for all, fails for that reason.

        Raises:
            ValueError: The reference belongs to another suite.
        """
        if reference is not None and reference.suite_version != self.version:
            raise ValueError(
                f"the reference belongs to suite {reference.suite_version[:12]}, this is {self.version[:12]}; "
                "measure the base with this suite"
            )
        with (
            model.ready()
        ):  # once for all evaluators: entering costs a copy of the weights in bfloat16
            return self._measure(model, reference, is_base, limit_seconds)

    def account(self, facts: Facts | None) -> dict[str, Measurement]:
        """Return scores and items of the evaluators that look at how a model was made, and not at the model.

        Args:
            facts: Of the stages from the base on; None where they are not known.
        """
        return {
            evaluator.name: evaluator.account(facts)
            for evaluator in self.evaluators
            if evaluator.needs_facts
        }

    def _measure(
        self,
        model: LoadedModel,
        reference: Reference | None,
        is_base: bool,
        limit_seconds: float | None,
    ) -> dict[str, Measurement]:
        evaluators = [each for each in self.evaluators if not each.needs_facts]
        prompts = {evaluator.name: evaluator.prompts() for evaluator in evaluators}
        asked = [each for part in prompts.values() for each in part]
        outputs, fault = _replies(model, asked, limit_seconds)
        found = {}
        for evaluator in evaluators:
            own = prompts[evaluator.name]
            reason = fault if own else None
            part = None
            if reference is not None and evaluator.needs_reference:
                part = reference.parts.get(evaluator.name)
                reason = reference.faults.get(evaluator.name, reason)
            if reason is not None:
                found[evaluator.name] = _missing(evaluator, reason)
                continue
            own_outputs = [outputs[_key(prompt)] for prompt in own]
            measure = evaluator.measure_base if is_base and part is not None else evaluator.measure
            beat()
            try:
                with time_limit(limit_seconds):
                    measured = measure(model, part, own_outputs)
                measured = _checked(evaluator, measured)
                found[evaluator.name] = _of_part(measured, self.parts.get(evaluator.name))
            except Exception as error:  # one evaluator's failure must not take the others' scores
                found[evaluator.name] = _missing(evaluator, _reason(error))
        return found


def _replies(
    model: LoadedModel, prompts: Sequence[Prompt], limit_seconds: float | None
) -> tuple[dict[str, str], str | None]:
    """Return what the model writes, by prompt, or the reason why there is nothing."""
    unique = {_key(prompt): prompt for prompt in prompts}
    if not unique:
        return {}, None
    try:
        with time_limit(limit_seconds):
            texts = model.generate(
                [prompt.conversation for prompt in unique.values()],
                [prompt.max_new_tokens for prompt in unique.values()],
            )
    except Exception as error:  # evaluators that do not generate can still measure
        return {}, f"generation failed: {_reason(error)}"
    return dict(zip(unique, texts, strict=True)), None


def chosen_part(
    spec: EvaluatorSpec, rows: Mapping[str, Sequence[Row]], share: float, seed: int = 0
) -> Part | None:
    """Return which rows of an evaluator a share takes; None where it takes all, or the evaluator reads no rows.

    Of an evaluator with several sources the first has its items; the others, such as texts of a style, stay whole.
    """
    if share >= 1:
        return None
    named = [source for source, _ in spec.sources()]
    limit = getattr(spec.inner if isinstance(spec, CustomSpec) else spec, "limit", None)
    if isinstance(spec, RetentionSpec) and not named:
        from evaluators.behaviours.retention import prose_passages

        # Its own passages are in the order of their hashes already.
        n_all = len(prose_passages()[:limit])
        indices = tuple(range(n_first(n_all, share)))
    elif named and named[0] in rows:
        own = rows[named[0]][:limit]
        n_all, indices = len(own), first_rows_of(own, share, seed)
    else:
        return None
    return Part(indices, n_all) if len(indices) < n_all else None


def build_evaluator(
    name: str,
    spec: EvaluatorSpec,
    rows: Mapping[str, Sequence[Row]],
    root: Path,
    part: Part | None = None,
) -> Evaluator:
    """Return an evaluator with its data, or with part of it; see Suite for arguments and errors."""
    own: list[Any] = []
    for source, _ in spec.sources():
        if source not in rows:
            raise ValueError(
                f"evaluator {name}: no rows for source {source!r}; known: {', '.join(sorted(rows)) or 'none'}"
            )
        own.append(rows[source])
    if part is not None and own:
        own[0] = [own[0][index] for index in part.indices]
    elif part is not None and isinstance(spec, RetentionSpec):
        spec = spec.model_copy(update={"limit": len(part.indices)})
    if isinstance(spec, CustomSpec):
        return _build_custom(name, spec, own)
    module, class_name = EVALUATORS[spec.evaluator].split(":")
    factory = getattr(importlib.import_module(module), class_name)
    if isinstance(spec, HarnessSpec | RewardModelSpec):
        own.append(root)
    evaluator: Evaluator = factory(name, spec, *own)
    return evaluator


def _build_custom(name: str, spec: CustomSpec, rows: Sequence[Sequence[Row]]) -> Evaluator:
    inner = spec.inner
    factory: Any = evaluator_class(spec.evaluator)
    try:
        evaluator: Evaluator = factory(name, inner, *rows)
        announced = tuple(evaluator.infos)
    except Exception as error:  # code of the user's
        text = (
            str(error) if isinstance(error, ValueError) else f"{spec.evaluator}: {_reason(error)}"
        )
        raise ValueError(
            f"evaluator {name}: {one_line(text).removeprefix(f'evaluator {name}: ')}"
        ) from error
    if announced != spec.infos(name) or evaluator.name != name:
        raise ValueError(
            f"evaluator {name}: {spec.evaluator} keeps other scores or another name than it was given; "
            "pass name and spec.infos(name) to super().__init__"
        )
    return evaluator


def _missing(evaluator: Evaluator, reason: str) -> Measurement:
    return Measurement(
        scores=tuple(Score.missing(info, reason) for info in evaluator.infos), items=()
    )


def _checked(evaluator: Evaluator, found: Any) -> Measurement:
    """Return a measurement that holds the announced scores.

    Raises:
        ValueError: It is another thing; of the user's own classes nobody knows.
    """
    if not isinstance(found, Measurement):
        raise ValueError(f"measure returned {type(found).__name__} and no Measurement")
    names, wanted = [[each.name for each in part] for part in (found.scores, evaluator.infos)]
    if names != wanted:
        raise ValueError(f"measure returned the scores {names}, announced were {wanted}")
    return found


def _of_part(found: Measurement, part: Part | None) -> Measurement:
    """Return a measurement of some rows with what it is of: scores know their share, items their place among all."""
    if part is None:
        return found
    n = len(part.indices)
    scores = [score.model_copy(update={"fidelity": part.fidelity}) for score in found.scores]
    items = [
        item.model_copy(update={"index": part.indices[item.index]}) if item.index < n else item
        for item in found.items
    ]
    return Measurement(scores=tuple(scores), items=tuple(items))


def _reason(error: Exception) -> str:
    """Return type and message of an error in one line."""
    return f"{type(error).__name__}: {one_line(str(error)) or 'no message'}"[:REASON_CHARACTERS]


def _key(prompt: Prompt) -> str:
    return json.dumps([prompt.max_new_tokens, prompt.conversation], sort_keys=True)
