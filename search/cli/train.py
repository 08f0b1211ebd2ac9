"""`apportion train`: repeat one recipe outside its study and keep the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from search.cli.output import print_json
from search.errors import SpecError, StageError
from search.recipe_file import read_recipe

EXAMPLES = """\b
Examples:
  apportion train results/inner_voice/trials/0007/recipe.yaml --out my_model
  apportion train recipe.yaml --out my_adapter --form adapter"""


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file of a trial.", metavar="RECIPE")],
    out: Annotated[Path, typer.Option("--out", help="New folder for the model.")],
    form: Annotated[
        str,
        typer.Option(
            help="`merged` weights, a PEFT `adapter`, or `auto`: the adapter where the recipe leaves just one."
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was trained as JSON.")
    ] = False,
) -> None:
    """Train a recipe and save the model, for transformers or PEFT to load."""
    forms: dict[str, Literal["auto", "adapter", "merged"]] = {
        "auto": "auto",
        "adapter": "adapter",
        "merged": "merged",
    }
    if form not in forms:
        raise SpecError(f"--form: {form!r} is not known; choose auto, adapter or merged")
    if device not in ("auto", "cpu", "cuda"):
        raise SpecError(f"--device: {device!r} is not known; choose auto, cpu or cuda")
    if out.exists():
        raise SpecError(f"--out: {out} exists already; name a new folder")
    file = read_recipe(recipe)
    # Spinning threads slow each other down on a busy machine; torch reads this once, when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from search.repeat import train_recipe

    # Paths start where the file was found, and not where a link to it may lead.
    root = recipe.absolute().parent
    try:
        trained = train_recipe(file, root, out, forms[form], device, _say)
    except StageError as error:
        raise SpecError(f"{recipe}: {error}") from error
    if as_json:
        print_json([stage.model_dump(mode="json") for stage in trained])
    else:
        typer.echo(f"model: {out}")


def _say(line: str) -> None:
    typer.echo(line, err=True)
