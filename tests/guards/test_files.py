"""Every file that git would take is short and speaks of the project alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = {
    ".py",
    ".md",
    ".yaml",
    ".yml",
    ".toml",
    ".sh",
    ".html",
    ".j2",
    ".css",
    ".js",
    ".txt",
    ".json",
    "",
}
MAX_LINES = 400
MAX_BYTES = 3_000_000
# Each word is put together here, so that this file does not hold what it looks for.
FOREIGN = {
    "a path of one machine": r"(?<![\w.])/("
    + "|".join(("root", "home", "work", "Users"))
    + r")/\w",
    "a registry's host": r"\b(" + "|".join(("pypi", "pythonhosted", "npmjs")) + r")\.(org|com)\b",
    "an option that names a registry": "--" + "(extra-)?index-url",
    "an issue's number": r"\b(issue|issues|pull request)s? #?\d+|(?<![\w&/])#\d{2,}\b(?![.;])",
    "unfinished work": r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b",
}


def git_files(*arguments: str) -> list[Path]:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", *arguments], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout, so nobody says which files are the project's")
    names = sorted({name for name in done.stdout.decode().split("\0") if name})
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def project_files() -> list[Path]:
    """Return what is committed or would be: tracked files, and new ones that are not ignored."""
    return git_files("--cached", "--others", "--exclude-standard")


def text_files() -> list[Path]:
    return [path for path in project_files() if path.suffix in TEXT]


def is_written_by_hand(path: Path) -> bool:
    """Results of reference studies are written by the program; the licence is the lawyers'."""
    name = path.relative_to(ROOT).as_posix()
    return name != "LICENSE" and (not name.startswith("results/") or name == "results/README.md")


def test_no_code_file_is_longer_than_400_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): path.read_text().count("\n")
        for path in text_files()
        if is_written_by_hand(path) and path.suffix in {".py", ".js", ".css", ".j2", ".html", ".md"}
    }
    # The README holds the tree of all files beside its text.
    assert lengths.pop("README.md") <= 600
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_file_is_larger_than_three_megabytes() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in project_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_BYTES} == {}


@pytest.mark.parametrize("what", sorted(FOREIGN))
def test_no_file_names(what: str) -> None:
    pattern = re.compile(FOREIGN[what], re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in text_files()
        if path != Path(__file__) and is_written_by_hand(path)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of one machine", "open('/root" + "/x.txt')"),
        ("a path of one machine", "see /home" + "/me/notes"),
        ("a registry's host", "https://pypi" + ".org/simple"),
        ("an option that names a registry", "pip install --index" + "-url x"),
        ("an issue's number", "works around issue" + " 123"),
        ("unfinished work", "# TO" + "DO: later"),
    ],
)
def test_what_is_looked_for_would_be_found(what: str, line: str) -> None:
    assert re.search(FOREIGN[what], line, re.IGNORECASE)


def test_no_folder_of_tests_shadows_a_package() -> None:
    names = {path.name for path in (ROOT / "tests").rglob("*") if path.is_dir()}
    assert names & {"search", "spaces", "evaluators"} == set()
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_results_are_ignored_apart_from_their_readme() -> None:
    ignored = subprocess.run(
        [
            "git",
            "-C",
            str(ROOT),
            "check-ignore",
            "results/some_study/study.db",
            "results/README.md",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if ignored.returncode == 128:
        pytest.skip("not a git checkout")
    assert ignored.stdout.split() == ["results/some_study/study.db"]
