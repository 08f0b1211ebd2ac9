"""Fixtures of whole studies on a tiny model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import STUDY, command, environment, write_data, write_model


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with study.yaml, data and a random two-layer Llama."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder / "model")
    write_data(folder)
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture
def apportion(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `apportion` as a user does, in a folder of its own."""

    def run(
        *words: str, timeout: float = 240, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*words),
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
        return done

    return run
