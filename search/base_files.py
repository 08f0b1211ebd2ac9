"""Find the files of a base model: hub, folder or installed package. Nothing is loaded, imported or downloaded."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from search.errors import SpecError
from search.messages import value_text
from search.spec import BaseSpec

MAX_INDEX_BYTES = 64 * 1024**2
"""Longest index of weights in bytes; models of a thousand layers have some MiB."""


@dataclass(frozen=True)
class BaseFiles:
    """Where a base model is."""

    kind: Literal["hub", "path", "package"]
    """How the study names it."""
    folder: Path | None
    """Its folder; None on the hub."""
    hub: str | None = None
    """Its id on the hub."""
    revision: str | None = None
    """Hub revision."""
    gguf_file: str | None = None
    """File name of a GGUF checkpoint in the folder or hub repository."""

    @property
    def location(self) -> str:
        """What `from_pretrained` takes: the folder's path or the hub id."""
        return str(self.folder) if self.folder is not None else str(self.hub)


class BaseFilesError(SpecError):
    """The base is not where the study says."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(key, text)
        self.key = key
        self.text = text

    def __str__(self) -> str:
        return f"base.{self.key}: {self.text}"


def resolve_base(spec: BaseSpec, root: Path) -> BaseFiles:
    """Find the files of the base model.

    Args:
        spec: The study's `base`.
        root: Folder of the study file; `path` starts there.

    Raises:
        BaseFilesError: Folder, package, GGUF file, configuration or safetensors are not there (SpecError, one line).
    """
    if spec.gguf_file is not None and Path(spec.gguf_file).name != spec.gguf_file:
        raise BaseFilesError(
            "gguf_file", f"{value_text(spec.gguf_file)} is a path; write the file name"
        )
    if spec.hub is not None:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec.hub):
            raise BaseFilesError("hub", f"{value_text(spec.hub)} is no hub id; write owner/name")
        return BaseFiles("hub", None, spec.hub, spec.revision, spec.gguf_file)
    if spec.package is not None:
        folder = _package_folder(spec.package)
        _check_folder("package", folder, spec.gguf_file)
        return BaseFiles("package", folder, gguf_file=spec.gguf_file)
    if spec.path is None:
        raise BaseFilesError("path", "is missing; give one of hub, path and package")
    folder = root / spec.path
    if not os.path.isdir(folder):  # pathlib raises for names that are too long
        what = "is a file" if os.path.exists(folder) else "does not exist"
        raise BaseFilesError("path", f"{folder} {what}; name the folder that holds the model")
    _check_folder("path", folder, spec.gguf_file)
    return BaseFiles("path", folder, gguf_file=spec.gguf_file)


def base_name(base: BaseSpec) -> str:
    """Return what the base is called, without the folders it lies in."""
    named = base.hub or base.package or (Path(base.path).name if base.path else "") or "base"
    parts = [named, base.gguf_file, f"{base.bits} bits" if base.bits else None]
    return ", ".join(part for part in parts if part)


def _package_folder(package: str) -> Path:
    # A dotted name would make find_spec import the parents.
    if not package.isidentifier():
        raise BaseFilesError(
            "package", f"{value_text(package)} is no package name; write it as imported"
        )
    found = importlib.util.find_spec(package)
    if found is None:
        raise BaseFilesError(
            "package", f"{package} is not installed; install it, or correct the name"
        )
    if not found.submodule_search_locations:
        raise BaseFilesError("package", f"{package} is a single file; name a package with a folder")
    return Path(next(iter(found.submodule_search_locations)))


def _check_folder(key: str, folder: Path, gguf_file: str | None) -> None:
    if gguf_file is not None:
        if not os.path.isfile(folder / gguf_file):
            found = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "none"
            raise BaseFilesError(
                "gguf_file",
                f"{value_text(gguf_file)} is not in {folder}; GGUF files there: {found}",
            )
        return
    if not (folder / "config.json").is_file():
        raise BaseFilesError(
            key, f"{folder} holds no config.json; name the folder that holds the model"
        )
    if not any(folder.glob("*.safetensors")):
        raise BaseFilesError(
            key, f"{folder} holds no .safetensors; save the model with save_pretrained"
        )
    if (folder / "adapter_config.json").exists():
        raise BaseFilesError(
            key, f"{folder} holds an adapter; merge it into its base and name the folder of that"
        )
    _check_index(key, folder / "model.safetensors.index.json")


def _check_index(key: str, path: Path) -> None:
    """Refuse an index that leads to other files than the safetensors beside it, such as a pickle."""
    if not path.is_file():
        return
    try:
        with path.open("rb") as stream:
            names = set(json.loads(stream.read(MAX_INDEX_BYTES))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise BaseFilesError(key, f"{path} is no index of weights; save the model anew") from None
    for name in names:
        is_plain = isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name)
        if not is_plain or not (path.parent / name).is_file():
            text = (
                f"{path} names {value_text(name)}, no .safetensors beside it; save the model anew"
            )
            raise BaseFilesError(key, text)
