"""What a machine of a cluster must see before trials run on it: results, stage store, base, sources, equal code.

The driver leaves marks where trials will read and write; each machine looks for them and leaves one of its own. No Ray:
`search.runner.probe` brings this to the machines.
"""

from __future__ import annotations

import hashlib
import platform
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from search.base_files import BaseFilesError, resolve_base
from search.errors import ApportionError
from search.folders import StudyFolder, write_whole
from search.origin import HOME, PACKAGES
from search.provenance import provenance
from search.spec import StudySpec
from search.store import StageStore, StoreError
from search.store.files import open_files

FOLDER, IN_STORE = ".probe", "probe"
COMPARED = ("torch", "transformers", "peft", "trl", "tokenizers", "numpy")
"""Packages whose versions may change what a trial measures."""


@dataclass(frozen=True)
class Marks:
    """What the driver leaves, and says of itself."""

    name: str
    """Of the marks."""
    code: str
    """Hash of our packages."""
    versions: dict[str, str]
    """Of Python and the compared packages."""


def leave_marks(spec: StudySpec, root: Path, results: Path) -> Marks:
    """Leave the marks of a driver.

    Args:
        spec: The study.
        root: Where its relative paths start.
        results: The study's folder.

    Raises:
        ApportionError: It cannot write there itself.
    """
    name = secrets.token_hex(8)
    folder = results / FOLDER
    folder.mkdir(exist_ok=True)
    write_whole(folder / name, name)
    place = StudyFolder(results).store_root(spec, root)
    if place is not None:
        StageStore(place)  # A store is one before anything else lies in it.
        open_files(place, None).create(f"{IN_STORE}/{name}", name.encode())
    return Marks(name, code_hash(), versions())


def remove_marks(spec: StudySpec, root: Path, results: Path, marks: Marks) -> None:
    """Remove all marks of a driver, and those of the machines beside them."""
    shutil.rmtree(results / FOLDER, ignore_errors=True)
    place = StudyFolder(results).store_root(spec, root)
    if place is not None:
        open_files(place, None).remove(f"{IN_STORE}/{marks.name}")


def look(spec: StudySpec, root: Path, results: Path, marks: Marks, node: str) -> list[str]:
    """Return what this machine lacks, each with what would help, and leave its own mark in the results.

    Args:
        spec: The study.
        root: Where its relative paths start.
        results: The study's folder.
        marks: Of the driver.
        node: Names this machine.
    """
    problems = [*_code(marks), *_results(results, marks, node)]
    place = None
    try:
        place = StudyFolder(results).store_root(spec, root)
        if (
            place is not None
            and open_files(place, None).read(f"{IN_STORE}/{marks.name}", 64) is None
        ):
            problems.append(
                "sees another stage store than the driver; give store.path a shared folder or a url"
            )
    except (ApportionError, StoreError) as error:
        problems.append(f"cannot open the stage store: {error}")
    except Exception as error:  # whatever a client of an object store raises
        problems.append(
            f"cannot open the stage store ({type(error).__name__}: {error}); set its keys there"
        )
    try:
        resolve_base(spec.base, root)
    except BaseFilesError as error:
        problems.append(f"cannot read the base: {error}")
    missing = [
        name
        for name, source in spec.sources.items()
        if source.path is not None and not (root / source.path).exists()
    ]
    if missing:
        first = root / str(spec.sources[missing[0]].path)
        problems.append(
            f"does not see {first} (source {missing[0]}, {len(missing)} of {len(spec.sources)} in all); put the data "
            "on a shared folder, or hand the study in with `apportion submit`"
        )
    return problems


def has_written(results: Path, marks: Marks, node: str) -> bool:
    """Return whether the driver sees what a machine wrote into the results."""
    return (results / FOLDER / f"{marks.name}-{node}").is_file()


def code_hash(home: Path = HOME) -> str:
    """Return a hash of all modules of our packages."""
    digest = hashlib.sha256()
    for package in ("search", *PACKAGES):
        for path in sorted((home / package).rglob("*.py")):
            digest.update(f"{path.relative_to(home)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return versions that may change what is measured; builds of one version count as equal."""
    found = {name: str(version) for name, version in provenance()["versions"].items()}
    kept = {name: found[name].partition("+")[0] for name in COMPARED if name in found}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **kept}


def _code(marks: Marks) -> list[str]:
    problems = []
    if code_hash() != marks.code:
        problems.append(
            "has another version of apportion; install the driver's there, or hand the study in with `apportion "
            "submit` from a checkout"
        )
    here = versions()
    for name, version in marks.versions.items():
        if here.get(name) != version:
            problems.append(
                f"has {name} {here.get(name, 'not at all')}, the driver {version}: scores would not be comparable; "
                "install the same one"
            )
    return problems


def _results(results: Path, marks: Marks, node: str) -> list[str]:
    remedy = "mount it there under this path, or give --results on a shared folder"
    try:
        if (results / FOLDER / marks.name).read_text() != marks.name:
            raise FileNotFoundError(2, "not the driver's")
        write_whole(results / FOLDER / f"{marks.name}-{node}", socket.gethostname())
    except OSError as error:
        reason = error.strerror or str(error)
        return [f"cannot use the results in {results} ({reason}); {remedy}"]
    return []
