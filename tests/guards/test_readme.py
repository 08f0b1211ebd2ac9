"""The documents describe today's code: the tree, every command line, and the study shown."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter
from typer.main import get_command

import search.cli.main
from evaluators.spec import EvaluatorSpec
from evaluators.suite import EVALUATORS
from search.check import checked_study
from search.yaml_file import load_study
from spaces.influence import AnyInfluence
from spaces.order import OrderSpec
from spaces.space import Space

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = {
    "README.md": README,
    "CONTRIBUTING.md": (ROOT / ".github" / "CONTRIBUTING.md").read_text(),
    "results/README.md": (ROOT / "results" / "README.md").read_text(),
}
OPENED = ("search", "spaces", "evaluators")
"""Folders whose content the tree shows, one level deep."""


def code_blocks(text: str, language: str) -> list[str]:
    # Fences open and close in turn, so blocks are every second part.
    blocks = text.split("\n```")[1::2]
    return [body for tag, _, body in (block.partition("\n") for block in blocks) if tag == language]


def named_in_tree() -> dict[str, str]:
    """Return path (folders without their slash) to explanation."""
    (tree,) = code_blocks(README, "")
    named: dict[str, str] = {}
    parent = ""
    for line in tree.splitlines():
        match = re.fullmatch(r"(  )?(\S+?)(/?) +(\S.*)", line)
        assert match is not None, f"a line of the tree without path or explanation: {line!r}"
        indent, name, is_folder, explanation = match.groups()
        parent = parent if indent else name
        path = f"{parent}/{name}" if indent else name
        assert path not in named, f"named twice: {path}"
        assert (ROOT / path).is_dir() == bool(is_folder), (
            f"{path} must end with / if it is a folder"
        )
        named[path] = explanation
    return named


def on_disk() -> set[str]:
    """Return what git has or would take, at the top and one level deep in the three packages."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout, so nobody says which files are the project's")
    paths = [Path(name) for name in done.stdout.decode().split("\0") if name]
    paths = [path for path in paths if (ROOT / path).exists()]
    tops = {path.parts[0] for path in paths}
    inside = {"/".join(path.parts[:2]) for path in paths if path.parts[0] in OPENED}
    return tops | {name for name in inside if not name.endswith("__init__.py")}


def commands(text: str) -> list[str]:
    """Return the lines of shell blocks without their comments."""
    lines = [line for block in code_blocks(text, "bash") for line in block.splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


ALL_COMMANDS = [(name, line) for name, text in DOCUMENTS.items() for line in commands(text)]
APPORTION = [line for _, line in ALL_COMMANDS if re.match(r"(\.venv/bin/)?apportion ", line)]
MAKE = [line for _, line in ALL_COMMANDS if line.startswith("make ")]


def test_tree_names_everything_on_disk_and_nothing_else() -> None:
    named, present = set(named_in_tree()), on_disk()
    assert sorted(present - named) == [], "on disk, not in README's tree"
    assert sorted(named - present) == [], "in README's tree, not on disk"


def test_every_line_of_a_shell_block_is_a_command_that_is_tested_here() -> None:
    assert [line for _, line in ALL_COMMANDS if line not in APPORTION + MAKE] == []
    assert len(APPORTION) >= 8
    assert "make demo" in MAKE


@pytest.mark.parametrize("line", sorted(set(APPORTION)))
def test_command_line_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    command = get_command(search.cli.main.app)
    while hasattr(command, "commands"):  # a group, such as `apportion store`
        command = command.commands[words[0]]
        name, *words = words
    # Raises on an unknown option, a value of the wrong kind, a missing or superfluous argument.
    context = command.make_context(name, words)
    assert context.params


@pytest.mark.parametrize("line", sorted(set(MAKE)))
def test_make_knows_the_target(line: str) -> None:
    done = subprocess.run(
        [*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_command_is_shown() -> None:
    shown = {shlex.split(line)[1] for line in APPORTION}
    known = set(get_command(search.cli.main.app).commands)  # type: ignore[attr-defined]
    assert shown == known


def test_cheap_commands_of_the_readme_run_in_the_order_shown(tmp_path: Path) -> None:
    cheap = [
        line
        for line in commands(README)
        if re.match(r"apportion (init|check|plan|schema|methods)\b", line)
    ]
    assert len(cheap) == 5
    for line in cheap:
        words = [sys.executable, "-m", "search.cli.main", *shlex.split(line)[1:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert done.stderr == "", line
    assert (tmp_path / "my_study" / "study.yaml").is_file()
    assert (tmp_path / "study.schema.json").is_file()


def test_study_of_the_readme_checks_clean(tmp_path: Path) -> None:
    text = next(block for block in code_blocks(README, "yaml") if block.startswith("name:"))
    study = tmp_path / "study.yaml"
    study.write_text(text)
    spec = load_study(study)
    row = {
        "messages": '{"messages": [{"role": "user", "content": "NAME"}, {"role": "assistant", "content": "b"}]}',
        "preference": '{"prompt": "NAME", "chosen": "b", "rejected": "c"}',
        "prompt": '{"prompt": "NAME"}',
    }
    (tmp_path / "data").mkdir()
    for name, source in spec.sources.items():
        assert source.path is not None
        (tmp_path / source.path).write_text(row[source.format].replace("NAME", name) + "\n")
    assert checked_study(study).spec == spec


def test_influences_of_the_readme_draw_legal_recipes() -> None:
    text = next(block for block in code_blocks(README, "yaml") if block.startswith("both:"))
    influences = {
        name: TypeAdapter(AnyInfluence).validate_json(json.dumps(values))
        for name, values in yaml.safe_load(text).items()
    }
    space = Space(influences, OrderSpec())
    stages = [space.decode(space.sample(seed)).stages for seed in range(40)]
    assert {stage.influence for recipe in stages for stage in recipe} == set(influences)


def test_evaluators_of_the_readme_are_legal() -> None:
    text = next(block for block in code_blocks(README, "yaml") if block.startswith("form:"))
    for values in yaml.safe_load(text).values():
        TypeAdapter(EvaluatorSpec).validate_json(json.dumps(values))
    listed = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", README, re.MULTILINE)
    assert set(EVALUATORS) <= set(re.findall(r"\w+", " ".join(listed)))


def test_evaluator_of_the_readme_keeps_its_promises(tmp_path: Path) -> None:
    (text,) = code_blocks(README, "python")
    assert text.count("\n") < 30
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "mine.py").write_text(text)
    words = [
        sys.executable,
        "-m",
        "search.cli.main",
        "evaluators",
        "verify",
        "my_package.mine:Shouting",
    ]
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_paths_that_the_documents_name_exist() -> None:
    pattern = re.compile(r"`((?:search|spaces|evaluators|tests|\.github)/[\w/.-]+?)`")
    named = {path for text in DOCUMENTS.values() for path in pattern.findall(text)}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    assert len(named) > 5
