"""Commands that only read must start at once: they load neither torch nor Ray nor Optuna."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from search.cli.init import write_example

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "ray",
    "optuna",
    "datasets",
    "lm_eval",
    "plotly",
    "matplotlib",
)
PROBE = """
import json, sys
from search.cli.main import main
code = main(sys.argv[1:])
print()
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run_probe(*words: str) -> tuple[int, set[str]]:
    """Run a command line in a fresh interpreter; return its exit code and what it had loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    return code, set(loaded)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("example") / "study"
    write_example("inner_voice", folder)
    return str(folder / "study.yaml")


@pytest.mark.parametrize("command", ["check", "plan"])
def test_command_on_a_study_loads_no_training_library(command: str, study: str) -> None:
    code, loaded = run_probe(command, study)
    assert code == 0
    assert loaded & set(HEAVY) == set()


@pytest.mark.parametrize("words", [["--help"], ["schema"], ["init", "--list"]])
def test_command_without_a_study_loads_no_training_library(words: list[str]) -> None:
    code, loaded = run_probe(*words)
    assert code == 0
    assert loaded & set(HEAVY) == set()


def test_the_probe_would_notice(tmp_path: Path) -> None:
    probe = "import optuna\n" + PROBE
    done = subprocess.run(
        [sys.executable, "-c", probe, "schema"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "optuna" in json.loads(done.stdout.splitlines()[-1])[1]
