"""`apportion graph`: draw a recipe, or what a trial made of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from search.base_files import base_name
from search.cli.output import write_bytes, write_file
from search.errors import SpecError, StudyError
from search.folders import StudyFolder
from search.graph.build import Graph, recipe_graph
from search.graph.mermaid import mermaid_text
from search.recipe_file import read_recipe
from search.yaml_file import load_study

EXAMPLES = """\b
Examples:
  apportion graph recipe.yaml                     # Mermaid on stdout
  apportion graph results/inner_voice 7           # with the scores after each stage
  apportion graph results/inner_voice 7 --out trial7.png"""
Form = Literal["mermaid", "svg", "png"]
FORMS: dict[str, Form] = {"mermaid": "mermaid", "svg": "svg", "png": "png"}
SUFFIXES = {".mmd": "mermaid", ".mermaid": "mermaid", ".svg": "svg", ".png": "png"}


def graph(
    place: Annotated[
        Path, typer.Argument(help="Recipe file, or folder of a study.", metavar="RECIPE|RESULTS")
    ],
    number: Annotated[
        int | None, typer.Argument(help="Number of a trial of that study.", metavar="TRIAL", min=0)
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="`mermaid`, `svg` or `png`. Default: as --out ends, or mermaid."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; default: stdout.")
    ] = None,
) -> None:
    """Draw a recipe as a graph: stages, handoffs, adapters set aside, and the scores of a trial."""
    form = _form(to, out)
    drawn = _trial_graph(place, number) if number is not None else _file_graph(place)
    if form == "mermaid":
        text = mermaid_text(drawn)
        if out is None:
            typer.echo(text, nl=False)
        else:
            write_file(out, text)
    else:
        from search.graph.picture import graph_picture

        picture = graph_picture(drawn, form)
        if out is None:
            typer.echo(picture.decode(), nl=False)
        else:
            write_bytes(out, picture)
    if out is not None:
        typer.echo(f"graph: {out}")


def _form(to: str | None, out: Path | None) -> Form:
    word = to or (SUFFIXES.get(out.suffix.lower(), "mermaid") if out is not None else "mermaid")
    if word not in FORMS:
        raise SpecError(f"--to: {word!r} is not known; choose mermaid, svg or png")
    if word == "png" and out is None:
        raise SpecError("--to: png is no text for the terminal; add --out FILE")
    return FORMS[word]


def _file_graph(path: Path) -> Graph:
    if path.is_dir():
        raise SpecError(
            f"{path}: is a folder; name a recipe file, or add the number of a trial, such as "
            f"`apportion graph {path} 0`"
        )
    file = read_recipe(path)
    return recipe_graph(file.recipe, base_name(file.base), f"recipe {path.name}")


def _trial_graph(folder: Path, number: int) -> Graph:
    study = StudyFolder(folder)
    study.read_file()
    record = study.trial(number).read_record()
    if record is None:
        numbers = [str(known.number) for known in study.records()]
        raise StudyError(
            f"{folder}: no trial {number}; known: {', '.join(numbers[-20:]) or 'none yet'}"
        )
    spec = load_study(study.study_yaml)
    title = f"study {spec.name}, trial {number}, {record.state}"
    return recipe_graph(record.recipe, base_name(spec.base), title, record)
