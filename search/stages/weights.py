"""Weight files of a base: find them, convert a GGUF checkpoint once, and name their content.

The cache is $APPORTION_CACHE, else ~/.cache/apportion. Anything in it can be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CONVERTER_VERSION = "1"
"""Changes when the conversion of GGUF files changes its result."""


def cache_folder() -> Path:
    """Return the user's cache folder; it need not exist."""
    chosen = os.environ.get("APPORTION_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "apportion"


def converted_gguf(folder: Path, gguf_file: str) -> Path:
    """Return a folder with a GGUF checkpoint as float32 safetensors and its tokenizer, converted if need be.

    A process that finds another one converting the same file waits for it.
    """
    digest = hashlib.sha256(f"{CONVERTER_VERSION}:{gguf_file}:".encode())
    digest.update(file_hash(folder / gguf_file).encode())
    target = cache_folder() / digest.hexdigest()
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_suffix(".lock")):
        if not target.is_dir():
            part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
            try:
                _convert(folder, gguf_file, part)
                os.replace(part, target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return target


def content_hash(folder: Path) -> str:
    """Return the SHA-256 of a folder's safetensors and configuration."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        digest.update(f"{path.name}:{file_hash(path)}\n".encode())
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """Return the SHA-256 of all that decides how a tokenizer and its chat template read text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [
        type(tokenizer).__name__,
        backend.to_str() if backend is not None else str(sorted(tokenizer.get_vocab().items())),
        str(tokenizer.chat_template),
        str(sorted(tokenizer.special_tokens_map.items())),
    ]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def file_hash(path: Path) -> str:
    """Return a file's SHA-256, remembered in the cache until its size or time of change differ."""
    path = path.resolve()
    state = path.stat()
    key = hashlib.sha256(f"{path}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "hashes" / key
    if note.is_file() and len(known := note.read_text()) == 64:
        return known
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    note.parent.mkdir(parents=True, exist_ok=True)
    part = note.with_name(f"{key}.{uuid.uuid4().hex[:8]}.part")
    part.write_text(found)
    os.replace(part, note)
    return found


def _convert(folder: Path, gguf_file: str, out: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf_file, dtype=torch.float32, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file, trust_remote_code=False)
    # The weights are plain float32 by now, but transformers still takes them for quantised ones.
    for holder, name in (
        (model.config, "quantization_config"),
        (model.config, "_is_quantized"),
        (model, "hf_quantizer"),
        (model, "quantization_method"),
    ):
        vars(holder).pop(name, None)
    model.is_quantized = False
    model.config._name_or_path = ""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
