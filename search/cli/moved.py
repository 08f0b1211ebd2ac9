"""`apportion moved`: where the stages of a trial moved the model, by layer and kind of weight."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from search.cli.explain import Folder, Json
from search.cli.output import print_json, write_bytes
from search.errors import SpecError, StudyError

EXAMPLES = """\b
Examples:
  apportion moved results/inner_voice 7               # heat maps by layer and kind, and who overwrites whom
  apportion moved results/inner_voice 7 --train       # train what the stage store no longer holds
  apportion moved results/inner_voice 7 --out moved7.png
  apportion moved results/inner_voice 7 --json"""


def moved(
    folder: Folder,
    number: Annotated[int, typer.Argument(help="Number of a trial.", metavar="TRIAL", min=0)],
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Train stages that the store lacks.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Measure again, although it was measured before.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the heat maps as a PNG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show where each stage moved weights and activations, and whether a later stage overwrites an earlier one."""
    from search.cli.measured import OpenedStudy
    from search.explanations import ExplanationFolder

    if out is not None and out.suffix.lower() != ".png":
        raise SpecError(f"--out: {out} does not end with .png; name such as moved.png")
    opened = OpenedStudy.open(folder)
    record = opened.trial(number)
    if not record.stages:
        why = "it is the untouched base" if not record.recipe.stages else f"it is {record.state}"
        raise StudyError(
            f"{folder}: trial {number} has no finished stage ({why}); name one with stages"
        )
    explanations = ExplanationFolder(opened.folder)
    found = None if again else explanations.read_moved(number)
    if found is None or [each.label for each in found.stages] != [
        done.stage.label for done in record.stages
    ]:
        # Spinning threads slow each other down on a busy machine; torch reads this once, when it is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from search.moving import measure_moved

        found = measure_moved(
            opened.folder,
            opened.file,
            opened.spec,
            record,
            train,
            lambda line: typer.echo(line, err=True),
        )
        kept = explanations.write_moved(found)
    else:
        kept = explanations.moved_file(number)
    if out is not None:
        from search.moved.picture import moved_png

        write_bytes(out, moved_png(found))
    if as_json:
        from search.moved.sentences import sentences

        print_json({**found.model_dump(mode="json"), "sentences": sentences(found)})
        return
    from rich.console import Console

    from search.cli.moved_text import print_moved

    print_moved(Console(), found)
    if kept is not None:
        typer.echo(f"kept     {kept}")
    if out is not None:
        typer.echo(f"picture  {out}")
