"""`apportion plan`: show what a study would try and cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from search.check import checked_study
from search.cli.output import duration
from search.folders import StudyFolder
from search.plan import Plan, Speeds, make_plan, measured_speeds
from search.spec import StudySpec
from spaces.recipe import Recipe

EXAMPLES = """\b
Examples:
  apportion plan study.yaml
  apportion plan study.yaml --n 20
  apportion plan study.yaml --json"""
ROUGH = "rough defaults for a 135M model on two CPU cores"


def plan(
    study: Annotated[Path, typer.Argument(help="Study file.", metavar="STUDY")],
    n: Annotated[int, typer.Option("--n", help="Recipes to show.", min=0, max=1000)] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the recipes.", min=0)] = 0,
    results: Annotated[
        Path, typer.Option("--results", help="Where trials of this study may tell the speed.")
    ] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what a study would try and cost: orders, a few recipes, tokens and time. Trains nothing."""
    spec = checked_study(study).spec
    speeds = measured_speeds(
        StudyFolder(results / spec.name).records(), len(spec.stopping.used_rungs)
    )
    found = make_plan(spec, speeds, n, seed)
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2))
        return
    for line in _lines(spec, found):
        typer.echo(line)


def _lines(spec: StudySpec, plan: Plan) -> Iterator[str]:
    yield f"study       {spec.name}"
    yield f"orders      {plan.n_orders}, and the untouched base"
    yield f"parameters  {plan.n_parameters}"
    for recipe in plan.recipes:
        seconds = duration(plan.speeds.recipe_seconds(recipe))
        yield f"recipe      {recipe.label()}: {_tokens(recipe):,} tokens, about {seconds}"
    yield (
        f"trial       {plan.tokens_per_trial:,.0f} tokens, about "
        f"{duration(plan.seconds_per_trial)} (mean of random recipes)"
    )
    at_once = spec.compute.concurrent_trials
    yield (
        f"budget      about {plan.n_trials} trials, {plan.train_tokens:,.0f} tokens, "
        f"{duration(plan.wall_seconds)} with {at_once} at once; {plan.ends_by} ends first"
    )
    for kind, speed in sorted(plan.speeds.tokens_per_second.items()):
        n_measured = plan.speeds.n_measured.get(kind, 0)
        origin = f"measured, {n_measured} stages" if n_measured else ROUGH
        yield f"speed       {kind.method} {kind.adapter}: {speed:.0f} tokens/s ({origin})"
    yield f"speed       suite: {plan.speeds.evaluate_seconds:.0f} s after each stage"


def _as_json(plan: Plan) -> dict[str, Any]:
    return {
        "n_orders": plan.n_orders,
        "n_parameters": plan.n_parameters,
        "recipes": [_recipe_json(recipe, plan.speeds) for recipe in plan.recipes],
        "tokens_per_trial": round(plan.tokens_per_trial),
        "seconds_per_trial": round(plan.seconds_per_trial, 1),
        "n_trials": plan.n_trials,
        "ends_by": plan.ends_by,
        "train_tokens": round(plan.train_tokens),
        "wall_seconds": round(plan.wall_seconds, 1),
        "speeds": [
            {
                "method": kind.method,
                "adapter": kind.adapter,
                "tokens_per_second": round(speed, 1),
                "n_measured_stages": plan.speeds.n_measured.get(kind, 0),
            }
            for kind, speed in sorted(plan.speeds.tokens_per_second.items())
        ],
        "evaluate_seconds": round(plan.speeds.evaluate_seconds, 1),
    }


def _recipe_json(recipe: Recipe, speeds: Speeds) -> dict[str, Any]:
    return {
        "label": recipe.label(),
        "tokens": _tokens(recipe),
        "seconds": round(speeds.recipe_seconds(recipe), 1),
        "stages": recipe.model_dump(mode="json")["stages"],
    }


def _tokens(recipe: Recipe) -> int:
    return sum(stage.dose_tokens for stage in recipe.stages)
