"""A saved model is scored as its trial was, beside the trial or alone; what does not fit is refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from export_tools import full, stage, trained_study, write_inputs

from search.cli.main import main
from search.folders import StudyFolder
from spaces.recipe import Recipe

RECIPES = {
    0: Recipe(),
    1: Recipe(stages=(stage(handoff="stack"),)),
    2: Recipe(stages=(stage(), stage("dpo", full(), learning_rate=1e-2))),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    return trained_study(inputs, tmp_path_factory.mktemp("results") / "tiny", RECIPES)


@pytest.fixture(scope="module")
def saved(results: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Trial 1 as an adapter, trial 2 as plain weights."""
    place = tmp_path_factory.mktemp("saved")
    for number, to in ((1, "peft"), (2, "merged")):
        out = ["--out", str(place / to)]
        assert main(["export", str(results), str(number), "--to", to, *out]) == 0
    return {1: place / "peft", 2: place / "merged"}


def scored(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    capsys.readouterr()
    assert main(["score", *words, "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("number", [1, 2])
def test_a_saved_model_has_the_scores_of_its_trial(
    results: Path, saved: dict[int, Path], number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = scored(capsys, str(results), str(saved[number]), "--against", str(number))
    record = StudyFolder(results).trial(number).read_record()
    assert record is not None
    last = record.boundaries[-1]
    for held, own in (("suite", last.scores), ("holdout", last.holdout)):
        expected = {score.name: score.value for score in own if score.value is not None}
        values = {each["name"]: each["value"] for each in found[held]}  # type: ignore[attr-defined]
        assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    rows = found["differences"]
    assert {row["verdict"] for row in rows} <= {"no difference seen", "unknown"}  # type: ignore[attr-defined]


def test_models_scored_in_one_go_leave_nothing_behind(
    results: Path, saved: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(saved[number]) for number in (1, 2, 1)]
    first, other, again = scored(capsys, str(results), *places)
    assert first == again
    assert first["suite"] != other["suite"]


def test_a_model_is_set_beside_the_base_unless_told_otherwise(
    results: Path, saved: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = scored(capsys, str(results), str(saved[2]))
    assert found["against"] == "base"
    rows = {row["name"]: row for row in found["differences"]}  # type: ignore[attr-defined]
    base = StudyFolder(results).trial(0).read_record()
    assert base is not None
    expected = {score.name: score.value for score in base.boundaries[-1].scores}
    assert {name: rows[name]["a"] for name in expected} == expected


def test_the_table_fits_80_columns_and_names_what_is_compared(
    results: Path,
    saved: dict[int, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["score", str(results), str(saved[1]), "--against", "2"]) == 0
    shown = capsys.readouterr().out
    assert "trial 2" in shown
    assert max(map(len, shown.splitlines())) <= 80 + len(str(saved[1]))
    study = StudyFolder(results).read_file().root
    assert main(["score", f"{study}/study.yaml", str(saved[1])]) == 0
    assert "(holdout)" in capsys.readouterr().out


def test_what_does_not_fit_is_refused_in_one_line(
    results: Path, saved: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(saved[1], pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    imports = tmp_path / "imports"
    shutil.copytree(saved[1], imports)
    config = json.loads((imports / "adapter_config.json").read_text())
    hostile = {**config, "megatron_config": {}, "megatron_core": "antigravity"}
    (imports / "adapter_config.json").write_text(json.dumps(hostile))
    study = f"{StudyFolder(results).read_file().root}/study.yaml"
    for words, told in (
        ([str(results), "nowhere"], "no such folder"),
        (["nowhere.yaml", str(saved[1])], "no such file or folder"),
        ([str(results), str(pickled)], "save the adapter as safetensors"),
        ([str(results), str(imports)], "it must name no module of Megatron's"),
        ([str(results), str(tmp_path)], "config.json"),
        ([study, str(saved[1]), "--against", "1"], "a study file has no trials"),
    ):
        capsys.readouterr()
        assert main(["score", *words]) == 2
        (line,) = [each for each in capsys.readouterr().err.splitlines() if "error:" in each]
        assert told in line
