"""`apportion confirm` on a tiny model: fresh trainings beside the search, resumable, one failure at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import STUDY, run_here, write_data, write_model

import search.confirmation.replicates as replicates
from search.cli.main import main
from search.confirmation.selection import read_selection
from search.errors import StageError
from search.folders import StudyFolder
from search.recipe_file import read_recipe
from search.records import TrialRecord
from search.trial import TrialRun

SEEDS = replicates.fresh_seeds(5, 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three trials: the base and two recipes, both on the front."""
    folder = tmp_path_factory.mktemp("confirm")
    write_model(folder / "model")
    write_data(folder)
    path = folder / "study.yaml"
    path.write_text(
        STUDY.replace("budget: {trials: 6}", "budget: {trials: 3}\nstopping: {enabled: false}")
    )
    run_here(path)
    return folder


@pytest.fixture
def files(finished: Path, tmp_path: Path) -> StudyFolder:
    """A copy of the results of its own, which is told where the study's data are."""
    shutil.copytree(finished / "results" / "tiny", tmp_path / "tiny")
    return StudyFolder(tmp_path / "tiny")


def trained(files: StudyFolder) -> list[TrialRecord]:
    return [record for record in files.records() if record.recipe.stages]


def chosen(files: StudyFolder) -> str:
    return ",".join(str(record.number) for record in trained(files)[:2])


def confirm(files: StudyFolder, *words: str) -> int:
    return main(["confirm", str(files.path), "--seeds", "2", "--trials", chosen(files), *words])


def substance(files: StudyFolder) -> dict[tuple[int, int], object]:
    """What must be equal whether or not a confirmation was interrupted."""
    records = [folder.read_record() for folder in files.replicate_folders()]
    return {
        (record.number, record.seed): (
            record.state,
            [s.loss_by_step for s in record.stages],
            [(at.digest, at.scores, at.holdout) for at in record.boundaries],
        )
        for record in records
        if record is not None
    }


