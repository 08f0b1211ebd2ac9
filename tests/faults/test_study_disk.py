"""A disk that is full from any write of a study on: with space again the study opens and goes on to its end.

Trainings are played, so that what writes is the driver: records, study.json, the database. Stages, scores and
checkpoints on a full disk: test_store_disk.py, test_store_checkpoints.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from played import new_study, play, played
from sqlalchemy import Engine, event
from store_tools import NEED_SPACE, disk_full, failing_writes

from search.study import Study

N_TRIALS = 8


@contextmanager
def failing_database(from_change: int) -> Iterator[list[str]]:
    """Let SQLite say that the disk is full, from one of its changes on; yields the changes."""
    changes: list[str] = []

    def before(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
            changes.append(statement)
            if len(changes) >= from_change:
                raise sqlite3.OperationalError("database or disk is full")

    event.listen(Engine, "before_cursor_execute", before)
    try:
        yield changes
    finally:
        event.remove(Engine, "before_cursor_execute", before)


def go_on(study: Study) -> None:
    """Play a study until its budget is met."""
    while (proposal := study.next()) is not None:
        folder = study.folder.trial(proposal.number)
        if (record := folder.read_record()) is None:
            folder.clear()
            form = 0.1 * len(proposal.recipe.stages)
            record = played(proposal, form, kl=0.2 * len(proposal.recipe.stages))
            folder.write_record(record)
        study.finish(record)


def told(study: Study) -> list[tuple[int, str, object]]:
    return [(each.number, each.state, each.recipe) for each in study.folder.records()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, object]]:
    study = new_study(tmp_path_factory.mktemp("undisturbed"))
    go_on(study)
    study.close("done")
    found = told(study)
    assert len(found) == N_TRIALS
    return found


def disturbed(folder: Path, undisturbed: list[tuple[int, str, object]], kind: str, at: int) -> int:
    """Fill the disk from a write on; then go on with space. Return how many writes were reached."""
    study = new_study(folder)
    play(study, 2)
    full = failing_writes(NEED_SPACE, at, disk_full) if kind == "files" else failing_database(at)
    with full as reached, suppress(Exception):
        go_on(study)
    # Whatever ended the process: its hold on the study goes with it.
    with suppress(Exception):
        study.close("killed")
    again = Study.open(study.folder.path, "apportion resume")
    go_on(again)
    assert len(again._asker.finished()) == N_TRIALS
    again.close("done")
    found = told(again)
    assert [each[:2] for each in found] == [each[:2] for each in undisturbed], f"{kind} {at}"
    if (
        kind == "files"
    ):  # a proposal that the database has in part is given up, and another one drawn
        assert found == undisturbed, f"{kind} {at}"
    return len(reached)


FEW = {"files": (7, 20), "database": (5,)}


@pytest.mark.parametrize("kind", FEW)
def test_a_study_goes_on_after_a_full_disk(
    tmp_path: Path, undisturbed: list[tuple[int, str, object]], kind: str
) -> None:
    for at in FEW[kind]:
        (tmp_path / str(at)).mkdir()
        assert disturbed(tmp_path / str(at), undisturbed, kind, at) >= at


@pytest.mark.slow
@pytest.mark.parametrize("kind", FEW)
def test_a_study_goes_on_after_a_disk_that_was_full_from_any_write_on(
    tmp_path: Path, undisturbed: list[tuple[int, str, object]], kind: str
) -> None:
    at = n_reached = 1
    while n_reached >= at:
        (tmp_path / str(at)).mkdir()
        n_reached = disturbed(tmp_path / str(at), undisturbed, kind, at)
        at += 1
    assert at > 20
