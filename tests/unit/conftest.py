"""The good study of tests/unit/malformed, copied to a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

GOOD = Path(__file__).parent / "malformed" / "good"


@pytest.fixture
def good_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a study without errors, make its model folder, work there, and return its file's name."""
    shutil.copytree(GOOD, tmp_path, dirs_exist_ok=True)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"num_hidden_layers": 4}')
    (model / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    return Path("study.yaml")
