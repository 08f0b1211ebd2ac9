"""`apportion moved` on a study trained for real: what it prints, keeps, trains and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from trained_study import train_study, write_inputs

from search.cli.main import main
from search.explanations import ExplanationFolder
from search.folders import StudyFolder
from search.moved.records import by_kind, by_layer
from spaces.recipe import Full, Lora, Recipe, Stage

TONE = Stage(
    influence="tone",
    method="sft",
    adapter=Lora(rank=2, alpha=4.0, layers="0-0", targets="attention"),
    mix={"chat": 1.0},
    dose_tokens=300,
    learning_rate=1e-2,
)
FORM = TONE.model_copy(update={"influence": "form", "adapter": Full(), "learning_rate": 1e-3})
RECIPE = Recipe(stages=(TONE, FORM))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moved")
    inputs = write_inputs(folder)
    return train_study(folder / "tiny", inputs, {0: Recipe(), 3: RECIPE}).path


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> str:
    shutil.copytree(trained, tmp_path / "tiny")
    return str(tmp_path / "tiny")


def test_moved_says_where_and_keeps_it_and_trains_only_when_asked(
    results: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    picture = Path(results) / "moved.png"
    assert main(["moved", results, "3", "--out", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith(("kept", "picture")))
    assert not any("…" in line for line in lines)
    assert picture.read_bytes().startswith(b"\x89PNG")
    kept = ExplanationFolder(StudyFolder(Path(results))).read_moved(3)
    assert kept is not None
    tone, form = kept.stages
    assert by_layer(tone)[0].share == 1.0
    assert by_layer(tone)[1].size == 0.0
    assert {kind for kind, group in by_kind(tone).items() if group.square} == {"q", "k", "v", "o"}
    assert all(group.square for group in by_kind(form).values())
    rank = by_kind(tone)["q"].effective_rank
    assert rank is not None
    assert rank <= 2.001
    assert tone.activations is not None
    assert form.activations is not None
    # No stage moves what a layer below it gives; and the first stage starts from the base.
    assert tone.activations.from_before[0] == 0.0
    assert tone.activations.from_before == tone.activations.from_base
    assert all(0 < value < 10 for value in form.activations.from_before)
    (pair,) = kept.pairs
    assert (pair.n_matrices, pair.shared) == (4, 1.0)

    # What was measured is shown again without a model; what the store lacks is named, and trained when asked.
    shutil.rmtree(Path(results) / "store")
    assert main(["moved", results, "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stages"][0]["cells"] == [cell.model_dump() for cell in tone.cells]
    assert main(["moved", results, "3", "--again"]) == 2
    error = capsys.readouterr().err
    assert "lacks stage 1 (tone), 2 (form); add --train" in error
    assert "at least 600 tokens" in error
    assert main(["moved", results, "3", "--again", "--train", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["stages"] == told["stages"]
    assert again["pairs"] == told["pairs"]
    assert not (Path(results) / "explanations/.moved").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["99"], "no trial 99; known: 0, 3"),
        (["0"], "untouched base"),
        (["3", "--out", "moved.svg"], "name such as moved.png"),
    ],
)
def test_moved_refuses_in_one_line(
    trained: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["moved", str(trained), *words]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), message in error) == (1, True), error


def test_damaged_file_of_an_earlier_measurement_is_measured_again(trained: Path) -> None:
    explanations = ExplanationFolder(StudyFolder(trained))
    assert explanations.read_moved(3) is None
    explanations.path.mkdir(exist_ok=True)
    explanations.moved_file(3).write_text('{"trial": 3, "recipe": ')
    assert explanations.read_moved(3) is None
    explanations.moved_file(3).unlink()