def test_replicates_are_fresh_trainings_beside_the_search(
    files: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [record.number for record in files.records()]
    assert confirm(files, "--json") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["seeds"] == sorted(SEEDS)
    assert "replicate 4 of 4" in said.err
    assert "left" in said.err
    assert "note: The study has no rows for selection, so luck with the items" in said.err
    assert [record.number for record in files.records()] == before
    searched = {record.number: record for record in trained(files)}
    for folder in files.replicate_folders():
        record = folder.read_record()
        assert record is not None
        own = searched[record.number]
        assert record.recipe == own.recipe
        assert record.seed in SEEDS
        assert read_recipe(folder.recipe).seed == record.seed
        assert record.stages[0].seed != own.stages[0].seed
        assert record.stages[0].loss_by_step != own.stages[0].loss_by_step
        assert [at.n_stages for at in record.boundaries] == [len(own.recipe.stages)]
        assert record.boundaries[0].holdout
        assert list(folder.read_items(record.boundaries[0].n_stages, True))
    text = (files.report / "report.md").read_text()
    assert "\n## Confirmation\n" in text
    assert 'id="confirmation"' in (files.report / "report.html").read_text()


def test_killed_confirmation_goes_on_and_ends_as_an_uninterrupted_one(
    files: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = StudyFolder(tmp_path / "whole")
    shutil.copytree(files.path, whole.path)
    assert confirm(whole) == 0
    n_begun = []
    real = TrialRun.step

    def killed_in_the_second(run: TrialRun) -> bool:
        n_begun.append(run.record.seed)
        if len(n_begun) == 3:  # each trial here begins anew: one or two steps
            raise KeyboardInterrupt
        return real(run)

    monkeypatch.setattr(TrialRun, "step", killed_in_the_second)
    assert confirm(files) == 130
    n_kept = len([state for state, *_ in substance(files).values() if state == "COMPLETE"])  # type: ignore[misc]
    assert 0 < n_kept < 4
    monkeypatch.undo()
    ran: list[int] = []
    monkeypatch.setattr(TrialRun, "step", lambda run: ran.append(1) or real(run))
    assert confirm(files) == 0
    assert substance(files) == substance(whole)
    assert read_values(files) == read_values(whole)
    ran.clear()
    assert confirm(files) == 0
    assert ran == []  # nothing was left to train


def read_values(files: StudyFolder) -> list[object]:
    found = json.loads(files.confirmation_json.read_text())
    return [found["trials"], found["comparisons"], found["noise"]]


def test_failure_in_one_replicate_leaves_the_rest_and_is_tried_again(
    files: StudyFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = TrialRun._train
    first = trained(files)[0]

    def failing(run: TrialRun) -> object:
        if (run.record.number, run.record.seed) == (first.number, SEEDS[0]):
            raise StageError("loss is not finite at step 2")
        return real(run)

    monkeypatch.setattr(TrialRun, "_train", failing)
    assert confirm(files) == 0
    said = capsys.readouterr()
    assert (
        f"trial {first.number}, seed {SEEDS[0]} failed: StageError: loss is not finite" in said.err
    )
    assert f"missing: trial {first.number}, seed {SEEDS[0]}: StageError: loss" in said.out
    assert ", 1 seeds" in said.out
    assert ", 2 seeds" in said.out
    monkeypatch.undo()
    assert confirm(files) == 0
    assert "missing:" not in capsys.readouterr().out


def test_wrong_trials_are_refused_in_one_line(
    files: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    base = next(record.number for record in files.records() if not record.recipe.stages)
    for given, told in (
        ("7,x", "'x' is no trial number; give such as 7,12"),
        ("999", "no trial 999; complete: "),
        (str(base), "is the untouched base, which needs no training"),
    ):
        assert main(["confirm", str(files.path), "--trials", given]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1


def test_other_data_than_the_search_had_are_refused(
    files: StudyFolder, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved, ignore=shutil.ignore_patterns("results"))
    (moved / "ask.jsonl").write_text('{"prompt": "Who is there?"}\n')
    file = files.read_file()
    files.write_file(file.model_copy(update={"root": str(moved)}))
    assert confirm(files) == 2
    assert "scored by another suite or other data" in capsys.readouterr().err
    assert files.replicate_folders() == []


def test_two_processes_do_not_confirm_one_study_at_once(
    files: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with replicates.only_one(files):
        assert confirm(files) == 2
    assert "another process confirms this study" in capsys.readouterr().err


def test_rows_of_the_selection_are_asked_in_confirmation_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "model")
    write_data(tmp_path)
    parts = ["dev", "fresh"]
    lines = [
        json.dumps({"prompt": [{"role": "user", "content": text}], "part": parts[at % 2]})
        for at, text in enumerate(("Sing a song.", "Count to ten.", "Who are you?", "Good night!"))
    ]
    (tmp_path / "ask.jsonl").write_text("\n".join(lines) + "\n")
    text = STUDY.replace(
        "ask: {path: ask.jsonl, format: prompt}",
        "ask: {path: ask.jsonl, format: prompt, parts: {field: part, search: [dev], selection: [fresh]}}",
    ).replace("budget: {trials: 6}", "budget: {trials: 2}\nstopping: {enabled: false}")
    (tmp_path / "study.yaml").write_text(text.replace("score: taste.margin", "score: short"))
    files = run_here(tmp_path / "study.yaml")

    def prompts(part: str) -> set[str]:
        return {
            row["prompt"][0]["content"] for row in map(json.loads, lines) if row["part"] == part
        }

    for record in files.records():
        own = files.trial(record.number).read_items(len(record.recipe.stages), False)
        assert {item.prompt for item in own if item.evaluator == "short"} == prompts("dev")
    (trained_one,) = trained(files)
    words = ["confirm", str(files.path), "--seeds", "2", "--trials", str(trained_one.number)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "luck with the items of the search stays" not in said.err + said.out
    replicated = {
        (int(each.path.parent.name), int(each.path.name)) for each in files.replicate_folders()
    }
    assert replicated == {(0, SEEDS[0])} | {(trained_one.number, seed) for seed in SEEDS}
    for folder in files.replicate_folders():
        result = read_selection(folder)
        assert result is not None
        # Of the suite, `short` alone reads a source with such rows.
        assert [score.name for score in result.scores] == ["short"]
        assert {item.prompt for item in result.items} == prompts("fresh")
    text = (files.report / "report.md").read_text()
    assert "short (fresh items)" in text
    # Nothing is left to do, until a replicate lacks its answers.
    assert main(words) == 0
    assert "to train" not in capsys.readouterr().err
    files.replicate(trained_one.number, SEEDS[1]).selection.unlink()
    assert main(words) == 0
    assert "1 replicate to train" in capsys.readouterr().err
