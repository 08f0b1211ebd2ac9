"""A trial with rungs: its recipe's models and scores are the same, and stopped inside a stage it lets go of all."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from tiny import STUDY, write_data, write_model

from search.folders import TrialFolder
from search.lab import Lab
from search.records import Proposal, TrialRecord
from search.store import StageStore
from search.trial import TrialRun
from search.yaml_file import load_study
from spaces.recipe import Full, Lora, Recipe, Stage

RUNGS = "stopping: {rungs: [0.3, 0.6]}\n"
RECIPE = Recipe(
    stages=(
        Stage(
            influence="tone",
            method="sft",
            adapter=Lora(rank=2, alpha=4.0, dropout=0.1),
            mix={"chat": 1.0},
            dose_tokens=1200,
            learning_rate=1e-2,
        ),
        Stage(
            influence="form",
            method="sft",
            adapter=Full(),
            mix={"chat": 1.0},
            dose_tokens=1200,
            learning_rate=1e-3,
        ),
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rungs")
    write_model(path / "model")
    write_data(path)
    return path


def lab(folder: Path, text: str = "", store: StageStore | None = None) -> Lab:
    (folder / "study.yaml").write_text(STUDY + text)
    return Lab.load(load_study(folder / "study.yaml"), folder, store)


def begun(one: Lab, path: Path, recipe: Recipe = RECIPE, number: int = 1) -> TrialRun:
    return TrialRun(one, TrialFolder(path / f"{number:04d}"), Proposal(number, {}, recipe, None))


def ended(trial: TrialRun) -> tuple[TrialRecord, int]:
    n_steps = 1
    while not trial.step():
        n_steps += 1
    return trial.record, n_steps


def substance(record: TrialRecord) -> tuple[object, ...]:
    return (
        record.state,
        [(stage.digest, stage.loss_by_step) for stage in record.stages],
        [(at.digest, at.scores, at.holdout) for at in record.boundaries],
    )


def stop_on_disk(trial: TrialRun, path: Path) -> None:
    """Do what the study does when its rule gives a trial up."""
    ended = {"state": "PRUNED", "reason": "stopped at 30 % of stage 1 of 2: cannot reach the front"}
    TrialFolder(path / "0001").write_record(trial.record.model_copy(update=ended))


def test_rungs_change_neither_models_nor_scores(folder: Path, tmp_path: Path) -> None:
    plain, n_plain = ended(begun(lab(folder), tmp_path / "plain"))
    record, n_steps = ended(begun(lab(folder, RUNGS), tmp_path / "rungs"))
    assert substance(record) == substance(plain)
    assert (n_plain, n_steps) == (2, 6)
    assert not plain.rungs
    places = [(rung.n_stages, rung.share) for rung in record.rungs]
    assert places == [(0, 0.3), (0, 0.6), (1, 0.3), (1, 0.6)]
    names = [score.name for score in record.boundaries[0].scores]
    assert [[score.name for score in rung.scores] for rung in record.rungs] == [names] * 4
    # Scores move from rung to rung: each is of a model of its own.
    assert len({repr(rung.scores) for rung in record.rungs}) == 4
    for rung in record.rungs:
        stage = record.stages[rung.n_stages]
        assert rung.trained_tokens == pytest.approx(rung.share * 1200, abs=60)
        assert 0 < rung.train_seconds < stage.train_seconds
    assert record.open_rung is None
    assert record.trained_tokens == plain.trained_tokens


def test_without_early_stopping_there_are_no_rungs(folder: Path, tmp_path: Path) -> None:
    text = RUNGS.replace("{", "{enabled: false, ")
    record, n_steps = ended(begun(lab(folder, text), tmp_path))
    assert (record.state, record.rungs, n_steps) == ("COMPLETE", (), 2)


def test_a_stored_stage_has_no_rungs(folder: Path, tmp_path: Path) -> None:
    one = lab(folder, RUNGS, StageStore(tmp_path / "store"))
    ended(begun(one, tmp_path / "first", RECIPE.prefix(1)))
    record, _ = ended(begun(one, tmp_path / "second"))
    assert [stage.is_stored for stage in record.stages] == [True, False]
    assert {rung.n_stages for rung in record.rungs} == {1}


def test_the_lease_lives_while_the_stage_stands_still_and_ends_with_the_trial(
    folder: Path, tmp_path: Path
) -> None:
    one = lab(folder, RUNGS, StageStore(tmp_path / "store", lease_seconds=0.3))
    n_threads = threading.active_count()
    trial = begun(one, tmp_path)
    assert not trial.step()
    digest = trial._digests[1]
    other = StageStore(tmp_path / "store", owner="another machine")
    assert other.lease(digest) is None
    time.sleep(1.0)  # Three times the life of a lease that nobody renews.
    assert other.lease(digest) is None
    stop_on_disk(trial, tmp_path)
    assert trial.step()
    assert trial.record.state == "PRUNED"
    assert TrialFolder(tmp_path / "0001").read_record() == trial.record
    assert other.find(digest) is None
    lease = other.lease(digest)
    assert lease is not None
    lease.release()
    assert threading.active_count() == n_threads


def test_the_next_trial_after_one_stopped_inside_a_stage_is_as_in_a_new_process(
    folder: Path, tmp_path: Path
) -> None:
    expected, _ = ended(begun(lab(folder), tmp_path / "new"))
    one = lab(folder, RUNGS)
    trial = begun(one, tmp_path)
    # Into the second stage, which trains all weights.
    for _ in range(4):
        assert not trial.step()
    assert trial.record.open_rung is not None
    stop_on_disk(trial, tmp_path)
    assert trial.step()
    record, _ = ended(begun(one, tmp_path, number=2))
    assert substance(record) == substance(expected)


def test_an_evaluation_that_fails_at_a_rung_fails_the_trial_and_frees_the_stage(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = lab(folder, RUNGS, StageStore(tmp_path / "store"))
    trial = begun(one, tmp_path)

    def broken(*_: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(Lab, "measure_model", broken)
    assert trial.step()
    assert (trial.record.state, trial.record.reason) == ("FAIL", "RuntimeError: no room")
    lease = StageStore(tmp_path / "store", owner="another").lease(trial._digests[1])
    assert lease is not None
    lease.release()
