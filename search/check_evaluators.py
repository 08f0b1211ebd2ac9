"""Checks of evaluators against their data, and of rules that ask for nothing. No torch, and no model is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from evaluators.judging.spec import JudgeSpec
from evaluators.reply_specs import PatternSpec
from evaluators.spec import EvaluatorSpec, HarnessSpec
from search.check_adapters import Finding
from search.data.spec import Use
from search.sources import Source
from search.spec import StudySpec


def evaluator_findings(
    spec: StudySpec, sources: Mapping[str, Source], root: Path
) -> Iterator[Finding]:
    """Yield what is wrong between evaluators and their rows, and warn of rules that an empty answer satisfies.

    Args:
        spec: The study.
        sources: Those that could be read. Evaluators of others, such as those on the hub, are left alone.
        root: Folder of the study file.
    """
    for group, evaluators in (("suite", spec.suite), ("holdout", spec.holdout)):
        for name, evaluator in evaluators.items():
            yield from _row_findings((group, name), evaluator, sources, root)
            if isinstance(evaluator, PatternSpec):
                yield from _rule_findings((group, name), evaluator)
            if isinstance(evaluator, JudgeSpec):
                yield from _key_findings((group, name), evaluator)


def source_key(evaluator: EvaluatorSpec, source: str) -> str:
    """Return the key under which an evaluator names a source."""
    return next((key for key, value in evaluator if value == source), "source")


def _row_findings(
    place: tuple[str, str], evaluator: EvaluatorSpec, sources: Mapping[str, Source], root: Path
) -> Iterator[Finding]:
    wanted = [source for source, _ in evaluator.sources()]
    # The harness would index its tasks, which takes seconds; what is lacking has been said already.
    if isinstance(evaluator, HarnessSpec) or any(
        source not in sources or sources[source].format not in formats
        for source, formats in evaluator.sources()
    ):
        return
    from evaluators.suite import build_evaluator  # late: most commands look at no rows

    use: Use = "search" if place[0] == "suite" else "holdout"
    rows = {source: sources[source].seen_by(use) for source in wanted}
    if not all(rows.values()):
        return  # A part without rows is reported with the parts.
    try:
        build_evaluator(place[1], evaluator, rows, root)
    except ValueError as error:
        yield Finding(place, str(error).removeprefix(f"evaluator {place[1]}: "))


def _rule_findings(place: tuple[str, str], evaluator: PatternSpec) -> Iterator[Finding]:
    from evaluators.rules import is_satisfied_by_nothing  # late: jsonschema costs start-up time

    if not evaluator.allow_empty and is_satisfied_by_nothing(evaluator.rules):
        text = (
            "an empty answer would satisfy all rules; it fails all the same, but '.' may pass; add what must be "
            "there, such as {rule: length, unit: words, at_least: 3}, or set allow_empty"
        )
        yield Finding((*place, "rules"), text, is_warning=True)


def _key_findings(place: tuple[str, str], evaluator: JudgeSpec) -> Iterator[Finding]:
    variable = evaluator.endpoint.key_variable
    if variable is not None and not os.environ.get(variable):
        text = f"environment variable {variable} is not set here; without it the judge's scores are missing"
        yield Finding((*place, "endpoint", "key_variable"), text, is_warning=True)
