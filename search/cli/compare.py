"""`apportion compare`: two trials side by side, or a trial and the base."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli.explain import Folder, Json
from search.cli.output import print_json

EXAMPLES = """\b
Examples:
  apportion compare results/inner_voice 3 7               # is 7 better than 3, and what is different in it?
  apportion compare results/inner_voice base 7 --samples 5
  apportion compare results/inner_voice 7 results/other:2 # of another study, scored by an equal suite
  apportion compare results/inner_voice 3 7 --json"""
Which = "Number of a trial, or `base`; of another study as FOLDER:NUMBER."


def compare(
    folder: Folder,
    a: Annotated[str, typer.Argument(help=Which, metavar="A")],
    b: Annotated[str, typer.Argument(help=f"Judged beside A. {Which}", metavar="B")],
    samples: Annotated[
        int, typer.Option(help="Replies to show, where they differ most.", min=0, max=1000)
    ] = 3,
    as_json: Json = False,
) -> None:
    """Compare two trials: recipes, scores paired item by item, holdout, cost, and replies that differ most."""
    from search.compare.compared import verdict
    from search.compare.gather import compared

    found = compared(folder, a, b, samples)
    sentences = verdict(found)
    if as_json:
        data = found.model_dump(mode="json")
        for row, score in zip(data["scores"], found.scores, strict=True):
            row["verdict"] = score.verdict
        print_json({**data, "sentences": sentences})
        return
    from rich.console import Console

    from search.cli.compare_text import print_compared

    print_compared(Console(), found, sentences)
