"""`apportion init`: copy an example study and make its data."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

import search.examples
from search.errors import StudyError
from search.messages import suggest, value_text
from search.native import is_bfloat16_slow
from search.schema import SCHEMA_FILE, schema_text, with_schema_line

EXAMPLES = """\b
Examples:
  apportion init my_study
  apportion init my_study --example inner_voice
  apportion init --list"""
DEFAULT_EXAMPLE = "inner_voice"


def init(
    folder: Annotated[
        Path | None, typer.Argument(help="New or empty folder.", metavar="DIR")
    ] = None,
    example: Annotated[
        str, typer.Option("--example", help="Which example to copy.", metavar="NAME")
    ] = DEFAULT_EXAMPLE,
    is_list: Annotated[bool, typer.Option("--list", help="List the examples instead.")] = False,
) -> None:
    """Write an example study, its data and its schema into a folder."""
    examples = example_folders()
    if is_list:
        for name, path in examples.items():
            typer.echo(f"{name:<12}{_headline(path)}")
        return
    if folder is None:
        raise StudyError("init needs a folder; write `apportion init DIR`")
    if example not in examples:
        hint = suggest(example, examples)
        raise StudyError(f"--example {value_text(example)} is not an example; {hint}")
    for name in write_example(example, folder):
        typer.echo(f"wrote {folder / name}")
    typer.echo(f"next  apportion check {folder / 'study.yaml'}")


def example_folders() -> dict[str, Path]:
    """Return the examples that came with the package: name to folder."""
    home = Path(next(iter(search.examples.__path__)))
    return {path.parent.name: path.parent for path in sorted(home.glob("*/study.yaml"))}


def write_example(name: str, folder: Path) -> list[str]:
    """Copy an example into a folder, make its data and write the schema beside it.

    Args:
        name: One of `example_folders()`.
        folder: New or empty; it gets all files or none.

    Returns:
        The files written, relative to the folder.

    Raises:
        StudyError: The folder holds something, or cannot be written to.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise StudyError(f"{folder}: is not empty; name a new folder")
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{folder}: is a file; name a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".init-") as beside:
            _fill(name, Path(beside))
            names = sorted(
                str(p.relative_to(beside)) for p in Path(beside).rglob("*") if p.is_file()
            )
            folder.mkdir(exist_ok=True)
            for part in Path(beside).iterdir():
                part.rename(folder / part.name)
    except OSError as error:
        raise StudyError(
            f"{folder}: cannot be written ({error.strerror or error}); name another place"
        ) from error
    return names


def _fill(name: str, folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "__init__.py")
    shutil.copytree(example_folders()[name], folder, ignore=ignored, dirs_exist_ok=True)
    study = folder / "study.yaml"
    text = with_schema_line(study.read_text(encoding="utf-8"))
    if is_bfloat16_slow("auto"):
        text = text.replace("precision: bfloat16", "precision: float32")
    study.write_text(text, encoding="utf-8")
    (folder / SCHEMA_FILE).write_text(schema_text(), encoding="utf-8")
    if (folder / "build_data.py").is_file():
        importlib.import_module(f"search.examples.{name}.build_data").build(folder)


def _headline(folder: Path) -> str:
    """Return the first words of an example's README.md."""
    readme = folder / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    return next((line.strip() for line in lines if line.strip() and line[0] not in "#`"), "")
