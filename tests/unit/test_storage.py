"""Where a study's database is, whatever folder a command was started in."""

from __future__ import annotations

from pathlib import Path

import pytest

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
