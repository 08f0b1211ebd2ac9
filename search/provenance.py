"""What is needed to run a study again: commit, versions, machine. Imports none of the packages it asks about."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "apportion",
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "optuna",
    "ray",
    "lm_eval",
    "moocore",
)
"""Distributions whose versions a result depends on."""

HOME = Path(__file__).resolve().parent.parent


def provenance(home: Path = HOME) -> dict[str, Any]:
    """Return what is known about the code and the machine, as plain JSON.

    Args:
        home: Folder of the code; its commit is named if it is the top of a git checkout.

    Returns:
        `commit` and `is_modified` (None outside a checkout), `versions` (installed packages by name), `python`,
        `platform`, and `machine` with `cpu`, `n_cpus`, `n_usable_cpus` and `cuda_devices` (None while torch is not
        loaded: asking it would load it).
    """
    commit, is_modified = _commit(home)
    return {
        "commit": commit,
        "is_modified": is_modified,
        "versions": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": {
            "cpu": _cpu_name(),
            "n_cpus": os.cpu_count(),
            "n_usable_cpus": _usable_cpus(),
            "cuda_devices": _cuda_devices(),
        },
    }


def _commit(home: Path) -> tuple[str | None, bool | None]:
    # A checkout around an installed copy, such as one that has .venv inside, is not ours.
    if not (home / ".git").exists():
        return None, None
    commit = _git(home, "rev-parse", "HEAD")
    changes = _git(home, "status", "--porcelain", "--untracked-files=no")
    return commit or None, None if changes is None else bool(changes)


def _git(home: Path, *arguments: str) -> str | None:
    """Return what git says, or None where there is no git or no commit yet."""
    try:
        done = subprocess.run(
            ["git", "-C", str(home), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_name() -> str | None:
    """Return the processor's name; Linux keeps it in a file, other systems in `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, None) or platform.processor() or None


def _usable_cpus() -> int | None:
    """Return the CPUs this process may use, which containers limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cuda_devices() -> list[str] | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    cuda = torch.cuda
    return [cuda.get_device_name(index) for index in range(cuda.device_count())]
