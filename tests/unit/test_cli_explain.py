"""`apportion explain`, `routes` and `recommend` on a written study: what they print, refuse and do not load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import write_study

from search.cli.main import main
from search.folders import StudyFile
from search.spec import BudgetSpec


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    files = write_study(tmp_path_factory.mktemp("explained") / "study", 40)
    files.write_file(
        StudyFile(
            root=str(files.path),
            created_at="2026-11-24T00:00:00+00:00",
            study_hash="0" * 16,
            budget=BudgetSpec(trials=40),
        )
    )
    return str(files.path)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.fixture(params=[80, 120])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def test_output_fits_the_terminal_and_cuts_no_number(
    study: str, columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["explain", study, "8", "--order"],
        ["explain", study],
        ["recommend", study],
        ["routes", study, "--margin", "0.3"],
    ):
        lines = printed(capsys, *words).splitlines()
        assert max(map(len, lines)) <= columns or words[0] == "explain"
        assert not any("…" in line for line in lines), words
        assert all(len(line) <= columns for line in lines if not line.startswith("kept")), words


def test_explanation_counts_what_is_scored_and_prices_the_rest(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(printed(capsys, "explain", study, "8", "--seeds", "1", "--json"))
    assert told["units"] == ["taste", "tone"]
    # The base and both prefixes are boundaries of the trial itself; tone alone, with this dose, nobody tried.
    assert (told["n_measured"], told["n_subsets"]) == (3, 4)
    assert [(each["label"], each["tokens"]) for each in told["missing"]] == [("tone", 1500)]
    assert told["missing"][0]["seconds"] > 0
    text = printed(capsys, "explain", study, "8", "--seeds", "1")
    assert "3 of 4 recipes of its stages are scored; missing: 1 training, 1.5k" in text
    assert "no recipe was trained with two seeds" in " ".join(text.split())
    assert "so       nothing is claimed from one seed of each recipe." in text
    assert not told["claims"]


def test_two_seeds_of_each_recipe_are_asked_for_unless_told_otherwise(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(printed(capsys, "explain", study, "8", "--json"))
    labels = [each["label"] for each in told["missing"]]
    # With the study's own seed tone alone is missing, with the next one all three.
    assert sorted(labels) == ["taste", "taste > tone", "tone", "tone"]


def test_recommendation_and_routes_are_plain_data_too(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = json.loads(printed(capsys, "recommend", study, "--json"))
    assert answer["rule"] == "knee"
    assert answer["sentences"][0].startswith("Why: ")
    bounds = {check["target"]["score"]: check["shortfall"] for check in answer["checks"]}
    assert bounds["retention.kl"] <= 0
    number = answer["trial"]["trial"]
    found = json.loads(printed(capsys, "routes", study, "--json"))
    assert found["routes"][0]["trial"] == number
    assert set(found["margins"]) == {"tone", "taste.gain_accuracy", "retention.kl"}


def test_doses_and_parameters_of_the_whole_study(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(printed(capsys, "explain", study, "--json"))
    assert {row["influence"] for row in told["doses"]} == {"tone", "taste"}
    shares = told["parameters"]["by_objective"]["tone"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert told["parameters"]["warning"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explain", "STUDY", "99"], "no trial 99; known: 20, 21"),
        (["explain", "STUDY", "0"], "untouched base"),
        (["explain", "STUDY", "8", "--budget", "5k"], "add --train"),
        (["explain", "STUDY", "8", "--train", "--budget", "soon"], "such as 20000"),
        (["explain", "STUDY", "8", "--scores", "tune"], "did you mean tone"),
        (["explain", "STUDY", "8", "--margin", "5"], "not between 0 and 1"),
        (["explain", "STUDY", "--train"], "number of a trial"),
        (["recommend", "STUDY", "--target", "tone"], "such as 'structure>=0.9'"),
        (["recommend", "STUDY", "--weights", "tone=1", "--lexicographic", "tone"], "exclude"),
        (["routes", "STUDY", "--like", "4"], "trial 4 is FAIL"),
        (["routes", "nowhere"], "no study here"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    words: list[str], message: str, study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *(study if word == "STUDY" else word for word in words))


def test_explaining_loads_no_training_library(study: str, tmp_path: Path) -> None:
    probe = (
        "import sys; from search.cli.main import main; "
        f"codes = [main(['explain', {study!r}, '8']), main(['recommend', {study!r}]), main(['routes', {study!r}])]; "
        "assert codes == [0, 0, 0]; "
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'ray', 'optuna', 'sklearn', 'peft'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
