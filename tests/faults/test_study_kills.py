"""A driver killed before and after every write to storage and folders: the next launch ends as if nothing had been."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from played import MODELLED, STUDY, optuna_trials, play, study_file

from search import folders
from search.errors import StudyError
from search.study import Study
from search.yaml_file import load_study

N_TRIALS = 6
WRITES = ("create_new_study", "create_new_trial", "set_trial_param", "set_trial_state_values")
WRITES += ("set_trial_user_attr", "set_trial_system_attr", "set_study_system_attr")


class Killed(BaseException):
    """Stands for kill -9: nothing but the test catches it."""


class Gate:
    """Counts the moments before and after each write, and kills at one of them."""

    def __init__(self) -> None:
        self.n_moments = 0
        self.kill_at: int | None = None

    def pass_by(self) -> None:
        self.n_moments += 1
        if self.n_moments == self.kill_at:
            raise Killed

    def around(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.pass_by()
            result = write(*args, **kwargs)
            self.pass_by()
            return result

        return guarded


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    for name in WRITES:
        monkeypatch.setattr(RDBStorage, name, gate.around(getattr(RDBStorage, name)))
    monkeypatch.setattr(folders, "write_whole", gate.around(folders.write_whole))
    monkeypatch.setattr(folders.os, "fsync", lambda handle: None)
    return gate


def launch(folder: Path, sampler: str) -> Study:
    """Begin the study, or go on with it if there is one."""
    folder.mkdir(exist_ok=True)
    text = STUDY.replace("seed: 3", MODELLED).replace("trials: 8", f"trials: {N_TRIALS}")
    path = study_file(folder, sampler, text)
    try:
        return Study.open(folder / "results/played", "apportion resume")
    except StudyError:
        return Study.create(load_study(path), path, folder / "results", "apportion run")


def recipes(study: Study) -> list[tuple[int, str, object]]:
    return [(record.number, record.state, record.recipe) for record in study.folder.records()]


def run_out(folder: Path, sampler: str) -> None:
    study = launch(folder, sampler)
    play(study, N_TRIALS)
    study.next()


def play_out(study: Study) -> None:
    n_left = N_TRIALS - study.spent().trials
    play(study, n_left)
    assert study.next() is None


def check_all_moments(gate: Gate, folder: Path, sampler: str, step: int) -> int:
    """Kill at every `step`-th moment; returns how many kills there were."""
    whole = launch(folder / "whole", sampler)
    play(whole, N_TRIALS)
    assert whole.next() is None
    expected, n_moments = recipes(whole), gate.n_moments
    assert n_moments > 100
    n_kills = 0
    for moment in range(1, n_moments + 1, step):
        here = folder / str(moment)
        gate.n_moments, gate.kill_at = 0, moment
        with pytest.raises(Killed):
            run_out(here, sampler)
        n_kills += 1
        gate.kill_at = None
        gc.collect()  # a dead process holds no lock
        again = launch(here, sampler)
        play_out(again)
        if not sampler.startswith("nsga"):
            # An evolutionary sampler keeps notes of its own in the storage while it proposes; a proposal that was cut
            # short may come out otherwise the second time.
            assert recipes(again) == expected, f"killed at moment {moment} of {n_moments}"
        assert [record.state for record in again.folder.records()] == ["COMPLETE"] * N_TRIALS
        assert [trial.state.name for trial in optuna_trials(again)] == ["COMPLETE"] * N_TRIALS
        again.close("done")
    return n_kills


@pytest.mark.slow
def test_killed_now_and_then_a_study_ends_as_if_it_had_not_been(gate: Gate, tmp_path: Path) -> None:
    assert check_all_moments(gate, tmp_path, "tpe", step=29) > 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sampler", ["stagewise", "random", "tpe", "nsga2", "nsga3"])
def test_killed_at_every_write_a_study_ends_as_if_it_had_not_been(
    gate: Gate, tmp_path: Path, sampler: str
) -> None:
    assert check_all_moments(gate, tmp_path, sampler, step=1) > 100
