"""The command line: help, usage errors, exit codes, and what starts without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.cli import main as cli
from search.cli.main import app, main
from search.schema import schema_text

COMMANDS = [str(command.name) for command in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: apportion {command}" in out
    assert f"\n    apportion {command}" in out.split("Examples:")[1]
    assert "╭" not in out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in COMMANDS)


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "apportion 0.1.0\n"


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["chek"], ["'chek'", "'check'", "(see `apportion --help`)"]),
        (["check"], ["missing argument 'STUDY'", "(see `apportion check --help`)"]),
        (["check", "--al", "x"], ["--al", "did you mean --all"]),
        (["check", "a", "b"], ["unexpected extra argument", "b"]),
        (["plan", "x", "--n", "many"], ["'--n'", "integer"]),
        (["plan", "x", "--n"], ["--n", "requires an argument"]),
        (["--frobnicate"], ["--frobnicate"]),
        (["init"], ["apportion init DIR"]),
        (
            ["init", "x", "--example", "inner_voise"],
            ["'inner_voise'", "did you mean 'inner_voice'?"],
        ),
        (["check", "nowhere.yaml"], ["nowhere.yaml: there is no such file", "apportion init DIR"]),
        (["check", "."], [".: is a folder"]),
        (
            ["schema", "--out", "no/where.json"],
            ["no/where.json: cannot be written", "another place"],
        ),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    words: list[str],
    fragments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert [fragment for fragment in fragments if fragment not in err] == []
    assert list(tmp_path.iterdir()) == []


def test_interrupt_ends_with_130(
    good_study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.check, "checked_study", interrupt)
    assert main(["check", str(good_study)]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_unexpected_exception_keeps_its_traceback(
    good_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(cli.check, "checked_study", fail)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        main(["check", str(good_study)])


def test_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "search.cli.main", "schema"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("words", [["--help"], ["check", "study.yaml"], ["plan", "study.yaml"]])
def test_light_commands_import_nothing_heavy(good_study: Path, words: list[str]) -> None:
    heavy = ("torch", "ray", "optuna", "transformers", "datasets", "rich")
    code = (
        "import sys; from search.cli.main import main; code = main(sys.argv[1:]);"
        f"print([name for name in {heavy} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


def test_check_as_json_lists_problems_and_still_fails(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good_study.write_text(good_study.read_text().replace("score: style", "score: stile"))
    assert main(["check", str(good_study), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "is_fine": False,
        "problems": [
            {
                "file": "study.yaml",
                "line": 35,
                "place": "objectives[0].score",
                "text": "'stile' is not a score; did you mean 'style'?",
                "is_warning": False,
            }
        ],
    }


def test_check_all_lists_every_error_on_its_line(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = good_study.read_text().replace("score: style", "score: stile")
    good_study.write_text(text.replace("1e-5", "-1.0"))
    assert main(["check", str(good_study), "--all"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[:3] for line in err.splitlines()] == [
        ["error", "study.yaml:22", "influences.taste.learning_rate"],
        ["error", "study.yaml:35", "objectives[0].score"],
    ]


def test_schema_goes_to_stdout_or_whole_into_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()
    out = tmp_path / "s.json"
    assert main(["schema", "--out", str(out)]) == 0
    assert out.read_text() == schema_text()
    assert list(tmp_path.iterdir()) == [out]
