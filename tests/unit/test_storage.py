"""Where a study's database is, whatever folder a command was started in."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import event

from search.storage import database_url, open_study

ROOT = Path("/studies/one")


@pytest.mark.parametrize(
    ("storage", "url"),
    [
        ("sqlite:///my.db", "sqlite:////studies/one/my.db"),
        ("sqlite:///sub/my.db?timeout=9", "sqlite:////studies/one/sub/my.db?timeout=9"),
        ("sqlite+pysqlite:///my.db", "sqlite+pysqlite:////studies/one/my.db"),
        ("sqlite:////tmp/my.db", "sqlite:////tmp/my.db"),
        ("sqlite:///file:my.db?uri=true", "sqlite:///file:my.db?uri=true"),
        ("postgresql+psycopg://u:secret@h/d", "postgresql+psycopg://u:secret@h/d"),
        ("no url", "no url"),
    ],
)
def test_relative_sqlite_paths_start_at_the_study_and_all_else_stays(
    storage: str, url: str
) -> None:
    assert database_url(storage, Path("results/one/study.db"), ROOT) == url


@pytest.mark.parametrize("name", ["plain", "a b", "what?", "no #1", "50%", "{x}"])
def test_default_database_is_the_file_in_the_results_whatever_its_folder_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    folder.mkdir()
    open_study(database_url(None, folder / "study.db", ROOT), "s", {"x": "maximise"}, create=True)
    # While it is open, SQLite keeps its log beside it.
    assert {path.name for path in folder.iterdir()} - {"study.db-wal", "study.db-shm"} == {
        "study.db"
    }
    assert list(Path().iterdir()) == [folder]
    elsewhere = tmp_path / name
    url = database_url(None, elsewhere / "study.db", ROOT)
    assert open_study(url, "s", {"x": "maximise"}, create=False).study_name == "s"


def read(study: optuna.Study) -> list[tuple[object, ...]]:
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs, t.constraints)
        for t in study.get_trials(deepcopy=False)
    ]


def test_the_one_who_writes_sees_what_any_reader_sees_after_every_change(tmp_path: Path) -> None:
    url = database_url(None, tmp_path / "study.db", tmp_path)
    study = open_study(url, "s", {"a": "maximise"}, create=True, fence=lambda: None)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    plain = open_study(url, "s", {"a": "maximise"}, create=False)
    draw = random.Random(3)
    running: list[optuna.Trial] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(60):
            if turn == 30:  # another launch
                study = open_study(url, "s", {}, create=False, fence=lambda: None)
                running = [optuna.Trial(study, trial._trial_id) for trial in running]
            how = draw.choice(("ask", "ask", "param", "attr", "constraint", "tell", "fail", "add"))
            if how == "ask" or (not running and how != "add"):
                running.append(study.ask())
            elif how == "add":
                study.add_trial(optuna.create_trial(values=[1.0], user_attrs={"x": turn}))
            else:
                trial = draw.choice(running)
                if how == "param":
                    trial.suggest_float(f"x{turn}", 0, 1)
                elif how == "attr":
                    trial.set_user_attr("a", turn)
                elif how == "constraint":
                    trial.set_constraint(f"c{turn}", 0.5)
                else:
                    running.remove(trial)
                    state = TrialState.FAIL if how == "fail" else None
                    study.tell(trial, None if state else turn, state=state)
            assert read(study) == read(plain), f"{how}, turn {turn}"
    assert {t.state for t in study.get_trials()} >= {TrialState.RUNNING, TrialState.COMPLETE}


def test_looking_at_many_trials_in_flight_reads_none_of_them_again(tmp_path: Path) -> None:
    url = database_url(None, tmp_path / "study.db", tmp_path)
    study = open_study(url, "s", {"a": "maximise"}, create=True, fence=lambda: None)
    for _ in range(8):
        study.ask()
    study.get_trials()
    statements: list[str] = []
    engine = study._storage._backend.engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert len(study.get_trials(deepcopy=False)) == 8
    assert statements == []
