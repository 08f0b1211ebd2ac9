"""A recipe file that cannot be trained is refused in one line, before anything is trained where that can be known."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny import environment, write_data, write_model

from search.cli.main import main
from search.errors import SpecError
from search.recipe_file import RecipeFile, read_recipe
from search.yaml_file import dump_yaml

LORA = {"kind": "lora", "rank": 2, "alpha": 4.0}


def stage(**changes: object) -> dict[str, object]:
    data: dict[str, object] = {
        "influence": "tone",
        "method": "sft",
        "adapter": LORA,
        "mix": {"chat": 1.0},
        "dose_tokens": 100,
        "learning_rate": 1e-3,
    }
    return data | changes


def recipe(*stages: dict[str, object]) -> dict[str, object]:
    return {
        "base": {"path": "model"},
        "sources": {
            "chat": {"path": "chat.jsonl", "format": "messages"},
            "pairs": {"path": "pairs.jsonl", "format": "preference"},
        },
        "training": {"rows_per_step": 4, "max_length": 64},
        "seed": 1,
        "stages": list(stages),
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a base of four layers, of which only the configuration is there."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"num_hidden_layers": 4}')
    (tmp_path / "model" / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


FULL = {"kind": "full"}
BAD = [
    ([stage(adapter=LORA | {"layers": "0-50"})], "stages[0].adapter.layers: '0-50' does not fit"),
    ([stage(), stage(adapter=FULL | {"layers": "3-1"})], "stages[1].adapter.layers: '3-1' selects"),
    ([stage(adapter=LORA | {"layers": "top"})], "stages[0].adapter.layers: 'top' does not have"),
    ([stage(adapter=LORA | {"targets": "atention"})], "did you mean 'attention'?"),
    (
        [stage(mix={"chta": 1.0})],
        "stages[0]: source 'chta' of the mix is not among the sources; did",
    ),
    ([stage(), stage(mix={"pairs": 1.0})], "stages[1]: source 'pairs' of the mix has format pref"),
    (
        [stage(method="dpo", beta=0.1)],
        "stages[0]: source 'chat' of the mix has format messages, and",
    ),
    ([stage(mix={"chat": 0.5})], "stages[0]: mix shares sum to 0.5"),
    ([stage(adapter=FULL, handoff="stack")], "stages[0]: handoff 'stack' needs an adapter"),
    (
        [stage(handoff="continue"), stage(influence="taste", adapter=FULL)],
        "stages: stage 2 (taste) must train on the adapter of the stage before it (tone), whose handoff is con",
    ),
]


@pytest.mark.parametrize(("stages", "text"), BAD)
def test_bad_recipe_is_refused_in_one_line_with_its_place(
    stages: list[dict[str, object]],
    text: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("recipe.yaml").write_text(dump_yaml(recipe(*stages)))
    assert main(["train", "recipe.yaml", "--out", "out"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: recipe.yaml:")
    assert text in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "stages[0]: merging into a quantised base would round the update"),
        ({"adapter": FULL}, "stages[0]: full weights of a quantised base cannot be trained"),
        ({"handoff": "stack"}, None),
    ],
)
def test_base_of_4_bits_takes_lora_that_is_not_merged(
    changes: dict[str, object], text: str | None, folder: Path
) -> None:
    quantised = recipe(stage(**changes)) | {"base": {"path": "model", "bits": 4}}
    Path("recipe.yaml").write_text(dump_yaml(quantised))
    if text is None:
        assert read_recipe(Path("recipe.yaml")).base.bits == 4
    else:
        with pytest.raises(SpecError, match=re.escape(text)):
            read_recipe(Path("recipe.yaml"))


def test_line_is_that_of_the_stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = dump_yaml(recipe(stage(), stage(mix={"chta": 1.0})))
    Path("recipe.yaml").write_text(text)
    main(["train", "recipe.yaml", "--out", "out"])
    second = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith("- influence")][1]
    assert capsys.readouterr().err.startswith(f"error: recipe.yaml:{second}: stages[1]: source")


def test_sources_that_are_wrong_themselves_are_reported_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = recipe(stage(mix={"chta": 1.0})) | {"sources": {"chat": {"format": "messages"}}}
    Path("recipe.yaml").write_text(dump_yaml(data))
    main(["train", "recipe.yaml", "--out", "out"])
    err = capsys.readouterr().err
    assert "sources.chat: give exactly one of path, hub" in err
    assert "more)" not in err


def test_illegal_recipe_cannot_be_made_in_code_either() -> None:
    data = recipe(stage(handoff="continue"), stage(adapter=FULL))
    with pytest.raises(ValidationError, match="whose handoff is continue"):
        RecipeFile.model_validate_json(json.dumps(data))


def test_layers_of_a_base_that_is_not_here_are_not_judged(folder: Path) -> None:
    data = recipe(stage(adapter=LORA | {"layers": "0-50"})) | {"base": {"hub": "a/b"}}
    Path("recipe.yaml").write_text(dump_yaml(data))
    assert len(read_recipe(Path("recipe.yaml")).recipe.stages) == 1


def test_folder_that_is_there_is_refused_before_training(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text(dump_yaml(recipe(stage())))
    Path("out").mkdir()
    assert main(["train", "recipe.yaml", "--out", "out"]) == 2
    assert capsys.readouterr().err == "error: --out: out exists already; name a new folder\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a model and data that can be trained on."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder / "model")
    write_data(folder)
    return folder


def test_stage_that_only_the_model_can_refuse_is_one_line_too(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # else the command would leave it set
    Path("bad.yaml").write_text(dump_yaml(recipe(stage(adapter=LORA | {"targets": "Wqkv"}))))
    assert main(["train", "bad.yaml", "--out", "out", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    # Before it there is the progress bar of loading weights.
    assert err.splitlines()[-1].startswith("error: bad.yaml: targets 'Wqkv': the model has no Wqkv")
    assert "Traceback" not in err
    assert not Path("out").exists()


def test_link_to_a_recipe_trains_on_what_lies_beside_the_link_without_spinning_threads(
    tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    real = tmp_path / "kept" / "recipe.yaml"
    real.write_text(dump_yaml(recipe(stage())))
    (tiny / "linked.yaml").symlink_to(real)
    code = (
        "import os, sys; from search.cli.main import main; code = main(sys.argv[1:]);"
        "print(code, 'torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    )
    variables = {k: v for k, v in environment().items() if k != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "linked.yaml", "--out", "model_of_link"],
        cwd=tiny,
        env=variables | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["0 True PASSIVE"], done.stderr
    assert (tiny / "model_of_link" / "config.json").is_file()
