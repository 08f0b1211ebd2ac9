"""`apportion explain`: what the stages of a trial gave and took, what order and repetition do, and how doses act."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from search.cli.output import print_json
from search.errors import SpecError

EXAMPLES = """\b
Examples:
  apportion explain results/inner_voice 7                  # from what is measured; what is missing and its cost
  apportion explain results/inner_voice 7 --train          # train what is missing
  apportion explain results/inner_voice 7 --train --budget 20k --order
  apportion explain results/inner_voice 7 --train --seeds 3  # narrower intervals; with 1 nothing is claimed
  apportion explain results/inner_voice                    # no trial: doses and parameters, over the study"""

Folder = Annotated[Path, typer.Argument(help="Folder such as results/<study>.", metavar="RESULTS")]
Scores = Annotated[
    str | None,
    typer.Option(
        "--scores",
        help="Scores to look at, with commas between. Default: objectives and constraints.",
    ),
]
Margin = Annotated[
    float,
    typer.Option(
        help="What counts as equal: in a share itself, else as a share of the range seen."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def explain(
    folder: Folder,
    number: Annotated[
        int | None,
        typer.Argument(
            help="Number of a trial. Without: doses and parameters.", metavar="TRIAL", min=0
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Train recipes that are missing.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(help="What training may cost: tokens, such as 20k, or such as 4trials."),
    ] = None,
    order: Annotated[
        bool, typer.Option("--order", help="Also other orders, and each stage once more.")
    ] = False,
    seeds: Annotated[
        int,
        typer.Option(
            help="Seeds of each recipe, the study's own first. One tells nothing of how far trainings differ, so "
            "nothing is claimed from one.",
            min=1,
            max=20,
        ),
    ] = 2,
    scores: Scores = None,
    margin: Margin = 0.05,
    as_json: Json = False,
) -> None:
    """Explain a trial: what each stage gave and took, alone, left out, and among the others."""
    from search.attribution.missing import Budget
    from search.cli.measured import OpenedStudy

    limit = Budget.read(budget)
    if budget is not None and not train:
        raise SpecError("--budget: is for training; add --train")
    opened = OpenedStudy.open(folder)
    if number is None:
        if train or order:
            raise SpecError("--train and --order: need the number of a trial; add it")
        _explain_study(opened, scores, as_json)
        return
    _explain_trial(opened, number, train, limit, order, seeds, scores, margin, as_json)


def _explain_trial(
    opened: Any,
    number: int,
    train: bool,
    limit: Any,
    order: bool,
    seeds: int,
    chosen: str | None,
    margin: float,
    as_json: bool,
) -> None:
    from search.attribution.explanation import checked_lattice
    from search.attribution.explanation import explain as explained
    from search.attribution.order import order_effects
    from search.attribution.verdicts import verdicts
    from search.attribution.wishes import wanted_for
    from search.explanations import ExplanationFolder

    recipe = opened.trial(number).recipe
    checked_lattice(recipe, number)
    scores = opened.chosen_scores(chosen)
    opened.margins(scores, margin)  # A wrong margin is told before anything is trained.
    own = opened.spec.sampler.seed
    all_seeds = [own + at for at in range(seeds)]
    wanted = wanted_for(opened.known, recipe, all_seeds, order, limit, opened.pricing())
    if train and wanted.chosen:
        # Spinning threads slow each other down on a busy machine; torch reads this once, when it is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from search.outside import train_missing

        train_missing(opened.folder, opened.file, opened.spec, wanted.chosen, _say)
        opened = type(opened).open(opened.folder.path)
        wanted = wanted_for(opened.known, recipe, all_seeds, order, limit, opened.pricing())
    explanation = explained(
        opened.known,
        number,
        recipe,
        scores,
        opened.margins(scores, margin),
        wanted.missing,
        _notes(opened, wanted.missing),
    )
    effects = order_effects(opened.known, recipe, scores) if order else None
    claims = verdicts(explanation)
    data = {
        **explanation.model_dump(mode="json"),
        "claims": [claim.model_dump(mode="json") for claim in claims],
        "order": effects.model_dump(mode="json") if effects else None,
    }
    from search.folders import to_json

    path = ExplanationFolder(opened.folder).write(number, to_json(data) + "\n")
    if as_json:
        print_json(data)
        return
    from rich.console import Console

    from search.cli.explain_text import print_explanation, print_order

    console = Console()
    print_explanation(console, explanation, claims, recipe)
    if effects is not None:
        print_order(console, effects)
    if path is not None:
        typer.echo(f"kept     {path}")


def _explain_study(opened: Any, chosen: str | None, as_json: bool) -> None:
    from search.attribution.dose import dose_responses
    from search.report.view import load_view
    from search.sampling.importance import importances
    from spaces.space import Space

    scores = opened.chosen_scores(chosen)
    responses = dose_responses(opened.known, scores)
    spec, front = opened.spec, load_view(opened.folder.path).front
    space = Space(spec.influences, spec.order)
    matter = importances(space, opened.completed, opened.objectives, front)
    if as_json:
        print_json(
            {
                "doses": [response.model_dump(mode="json") for response in responses],
                "parameters": matter.model_dump(mode="json") if matter else None,
            }
        )
        return
    from rich.console import Console

    from search.cli.explain_text import print_doses, print_importances

    console = Console()
    print_doses(console, responses, scores)
    print_importances(console, matter)


def _notes(opened: Any, missing: Any) -> list[str]:
    """Return what a reader must know beside the numbers."""
    from search.attribution.known import recipe_key

    notes = []
    if opened.known.n_left_out:
        notes.append(
            f"{opened.known.n_left_out} boundaries were scored by another version of the suite and are left out"
        )
    lacking = {recipe_key(each.recipe): each.label for each in missing}
    for record in opened.outside:
        label = lacking.get(recipe_key(record.recipe))
        if record.state == "FAIL" and label is not None:
            notes.append(f"{label} was trained and failed: {record.reason}")
    return notes


def _say(line: str) -> None:
    typer.echo(line, err=True)
