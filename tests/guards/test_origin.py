"""A foreign package under one of our names is refused, with the fix in one line."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from search.origin import HOME, PACKAGES, OriginError, check_origin


def make_package(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("")
    return folder / name


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that Python searches first, with a stranger's `spaces` in it."""
    folder = tmp_path / "site-packages"
    make_package(folder, "spaces")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    importlib.invalidate_caches()
    return folder


def test_our_own_packages_are_accepted() -> None:
    check_origin()


def test_packages_lie_beside_each_other() -> None:
    assert all((HOME / name / "__init__.py").is_file() for name in ("search", *PACKAGES))


def test_foreign_package_is_refused_with_its_place_and_the_fix(foreign: Path) -> None:
    with pytest.raises(OriginError) as refusal:
        check_origin()
    text = str(refusal.value)
    assert str(foreign / "spaces") in text
    assert "pip uninstall -y spaces" in text
    assert "\n" not in text


def test_foreign_folder_outside_an_environment_is_to_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_package(tmp_path, "evaluators")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evaluators", raising=False)
    with pytest.raises(OriginError, match=f"rename {place}"):
        check_origin()


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OriginError, match="package spaces is missing"):
        check_origin(tmp_path)


def test_check_does_not_import_what_it_checks(foreign: Path) -> None:
    (foreign / "spaces" / "__init__.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(OriginError):
        check_origin()


def test_error_survives_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(OriginError("package spaces comes from elsewhere")))
    assert str(error) == "package spaces comes from elsewhere"
    assert error.exit_code == 2


def test_check_needs_the_standard_library_alone() -> None:
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1]); from search.origin import check_origin; check_origin();"
        "print([n for n in sys.modules if n in ('spaces', 'evaluators', 'pydantic', 'yaml')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, str(HOME)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
