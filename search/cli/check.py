"""`apportion check`: say what is wrong with a study, or what it consists of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from evaluators.custom import CustomSpec
from evaluators.spec import HarnessSpec
from search.check import CheckedStudy, all_problems, checked_study
from search.errors import SpecError
from search.messages import Problem
from spaces.influence import InfluenceSpec
from spaces.space import Space

EXAMPLES = """\b
Examples:
  apportion check study.yaml
  apportion check study.yaml --all
  apportion check study.yaml --json"""


def check(
    study: Annotated[Path, typer.Argument(help="Study file.", metavar="STUDY")],
    show_all: Annotated[bool, typer.Option("--all", help="List all errors, one a line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print problems as JSON.")] = False,
) -> None:
    """Check a study: its file, names, values, orders, sources and model. Trains and downloads nothing."""
    if as_json:
        _print_json(study)
    elif show_all:
        _print_all(study)
    else:
        for line in _facts(checked_study(study)):
            typer.echo(line)


def _print_json(study: Path) -> None:
    try:
        problems = all_problems(study)
    except SpecError as error:
        problems = [Problem(str(study), None, (), str(error))]
    is_fine = all(problem.is_warning for problem in problems)
    found = {"is_fine": is_fine, "problems": [problem.as_json() for problem in problems]}
    typer.echo(json.dumps(found, indent=2))
    if not is_fine:
        raise typer.Exit(2)


def _print_all(study: Path) -> None:
    problems = all_problems(study)
    if all(problem.is_warning for problem in problems):
        for line in _facts(checked_study(study)):
            typer.echo(line)
        return
    for problem in problems:
        typer.echo(f"{'warning' if problem.is_warning else 'error'}: {problem}", err=True)
    raise typer.Exit(2)


def _facts(checked: CheckedStudy) -> Iterator[str]:
    spec = checked.spec
    base = spec.base
    yield f"study       {spec.name}"
    yield f"base        {base.hub or base.path or base.package}"
    for name, source in spec.sources.items():
        read = checked.sources.get(name)
        size = f"{len(read.rows)} rows" if read is not None else "on the hub, not read"
        yield f"source      {name}: {source.format}, {size}"
    for name, influence in spec.influences.items():
        adapter = f" {influence.adapter.kind}" if isinstance(influence, InfluenceSpec) else ""
        yield f"influence   {name}: {influence.method}{adapter}"
    space = Space(spec.influences, spec.order)
    yield f"orders      {space.rules.n_sequences()}"
    for name, evaluator in {**spec.suite, **spec.holdout}.items():
        if isinstance(evaluator, CustomSpec):
            yield f"evaluator   {name}: {evaluator.evaluator}, your own code, imported and so run"
        elif isinstance(evaluator, HarnessSpec) and evaluator.include_path is not None:
            yield f"evaluator   {name}: tasks of {evaluator.include_path}, whose code a run executes"
    for objective, direction in zip(spec.objectives, spec.directions(), strict=True):
        yield f"objective   {direction} {objective.score}"
    for constraint in spec.constraints:
        low = "" if constraint.at_least is None else f" at least {constraint.at_least:g}"
        high = "" if constraint.at_most is None else f" at most {constraint.at_most:g}"
        yield f"constraint  {constraint.score}{low}{high}"
    yield f"holdout     {', '.join(spec.holdout) or 'none'}"
    for problem in checked.warnings:
        yield f"warning     {problem}"
    yield "no errors"
