"""Checks of what a study points to: the base, sources, task folders, storage. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from evaluators.redaction import expanded, missing_variables
from evaluators.spec import HarnessSpec
from search.base_files import BaseFilesError, resolve_base
from search.check_adapters import Finding
from search.errors import DataError
from search.messages import Problem, suggest, value_text
from search.sources import Source, read_source
from search.spec import StudySpec
from search.yaml_file import Located

DATABASES = ("sqlite", "postgresql", "mysql")


def base_findings(spec: StudySpec, root: Path) -> Iterator[Finding]:
    """Yield what is wrong with the base model's files and the folders of harness tasks."""
    try:
        resolve_base(spec.base, root)
    except BaseFilesError as error:
        yield Finding(("base", error.key), error.text)
    for group, evaluators in (("suite", spec.suite), ("holdout", spec.holdout)):
        for name, evaluator in evaluators.items():
            if isinstance(evaluator, HarnessSpec) and evaluator.include_path is not None:
                folder = root / evaluator.include_path
                if not os.path.isdir(folder):
                    text = f"{folder} is not a folder; name the folder that holds the task files"
                    yield Finding((group, name, "include_path"), text)


def storage_findings(spec: StudySpec, root: Path) -> Iterator[Finding]:
    """Yield what is wrong with the url of the Optuna storage; a relative SQLite path starts at `root`."""
    url = spec.storage
    if url is None:
        return
    place = ("storage",)
    missing = missing_variables(url)
    if missing:
        yield Finding(
            place, f"environment variable {missing[0]} is not set; set it where this runs"
        )
        return
    url = expanded(url)
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9]*)(\+\w+)?://(.*)", url)
    if found is None:
        remedy = "write sqlite:///FILE or postgresql://USER@HOST/NAME, or remove it"
        yield Finding(place, f"{value_text(spec.storage)} is not a database url; {remedy}")
    elif found[1] not in DATABASES:
        yield Finding(place, f"database {found[1]!r} is not known; {suggest(found[1], DATABASES)}")
    elif found[1] == "sqlite":
        file = found[3].removeprefix("/").split("?")[0]
        parent = root / Path(unquote(file)).parent
        if not file or ":memory:" in file:
            text = "a database in memory cannot be resumed; write sqlite:///FILE or remove storage"
            yield Finding(place, text)
        elif not found[3].startswith("/"):
            yield Finding(
                place, f"{value_text(spec.storage)} has two slashes; write sqlite:///FILE"
            )
        elif not file.startswith("file:") and not os.path.isdir(parent):
            text = f"folder {parent} of the database does not exist; make it first"
            yield Finding(place, text)


def store_findings(spec: StudySpec, root: Path) -> Iterator[Finding]:
    """Yield what is wrong with the folder of the stage store; urls are not asked."""
    path = spec.store.path
    if path is None:
        return
    place = ("store", "path")
    missing = missing_variables(path)
    if missing:
        yield Finding(
            place, f"environment variable {missing[0]} is not set; set it where this runs"
        )
        return
    path = expanded(path)
    if "://" in path:
        return
    folder = root / path
    if not path.strip():
        yield Finding(place, "is empty; name a folder, or remove it")
    elif os.path.exists(folder) and not os.path.isdir(folder):
        yield Finding(place, f"{folder} is a file; name a folder")
    elif not os.path.isabs(path) and not os.path.isdir(folder.parent):
        yield Finding(place, f"folder {folder.parent} does not exist; make it first")


def source_problems(
    spec: StudySpec, root: Path, located: Located
) -> tuple[list[Problem], dict[str, Source]]:
    """Read every local source; return what is wrong with them and those that are fine.

    Sources on the hub are left alone: checking a study downloads nothing.
    """
    problems: list[Problem] = []
    sources: dict[str, Source] = {}
    for name, source in spec.sources.items():
        if source.path is None:
            continue
        path = root / source.path
        if not os.path.exists(path):  # pathlib raises for names that are too long
            text = f"{path} does not exist; correct the path or make the file"
            problems.append(located.problem(("sources", name, "path"), text))
            continue
        try:
            sources[name] = read_source(name, source, root, spec.generalisation)
        except DataError as error:
            problems.append(_data_problem(str(path), str(error)))
            continue
        if sources[name].n_skipped:
            text = f"{sources[name].n_skipped} pairs with two equal answers are left out"
            problems.append(located.problem(("sources", name), text, is_warning=True))
    return problems, sources


def _data_problem(file: str, message: str) -> Problem:
    found = re.fullmatch(r"(?::(\d+))?: (.*)", message.removeprefix(file))
    if found is None:
        return Problem(file, None, (), message)
    return Problem(file, int(found[1]) if found[1] else None, (), found[2])
