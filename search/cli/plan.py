"""`apportion plan`: show what a study would try and cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from search.check import checked_study
from search.cli.output import duration
from search.errors import SpecError
from search.folders import StudyFolder
from search.plan import Plan, Speeds, make_plan, measured_speeds
from search.resolution import Resolution, resolutions
from search.spec import StudySpec
from spaces.recipe import Recipe
from spaces.spec import ends

EXAMPLES = """\b
Examples:
  apportion plan study.yaml
  apportion plan study.yaml --n 20
  apportion plan study.yaml --resolution 0.1        # how many items would show a difference of 0.1
  apportion plan study.yaml --json"""
ROUGH = "rough defaults for a 135M model on two CPU cores"


def plan(
    study: Annotated[Path, typer.Argument(help="Study file.", metavar="STUDY")],
    n: Annotated[int, typer.Option("--n", help="Recipes to show.", min=0, max=1000)] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the recipes.", min=0)] = 0,
    results: Annotated[
        Path, typer.Option("--results", help="Where trials of this study may tell the speed.")
    ] = Path("results"),
    resolution: Annotated[
        float,
        typer.Option(
            "--resolution", help="Difference that objectives should show, in their units."
        ),
    ] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what a study would try and cost, and how finely it can tell models apart. Trains nothing."""
    if not resolution > 0:
        raise SpecError(f"--resolution: {resolution:g} is not above 0; give such as 0.05")
    checked = checked_study(study)
    spec = checked.spec
    records = StudyFolder(results / spec.name).records()
    items = spec.fidelity.items if spec.fidelity else 1.0
    speeds = measured_speeds(records, len(spec.stopping.used_rungs), items)
    found = make_plan(spec, speeds, n, seed)
    rows = {name: source.seen_by("search") for name, source in checked.sources.items()}
    shown = resolutions(spec, rows, records, resolution)
    if as_json:
        measured = {"resolution": resolution, "objectives": [asdict(each) for each in shown]}
        typer.echo(json.dumps(_as_json(found) | measured, indent=2))
        return
    for line in _lines(spec, found):
        typer.echo(line)
    for each in shown:
        typer.echo(f"objective   {_resolution_text(each, resolution)}")


def _lines(spec: StudySpec, plan: Plan) -> Iterator[str]:
    yield f"study       {spec.name}"
    fewest, most = (int(end) for end in ends(spec.order.rounds))
    span = f"{most}" if fewest == most else f"{fewest} to {most}"
    rounds = "" if most == 1 else f" in {span} rounds"
    yield f"orders      {plan.n_orders}{rounds}, and the untouched base"
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
    if spec.fidelity is not None:
        yield f"fidelity    {_fidelity_text(plan.speeds)}"


def _fidelity_text(speeds: Speeds) -> str:
    """Return what scoring on the first items saves. Seconds go with items: a rough rule."""
    saved = (1 - speeds.fidelity) * speeds.evaluate_seconds
    text = (
        f"{100 * speeds.fidelity:.3g} % of the items first: saves about {duration(saved)} of the suite for each recipe "
        "that ends there"
    )
    if speeds.n_rungs:
        text += f", and as much at each of {speeds.n_rungs} rungs"
    if not speeds.n_screened:
        return f"{text}; how many do is known after some trials, and counted as none here"
    return f"{text}; {100 * speeds.given_up_share:.3g} % of {speeds.n_screened} did"


def _resolution_text(each: Resolution, wanted: float) -> str:
    n_items = f"{each.n_items:,} items" if each.n_items else "items not counted yet"
    origin = "as measured" if each.is_measured else "at a share of .5"
    stderr = f"standard error {each.stderr:.2g} ({origin})" if each.stderr is not None else ""
    needed = "how finely it tells is known after the first trial"
    if each.items_needed is not None:
        needed = f"to see {wanted:g}: up to {each.items_needed:,} items"
    return f"{each.score}: {', '.join(part for part in (n_items, stderr, needed) if part)}"


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
        "fidelity": plan.speeds.fidelity,
        "given_up_share": round(plan.speeds.given_up_share, 3) if plan.speeds.n_screened else None,
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
