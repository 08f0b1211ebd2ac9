"""Cross-check a study before anything is trained: names, values, orders, files and sources. No torch.

`checked_study` is what commands call: it reads study.yaml, and raises for the first error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from search.check_adapters import Finding
from search.check_combining import combining_findings
from search.check_data import data_findings
from search.check_evaluators import evaluator_findings, source_key
from search.check_fidelity import fidelity_findings
from search.check_files import base_findings, source_problems, storage_findings, store_findings
from search.check_methods import method_findings
from search.check_space import name_findings, order_findings, space_findings
from search.check_values import influence_findings
from search.errors import SpecError
from search.messages import KeyPath, Problem, place_text, suggest, value_text
from search.sources import Source
from search.spec import StudySpec
from search.yaml_file import Located, load_model, model_problems, read_yaml, summary


@dataclass(frozen=True)
class CheckedStudy:
    """A study without errors, and what was read on the way."""

    spec: StudySpec
    """The study."""
    warnings: tuple[Problem, ...]
    """What a person should know and may ignore."""
    sources: dict[str, Source]
    """The local sources, read and checked; those on the hub are not here."""

    @property
    def warning_lines(self) -> list[str]:
        """The warnings as study.json keeps them for the report: place and text, without the file."""
        return [f"{place_text(each.place)}: {each.text}" for each in self.warnings]


def checked_study(path: Path) -> CheckedStudy:
    """Read and check a study.

    Raises:
        SpecError: The first error, and how many more there are.
    """
    spec, located = load_model(path, StudySpec)
    problems, sources = _check(spec, located)
    errors = [problem for problem in problems if not problem.is_warning]
    if errors:
        raise SpecError(summary(errors))
    return CheckedStudy(spec, tuple(problems), sources)


def all_problems(path: Path) -> list[Problem]:
    """Return all that is wrong with a study file, warnings last; empty when it is fine.

    Raises:
        SpecError: The file is no readable YAML, so that nothing more can be said.
    """
    located = read_yaml(path)
    found = model_problems(located, StudySpec)
    return found if isinstance(found, list) else _check(found, located)[0]


def check_study(spec: StudySpec, path: Path) -> list[Problem]:
    """Return what is wrong with a study beyond the form of its file, warnings last.

    Args:
        spec: The study.
        path: The file it was read from; sources and models are looked for in its folder.

    Raises:
        SpecError: The file is no longer readable.
    """
    return _check(spec, read_yaml(path))[0]


def _check(spec: StudySpec, located: Located) -> tuple[list[Problem], dict[str, Source]]:
    root = located.path.parent
    findings = [
        *name_findings(spec),
        *method_findings(spec),
        *_suite_findings(spec),
        *_score_findings(spec),
        *order_findings(spec),
        *influence_findings(spec, root),
        *combining_findings(spec, root),
        *_sampler_findings(spec),
        *base_findings(spec, root),
        *storage_findings(spec, root),
        *store_findings(spec, root),
        *_machine_findings(spec),
    ]
    if not any(not finding.is_warning for finding in findings):
        findings += space_findings(spec)
    problems = [
        located.problem(finding.place, finding.text, finding.is_warning) for finding in findings
    ]
    data_problems, sources = source_problems(spec, root, located)
    problems += data_problems
    problems += [
        located.problem(finding.place, finding.text, finding.is_warning)
        for finding in (
            *data_findings(spec, sources),
            *evaluator_findings(spec, sources, root),
            *fidelity_findings(spec, sources),
        )
    ]
    by_line = sorted(problems, key=lambda problem: (problem.is_warning, problem.line or 0))
    return by_line, sources


def _source_findings(
    spec: StudySpec, place: KeyPath, source: str, wanted: tuple[str, ...], reader: str
) -> Iterator[Finding]:
    if source not in spec.sources:
        hint = suggest(source, spec.sources)
        yield Finding(place, f"source {value_text(source)} is not among the sources; {hint}")
    elif spec.sources[source].format not in wanted:
        found = spec.sources[source].format
        formats = " or ".join(wanted)
        yield Finding(
            place,
            f"source {source!r} has format {found}, and {reader} reads {formats}; name another",
        )


def _suite_findings(spec: StudySpec) -> Iterator[Finding]:
    used = {source for influence in spec.influences.values() for source in influence.sources}
    for group, evaluators in (("suite", spec.suite), ("holdout", spec.holdout)):
        for name, evaluator in evaluators.items():
            place = (group, name)
            if group == "holdout" and name in spec.full_suite:
                yield Finding(place, f"name {name!r} is in the suite as well; choose another")
            if name == "retention" and evaluator.evaluator != "retention":
                yield Finding(
                    place, "the name retention is kept for that evaluator; choose another"
                )
            for source, formats in evaluator.sources():
                used.add(source)
                key = source_key(evaluator, source)
                yield from _source_findings(
                    spec, (*place, key), source, formats, evaluator.evaluator
                )
    for name in spec.sources:
        if name not in used:
            yield Finding(("sources", name), "is used nowhere; remove it or name it in a mix", True)


def _score_findings(spec: StudySpec) -> Iterator[Finding]:
    infos = spec.score_infos
    holdout = {
        info.name for name, evaluator in spec.holdout.items() for info in evaluator.infos(name)
    }
    named: list[tuple[KeyPath, str]] = [
        *((("objectives", n, "score"), entry.score) for n, entry in enumerate(spec.objectives)),
        *((("constraints", n, "score"), entry.score) for n, entry in enumerate(spec.constraints)),
    ]
    for place, score in named:
        if score in holdout:
            text = f"{score!r} is of the holdout, which never steers; move it to suite"
            yield Finding(place, text)
        elif score not in infos:
            parts = [name for name in infos if name.startswith(f"{score}.")]
            hint = f"choose {' or '.join(parts)}" if parts else suggest(score, infos)
            yield Finding(place, f"{value_text(score)} is not a score; {hint}")
    for index, score in enumerate(spec.required):
        if score not in infos and score not in holdout:
            hint = suggest(score, {*infos, *holdout})
            yield Finding(("required", index), f"{value_text(score)} is not a score; {hint}")
    seen: set[str] = set()
    for index, objective in enumerate(spec.objectives):
        if objective.score in seen:
            yield Finding(("objectives", index), f"repeats {objective.score!r}; keep one")
        seen.add(objective.score)
        info = infos.get(objective.score)
        if info is None or objective.reference is not None:
            continue
        is_turned = objective.direction not in (None, info.direction)
        if info.worst is None or is_turned:
            why = "against its own direction" if is_turned else "without a worst possible value"
            yield Finding(
                ("objectives", index),
                f"{objective.score} is a score {why}; add reference, the worst value of interest",
            )
    yield from _bound_findings(spec)


def _bound_findings(spec: StudySpec) -> Iterator[Finding]:
    lows = {c.score: c.at_least for c in spec.constraints if c.at_least is not None}
    for index, constraint in enumerate(spec.constraints):
        low = lows.get(constraint.score)
        if constraint.at_most is not None and low is not None and low > constraint.at_most:
            yield Finding(
                ("constraints", index, "at_most"),
                f"{constraint.at_most:g} is below at_least {low:g} of the same score; widen one",
            )


def _sampler_findings(spec: StudySpec) -> Iterator[Finding]:
    sampler = spec.sampler
    if sampler.population is not None and not sampler.name.startswith("nsga"):
        text = f"belongs to nsga2 and nsga3, and the sampler is {sampler.name}; remove it"
        yield Finding(("sampler", "population"), text)
    if sampler.startup_trials is not None and sampler.name not in ("tpe", "gp"):
        text = f"belongs to tpe and gp, and the sampler is {sampler.name}; remove it"
        yield Finding(("sampler", "startup_trials"), text)
    n_baselines = len(spec.baselines) + all(baseline.order for baseline in spec.baselines)
    if spec.budget.trials is not None and spec.budget.trials <= n_baselines:
        text = (
            f"{spec.budget.trials} is used up by {n_baselines} baselines; the sampler gets no trial"
        )
        yield Finding(("budget", "trials"), text, True)


def _machine_findings(spec: StudySpec) -> Iterator[Finding]:
    n_cpus, compute = os.cpu_count() or 1, spec.compute
    n_trials = compute.concurrent_trials
    if compute.cpus_per_trial > n_cpus:
        text = f"{compute.cpus_per_trial:g} CPUs are more than the {n_cpus} here; lower it"
        yield Finding(("compute", "cpus_per_trial"), text)
    elif n_trials * compute.cpus_per_trial > n_cpus:
        text = (
            f"{n_trials} trials of {compute.cpus_per_trial:g} CPUs do not fit the {n_cpus} CPUs here; "
            "fewer will run at once"
        )
        yield Finding(("compute", "concurrent_trials"), text, True)
    elif n_trials * compute.threads_per_trial > n_cpus:
        text = (
            f"{n_trials} trials of {compute.threads_per_trial} threads share {n_cpus} CPUs; "
            "lower one, or they slow each other down"
        )
        yield Finding(("compute", "threads_per_trial"), text, True)
