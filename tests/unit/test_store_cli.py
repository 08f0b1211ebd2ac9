"""`apportion store ls|verify|gc`: facts on lines, JSON for machines, exit codes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import typer
from store_tools import Clock, digest_of, put
from typer.testing import CliRunner, Result

from search.cli.store import app, parse_size, size_text
from search.store import StageStore, StoreError

A, B = sorted(digest_of(name) for name in "ab")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def root(tmp_path: Path) -> str:
    store = StageStore(tmp_path / "store", clock=Clock(time.time() - 7200))
    put(store, A, {"x": b"1" * 12_000}, seconds=30)
    put(store, B, {"x": b"1" * 500}, seconds=600, parent=A)
    store.pin("demo", [B])
    return store.root


def test_ls_shows_an_entry_a_line(root: str) -> None:
    lines = run("ls", root).stdout.splitlines()
    assert lines == [
        f"{A}     12 kB  trained 30 s, used 2.0 h ago",
        f"{B}     500 B  trained 10 min, used 2.0 h ago  pinned by demo",
        "2 entries, 12.5 kB",
    ]


def test_ls_as_json_has_whole_facts(root: str) -> None:
    data = json.loads(run("ls", root, "--json").stdout)
    assert data["bytes"] == 12_500
    first, second = data["entries"]
    assert (first["digest"], first["seconds"], first["pins"]) == (A, 30.0, [])
    assert (second["parent"], second["pins"]) == (A, ["demo"])
    assert 7200 <= second["idle_seconds"] < 7300


def test_verify_of_a_sound_store_ends_with_0(root: str) -> None:
    result = run("verify", root)
    assert (result.exit_code, result.stdout) == (0, "2 entries, nothing wrong\n")
    assert json.loads(run("verify", root, "--json").stdout) == {"faults": []}


def test_verify_names_what_is_damaged_and_ends_with_1(root: str) -> None:
    path = StageStore(root).fetch(A) / "x"
    path.chmod(0o644)
    path.write_bytes(b"2" * 12_000)
    result = run("verify", root)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{path.relative_to(root)}: does not match its checksum",
        "2 entries, 1 fault",
    ]
    (fault,) = json.loads(run("verify", root, "--json", "--quarantine").stdout)["faults"]
    assert fault["digest"] == A
    assert run("verify", root).stdout == "1 entry, nothing wrong\n"


def test_gc_tells_what_went_and_why_the_rest_stays(root: str) -> None:
    StageStore(root).unpin("demo")
    dry = run("gc", root, "--max-size", "1kB", "--dry-run")
    line = f"{A}     12 kB  trained 30 s"
    assert dry.stdout.splitlines() == [line, "1 entry would go, 1 entry of 500 B left"]
    assert StageStore(root).find(A) is not None
    StageStore(root).pin("demo", [B])
    kept = run("gc", root, "--max-size", "0", "--json")
    assert json.loads(kept.stdout) == {"evicted": [], "dry_run": False, "bytes": 12_500}
    StageStore(root).unpin("demo")
    done = run("gc", root, "--max-size", "1kB")
    assert done.stdout.splitlines() == [line, "1 entry evicted, 1 entry of 500 B left"]
    StageStore(root).touch(B)
    assert run("gc", root, "--max-size", "0").stdout.splitlines() == [
        "0 entries evicted, 1 entry of 500 B left",
        "what is left is pinned, needed by what is left, or in use",
    ]
    assert run("gc", root, "--max-size", "0", "--idle-seconds", "0").exit_code == 0
    assert list(StageStore(root).entries()) == []


@pytest.mark.parametrize("command", ["ls", "verify", "gc"])
def test_commands_make_no_store(command: str, tmp_path: Path) -> None:
    words = ["--max-size", "1"] if command == "gc" else []
    result = run(command, str(tmp_path / "none"), *words)
    assert isinstance(result.exception, StoreError)
    assert "no store here" in str(result.exception)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", [[], ["ls"], ["verify"], ["gc"]])
def test_help_has_examples(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "apportion store" in result.stdout.split("Examples:")[1]


def test_without_a_command_there_is_help() -> None:
    assert "verify" in run().stdout


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("0", 0),
        ("12", 12),
        ("20GB", 20_000_000_000),
        ("20G", 20_000_000_000),
        ("1.5 GiB", 1_610_612_736),
        ("5kB", 5000),
        ("5KB", 5000),
        ("3M", 3_000_000),
        ("2TiB", 2_199_023_255_552),
        ("7B", 7),
    ],
)
def test_sizes_are_read(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "x", "-1", "1 PB", "1,5GB", "GB", "1e9", "1iB", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 20GB, 500MB or bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (34 * 10**11, "3.4 TB")],
)
def test_sizes_are_said(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text
