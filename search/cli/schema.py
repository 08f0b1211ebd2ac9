"""`apportion schema`: print the JSON Schema of study.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.output import write_file
from search.schema import schema_text

EXAMPLES = """\b
Examples:
  apportion schema
  apportion schema --out study.schema.json"""


def schema(
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write.", metavar="FILE")
    ] = None,
) -> None:
    """Print the JSON Schema of study.yaml, for editors."""
    if out is None:
        typer.echo(schema_text(), nl=False)
        return
    write_file(out, schema_text())
    typer.echo(f"wrote {out}")
