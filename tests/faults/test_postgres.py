"""A study on PostgreSQL: its schema, a server that restarts, and connections that are cut in the middle of a write."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from played import STUDY, new_study, optuna_trials, play, study_file
from postgres import Postgres, postgres
from sqlalchemy import event

from search.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture
def on_server(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """The text of a study on the server, which nobody else uses."""
    monkeypatch.setenv("DB_PASSWORD", server.password)
    with server.connect() as connection:
        connection.autocommit = True
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    return STUDY.replace("budget:", f"storage: {server.url}\nbudget:")


def recipes(study: Study) -> list[tuple[int, str, object]]:
    return [(record.number, record.state, record.recipe) for record in study.folder.records()]


def undisturbed(folder: Path) -> list[tuple[int, str, object]]:
    folder.mkdir()
    study = new_study(folder)
    play(study, 8)
    found = recipes(study)
    study.close("done")
    return found


def test_study_begins_resumes_and_ends_as_on_sqlite_and_keeps_the_password_to_itself(
    server: Postgres, on_server: str, tmp_path: Path
) -> None:
    study = new_study(tmp_path, text=on_server)
    play(study, 4)
    study.close("interrupted")
    again = Study.open(tmp_path / "results/played", "apportion resume")
    play(again, 4)
    assert again.next() is None
    assert again.stop_reason == "all 8 trials are done"
    assert recipes(again) == undisturbed(tmp_path / "sqlite")
    again.close("done")
    written = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert not [path for path in written if server.password.encode() in path.read_bytes()]
    assert not (tmp_path / "results/played/study.db").exists()


def test_study_goes_on_when_the_server_was_away(
    server: Postgres, on_server: str, tmp_path: Path
) -> None:
    study = new_study(tmp_path, text=on_server)
    play(study, 3)
    server.stop()
    back = threading.Timer(4, server.start)
    began = time.monotonic()
    back.start()
    play(study, 5)
    back.join()
    assert time.monotonic() - began > 3, "nobody waited for the server"
    assert recipes(study) == undisturbed(tmp_path / "sqlite")
    assert [trial.state.name for trial in optuna_trials(study)] == ["COMPLETE"] * 8
    study.close("done")


@pytest.mark.parametrize("at", ["statement", "commit"])
def test_connection_that_is_cut_in_the_middle_of_a_write_costs_nothing(
    server: Postgres, on_server: str, tmp_path: Path, at: str
) -> None:
    path = study_file(tmp_path, "tpe", on_server)
    study = new_study(tmp_path, text=on_server)
    assert path.exists()
    engine = study._asker._study._storage._backend.engine  # type: ignore[attr-defined]
    n_writes, n_cut, n_commits, n_written = 0, 0, 0, 0

    def cut(connection: Any) -> None:
        nonlocal n_cut
        n_cut += 1
        pid = connection.connection.dbapi_connection.info.backend_pid
        with server.connect() as other:
            other.execute("select pg_terminate_backend(%s, 5000)", (pid,))

    def before(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal n_writes
        if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE"):
            n_writes += 1
            if at == "statement" and n_writes % 7 == 0:
                cut(connection)

    def before_commit(connection: Any) -> None:
        nonlocal n_commits, n_written
        if n_writes == n_written:
            return  # it only read
        n_written = n_writes
        n_commits += 1
        if at == "commit" and n_commits % 5 == 0:
            cut(connection)

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "commit", before_commit)
    play(study, 8)
    assert n_cut > 10
    assert recipes(study) == undisturbed(tmp_path / "sqlite")
    assert [trial.state.name for trial in optuna_trials(study)] == ["COMPLETE"] * 8
    study.close("done")
