"""`apportion compare` on written studies: what it prints, refuses and does not load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from confirmation_fixture import write_confirmed_study
from report_fixture import HOSTILE, write_study

from search.cli.main import main
from search.confirmation.analysis import analyse
from search.folders import StudyFile, StudyFolder
from search.spec import BudgetSpec


def as_study(files: StudyFolder) -> str:
    files.write_file(
        StudyFile(
            root=str(files.path),
            created_at="2026-11-24T00:00:00+00:00",
            study_hash="0" * 16,
            budget=BudgetSpec(trials=40),
        )
    )
    return str(files.path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    return as_study(write_study(tmp_path_factory.mktemp("compared") / "study", 14))


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["compare", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", ["80", "120"])
def test_output_fits_the_terminal(
    study: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for words in ([study, "3", "8"], [study, "base", "8", "--samples", "6"]):
        lines = printed(capsys, *words).splitlines()
        assert all(len(line) <= int(columns) for line in lines)
        assert not any("…" in line for line in lines)


def test_both_directions_say_the_same_with_other_signs(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = json.loads(printed(capsys, study, "base", "8", "--json"))
    other = json.loads(printed(capsys, study, "8", "base", "--json"))
    swapped = {"better": "worse", "worse": "better"}
    assert {row["verdict"] for row in one["scores"]} >= {"better", "worse"}
    for row, back in zip(one["scores"], other["scores"], strict=True):
        assert row["name"] == back["name"]
        assert back["verdict"] == swapped.get(row["verdict"], row["verdict"])
        if row["difference"]:
            assert back["difference"]["value"] == pytest.approx(-row["difference"]["value"])
            assert back["difference"]["low"] == pytest.approx(-row["difference"]["high"])
    assert any(row["is_holdout"] for row in one["scores"])
    assert one["a_cost"]["n_stages"] == 0


def test_fresh_seeds_are_compared_where_both_have_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_confirmed_study(tmp_path / "study")
    study = as_study(files)
    told = json.loads(printed(capsys, study, "1", "2", "--json"))
    (tone,) = [row for row in told["scores"] if row["name"] == "tone"]
    assert tone["n_seeds"] >= 2
    assert any("fresh seeds alone" in note for note in told["notes"])
    trials = files.records()
    confirmation = analyse(files, trials, trials[0], ("tone", "retention.kl"))
    assert confirmation is not None
    (known,) = [
        each
        for each in confirmation.comparisons
        if (each.first, each.second, each.score) == (1, 2, "tone")
    ]
    # As the confirmation says, the other way round: here it is the second less the first.
    assert tone["difference"]["value"] == pytest.approx(-known.difference)
    assert tone["difference"]["stderr"] == pytest.approx(known.stderr)
    assert tone["difference"]["low"] == pytest.approx(-known.high)


def test_another_study_is_compared_only_if_an_equal_suite_scored_it(
    study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = as_study(write_study(tmp_path / "other", 6))
    assert main(["compare", study, "3", f"{other}:3"]) == 2
    assert "scored by different suites" in capsys.readouterr().err
    for place in (study, other):
        for path in Path(place).glob("trials/*/trial.json"):
            path.write_text(
                path.read_text().replace('"suite_version": null', '"suite_version": "v"')
            )
    told = json.loads(printed(capsys, study, "3", f"{other}:2", "--json"))
    assert told["b"] == "trial 2 of other"


def test_replies_cannot_steer_the_terminal(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, study, "base", "8", "--samples", "50")
    assert "\x1b" not in text
    assert HOSTILE.split(">")[0] in text


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("3", "3", "are the same model"),
        ("base", "0", "are the same model"),
        ("3", "99", "no trial 99; known: "),
        ("3", "best", "names no trial"),
        ("3", "nowhere:1", "no study here"),
    ],
)
def test_compare_refuses_in_one_line(
    study: str, a: str, b: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["compare", study, a, b]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), message in error) == (1, True), error


def test_compare_starts_without_torch(study: str) -> None:
    code = (
        "import sys; from search.cli.main import main; main(['compare', sys.argv[1], '3', '8']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'optuna')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, study], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
