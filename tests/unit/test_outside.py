"""Recipes trained for explanations: outside the search, through the store, whole or not at all, and resumable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trained_study import train_study, write_inputs

from search.cli.main import main
from search.errors import StageError
from search.explanations import ExplanationFolder
from search.folders import StudyFolder
from search.records import TrialRecord
from spaces.recipe import Full, Lora, Recipe, Stage

RECIPE = Recipe(
    stages=(
        Stage(
            influence="tone",
            method="sft",
            adapter=Lora(rank=2, alpha=4.0),
            mix={"chat": 1.0},
            dose_tokens=300,
            learning_rate=1e-2,
        ),
        Stage(
            influence="form",
            method="sft",
            adapter=Full(),
            mix={"chat": 1.0},
            dose_tokens=300,
            learning_rate=1e-3,
        ),
    )
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def results(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with the base and one trial of two stages, trained for real."""
    train_study(tmp_path / "results/tiny", inputs, {0: Recipe(), 3: RECIPE})
    monkeypatch.chdir(tmp_path)
    return Path("results/tiny")


def explained(results: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["explain", str(results), "3", "--json", *words]) == 0
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    return told


def outside(results: Path) -> list[TrialRecord]:
    return ExplanationFolder(StudyFolder(results)).records()


def test_what_is_missing_is_named_with_its_cost_and_trained_only_when_asked(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = explained(results, capsys, "--seeds", "1")
    # The study has scored the base, tone, and both; form alone is the one subset that nobody trained.
    assert (before["n_subsets"], before["n_measured"]) == (4, 3)
    (missing,) = before["missing"]  # type: ignore[misc]
    assert (missing["label"], missing["tokens"], missing["seed"]) == ("form", 300, 5)
    assert outside(results) == []
    after = explained(results, capsys, "--train", "--seeds", "1")
    assert (after["n_measured"], after["missing"]) == (4, [])
    (record,) = outside(results)
    assert record.recipe == Recipe(stages=RECIPE.stages[1:])
    kinds = {worth["kind"] for worth in after["worths"]}  # type: ignore[attr-defined]
    assert {"shapley", "interaction", "left_out"} <= kinds
    # The search knows nothing of it: neither its trials nor what they spent.
    assert main(["status", str(results), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"]["COMPLETE"] == 2
    kept = json.loads((results / "explanations/trial-0003.json").read_text())
    assert kept == after


def test_other_orders_and_seeds_start_from_what_is_stored(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = explained(results, capsys, "--train", "--order", "--seeds", "1")
    comparisons = {c["what"]: c for c in told["order"]["comparisons"]}  # type: ignore[index]
    assert set(comparisons) == {
        "form first instead of last",
        "tone once more at the end",
        "form once more at the end",
    }
    by_order = {record.recipe.order_label(): record for record in outside(results)}
    repeated = by_order["tone > form > tone"]
    assert [stage.is_stored for stage in repeated.stages] == [True, True, False]
    assert repeated.trained_tokens == repeated.stages[2].trained_tokens
    told = explained(results, capsys, "--train")
    assert told["n_seeds"] == 2
    assert {record.seed for record in outside(results)} == {5, 6}
    assert (
        main(["train", str(next(results.glob("explanations/recipes/*/recipe.yaml"))), "--out", "m"])
        == 0
    )


def test_a_killed_training_leaves_no_result_and_a_failed_one_its_reason(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import search.prefixes

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    trained = search.prefixes.run_stage
    monkeypatch.setattr(search.prefixes, "run_stage", killed)
    assert main(["explain", str(results), "3", "--train", "--seeds", "1"]) == 130
    assert outside(results) == []

    def failing(*_: object, **__: object) -> None:
        raise StageError("no luck")

    monkeypatch.setattr(search.prefixes, "run_stage", failing)
    told = explained(results, capsys, "--train", "--seeds", "1")
    assert told["notes"] == ["form was trained and failed: StageError: no luck"]
    assert told["n_measured"] == 3
    monkeypatch.setattr(search.prefixes, "run_stage", trained)
    assert explained(results, capsys, "--train", "--seeds", "1")["n_measured"] == 4
    names = sorted(path.name for path in (results / "explanations/recipes").iterdir())
    assert len(names) == 1
    assert not names[0].startswith(".")
