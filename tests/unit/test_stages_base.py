"""Claims about the resident base and the files it comes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from stage_tools import full, logits, lora, model_folder, resident, run, stage, weights

from search.errors import SpecError, StageError
from search.spec import BaseSpec
from search.stages import weights as files
from search.stages.base_model import ResidentBase


def test_fresh_restores_the_base_bit_for_bit() -> None:
    base = resident()
    ref = base.fresh()
    before, output = weights(ref.model), logits(ref.model)
    modules = {name: type(module) for name, module in ref.model.named_modules()}
    run(ref, stage(adapter=full()))
    run(ref, stage(adapter=lora(), handoff="merge"))
    run(ref, stage("dpo", adapter=lora(dora=True), handoff="stack"))
    ref.model.config.use_cache = False
    ref.model.train()
    ref = base.fresh()
    after = weights(ref.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(output, logits(ref.model))
    assert modules == {name: type(module) for name, module in ref.model.named_modules()}
    assert ref.model.config.use_cache
    assert not ref.model.training
    assert all(parameter.requires_grad for parameter in ref.model.parameters())
    assert ref.adapters == []
    assert not ref.is_base_changed
    assert isinstance(ref.model.lm_head.weight, torch.nn.Parameter)
    assert ref.model.lm_head.weight is ref.model.model.embed_tokens.weight


def test_only_weights_that_changed_are_kept_twice() -> None:
    spec = BaseSpec(path=str(model_folder()))
    base = ResidentBase.load(spec, Path(), "cpu", "float32", 1)
    run(base.fresh(), stage(handoff="stack"))
    assert base.kept_names == set()
    run(base.fresh(), stage(adapter=lora(targets="q_proj", layers="1-1")))
    assert base.kept_names == {"model.layers.1.self_attn.q_proj.weight"}


def test_fresh_after_a_stage_that_failed_is_the_base() -> None:
    base = resident()
    before = weights(base.fresh().model)
    with pytest.raises(StageError, match="the loss is nan"):
        run(base.fresh(), stage(adapter=full(), learning_rate=1e39))
    after = weights(base.fresh().model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_fingerprint_names_weights_dtype_and_tokenizer(tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    def fingerprint(folder: Path, dtype: str = "float32") -> str:
        spec = BaseSpec(path=str(folder), dtype=dtype)
        return ResidentBase.load(spec, Path(), "cpu", "float32", 1).fingerprint

    copy = tmp_path / "copy"
    shutil.copytree(model_folder(), copy)
    first = fingerprint(model_folder())
    assert fingerprint(copy) == first
    assert fingerprint(copy, "bfloat16") != first
    template = copy / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text + " ")
    assert fingerprint(copy) != first
    template.write_text(text)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(copy) != first


def test_a_base_that_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        SpecError, match=r"base: .* cannot be loaded .*it must hold a causal language model"
    ):
        ResidentBase.load(BaseSpec(path=str(tmp_path)), Path(), "cpu", "float32", 1)


def test_a_gguf_file_is_converted_once_and_appears_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPORTION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    calls = []

    def convert(folder: Path, gguf_file: str, out: Path) -> None:
        calls.append(out)
        out.mkdir()
        (out / "config.json").write_text("{}")
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "_convert", convert)
    with pytest.raises(KeyboardInterrupt):
        files.converted_gguf(tmp_path, "m.gguf")
    assert not [
        path for path in (tmp_path / "cache").iterdir() if path.is_dir() and path.name != "hashes"
    ]
    folder = files.converted_gguf(tmp_path, "m.gguf")
    assert (folder / "config.json").exists()
    assert files.converted_gguf(tmp_path, "m.gguf") == folder
    assert len(calls) == 2
    (tmp_path / "m.gguf").write_bytes(b"other")
    assert files.converted_gguf(tmp_path, "m.gguf") != folder


def test_two_processes_convert_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    monkeypatch.setenv("APPORTION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    log = tmp_path / "log"

    def convert(folder: Path, gguf_file: str, out: Path) -> None:
        import time

        with log.open("a") as stream:
            stream.write("converted\n")
        out.mkdir()
        time.sleep(0.3)
        (out / "config.json").write_text("{}")

    monkeypatch.setattr(files, "_convert", convert)
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=files.converted_gguf, args=(tmp_path, "m.gguf")) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert log.read_text() == "converted\n"


def test_a_file_hash_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPORTION_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    # The well-known SHA-256 of "abc".
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.file_hash(path) == files.file_hash(path) == known
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, 1))
    assert files.file_hash(path) != known
