"""Provenance says what ran, as plain JSON, and loads nothing for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from search import provenance as module
from search.provenance import provenance


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_provenance_is_plain_json() -> None:
    facts = provenance()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_versions_are_those_of_installed_packages_only() -> None:
    versions = provenance()["versions"]
    assert versions["apportion"] == "0.1.0"
    assert versions["numpy"].startswith("2.")
    assert None not in versions.values()


def test_folder_that_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    facts = provenance(tmp_path)
    assert (facts["commit"], facts["is_modified"]) == (None, None)


def test_checkout_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert provenance(tmp_path)["commit"] is None


def test_commit_is_named_and_changes_to_tracked_files_are_noticed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.txt").write_text("1")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    (tmp_path / "notes.txt").write_text("not tracked")
    facts = provenance(tmp_path)
    assert (facts["commit"], facts["is_modified"]) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "a.txt").write_text("2")
    assert provenance(tmp_path)["is_modified"] is True


def test_commit_of_a_checkout_around_an_installed_copy_is_not_ours(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.txt").write_text("1")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    inside = tmp_path / ".venv" / "site-packages"
    inside.mkdir(parents=True)
    assert provenance(inside)["commit"] is None


def test_machine_without_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert provenance(tmp_path)["commit"] is None


def test_cuda_devices_are_asked_for_only_where_torch_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert provenance()["machine"]["cuda_devices"] is None
    cuda = SimpleNamespace(device_count=lambda: 2, get_device_name=lambda i: f"GPU {i}")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert provenance()["machine"]["cuda_devices"] == ["GPU 0", "GPU 1"]


def test_provenance_loads_none_of_the_packages_it_names() -> None:
    probe = (
        "import sys; from search.provenance import provenance; provenance();"
        "print([n for n in ('torch', 'ray', 'optuna', 'numpy', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_processor_is_named_where_the_system_says_it() -> None:
    assert module._cpu_name()
