"""Exports to LLaMA-Factory, axolotl and mergekit hold the trial's tokens, settings and models; the rest is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import load_from_disk
from export_tools import full, stage, trained_study, write_inputs
from safetensors.torch import load_file

from search.cli.main import main
from search.export.mergekit import merge_config
from search.stages.combine import Combination as Settings
from search.stages.combine import combined
from spaces.combine import Combination
from spaces.recipe import Branch, Lora, Parallel, Recipe

PLUS = Lora(rank=2, alpha=4.0, lr_ratio=4.0)
APART = Parallel(
    influence="apart",
    branches={
        "warm": Branch(stages=(stage(),), weight=0.7),
        "plain": Branch(stages=(stage("dpo"),), weight=0.6),
        "unused": Branch(stages=(stage(adapter=full()),), weight=0.0),
    },
    combination=Combination(how="ties", density=0.5),
)
RECIPES = {
    0: Recipe(stages=(stage(adapter=PLUS, handoff="continue"), stage(adapter=PLUS))),
    1: Recipe(stages=(stage(), stage("simpo", beta=2.0, gamma=1.0))),
    2: Recipe(stages=(stage(adapter=full(targets="norms", layers="1-1")),)),
    3: Recipe(stages=(stage(), APART)),
}
REFUSED = {
    4: Recipe(stages=(stage("ipo"),)),
    5: Recipe(stages=(stage("dpo", Lora(rank=2, alpha=4.0, dropout=0.1)),)),
    6: Recipe(stages=(stage(handoff="continue"), stage("dpo"))),
    7: Recipe(
        stages=(
            Parallel(
                influence="cut",
                branches={"a": Branch(stages=(stage(),), weight=1.0)},
                combination=Combination(how="svd", rank=2),
            ),
        )
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    place = tmp_path_factory.mktemp("results") / "tiny"
    return trained_study(inputs, place, RECIPES, REFUSED)


def exported(results: Path, number: int, to: str, folder: Path) -> Path:
    out = folder / f"{to}-{number}"
    assert main(["export", str(results), str(number), "--to", to, "--out", str(out)]) == 0
    return out


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def stages_of(results: Path, number: int) -> list[dict[str, Any]]:
    record = json.loads((results / f"trials/{number:04d}/trial.json").read_text())
    stages: list[dict[str, Any]] = record["stages"]
    return stages


def test_llamafactory_gets_the_tokens_that_the_trial_consumed(
    results: Path, tmp_path: Path
) -> None:
    folder = exported(results, 1, "llamafactory", tmp_path)
    first, second = stages_of(results, 1)
    rows = load_from_disk(folder / "data/stage1")
    assert len(rows) == first["n_rows"]
    assert sum(map(len, rows["input_ids"])) == first["trained_tokens"]
    # Of each conversation the answer alone is trained on.
    assert all(
        labels[0] == -100 and labels[-1] == ids[-1]
        for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)
    )
    pairs = load_from_disk(folder / "data/stage2")
    sides = [sum(map(len, pairs[f"{side}_input_ids"])) for side in ("chosen", "rejected")]
    assert sum(sides) == second["trained_tokens"]
    config = read(folder / "stage2.yaml")
    assert (config["stage"], config["pref_loss"]) == ("dpo", "simpo")
    assert (config["pref_beta"], config["simpo_gamma"]) == (2.0, 1.0)
    assert config["model_name_or_path"] == "out/stage1-merged"
    assert config["disable_shuffling"] is True
    assert config["seed"] == second["seed"]


def test_an_adapter_that_is_trained_on_is_handed_to_the_next_run_and_merged_into_its_base(
    results: Path, tmp_path: Path
) -> None:
    for tool, key in (("llamafactory", "adapter_name_or_path"), ("axolotl", "lora_model_dir")):
        folder = exported(results, 0, tool, tmp_path)
        first, second = (read(folder / f"stage{number}.yaml") for number in (1, 2))
        assert key not in first
        assert second[key] == "out/stage1"
        assert second["loraplus_lr_ratio"] == 4.0
        script = (folder / "run.sh").read_text()
        assert "merge_adapter.py base main out/stage2 out/stage2-merged float32" in script
        assert "stage1-merged" not in script


def test_axolotl_gets_tokens_in_order_and_the_names_of_the_weights_that_move(
    results: Path, tmp_path: Path
) -> None:
    folder = exported(results, 2, "axolotl", tmp_path)
    (record,) = stages_of(results, 2)
    rows = [json.loads(line) for line in (folder / "data/stage1.jsonl").read_text().splitlines()]
    assert sum(len(row["input_ids"]) for row in rows) == record["trained_tokens"]
    assert all(len(set(map(len, row.values()))) == 1 for row in rows)
    config = read(folder / "stage1.yaml")
    assert config["curriculum_sampling"] is True
    assert config["save_strategy"] == "no"
    names = load_file(folder / "base/model.safetensors")
    patterns = config["unfrozen_parameters"]
    moving = [name for name in names if any(re.match(one, name) for one in patterns)]
    assert sorted(moving) == [
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight",
    ]
    assert config["micro_batch_size"] * record["n_steps"] == len(rows)


def test_models_and_settings_for_mergekit_give_the_trials_model(
    results: Path, tmp_path: Path
) -> None:
    folder = exported(results, 3, "mergekit", tmp_path)
    config = read(folder / "mergekit.yaml")
    assert [one["model"] for one in config["models"]] == [
        "models/branch-warm",
        "models/branch-plain",
    ]
    assert config["parameters"] == {"normalize": True, "lambda": 1.0}
    weights = [one["parameters"]["weight"] for one in config["models"]]
    parent, *branches = (
        load_file(folder / place / "model.safetensors")
        for place in [config["base_model"], *(one["model"] for one in config["models"])]
    )
    settings = Settings("ties", tuple(weights), config["models"][0]["parameters"]["density"])
    own = load_file(exported(results, 3, "merged", tmp_path) / "model.safetensors")
    found = parent | dict(combined(parent, branches, settings))
    assert all(torch.allclose(found[name], own[name], atol=1e-6) for name in own)
    assert any(not torch.equal(parent[name], own[name]) for name in own)


def test_slerp_goes_from_the_first_model_to_the_second() -> None:
    stage_ = Parallel(
        influence="arc",
        branches={"a": Branch(weight=0.25), "b": Branch(weight=0.75)},
        combination=Combination(how="slerp"),
    )
    config = merge_config(stage_, {"a": 0.25, "b": 0.75}, "float32")
    assert config["base_model"] == "models/a"
    assert config["parameters"] == {"t": 0.75}


@pytest.mark.parametrize(
    ("tool", "number", "place", "remedy"),
    [
        ("axolotl", 1, "stages[1].method: simpo", "random order"),
        ("llamafactory", 4, "stages[0].method: ipo", "--to recipe"),
        ("llamafactory", 5, "stages[0].adapter.dropout: 0.1", "dropout 0"),
        ("llamafactory", 6, "stages[0].handoff: continue", "hand off with merge"),
        ("llamafactory", 3, "stages[1].method: parallel", "--to mergekit"),
        ("trl", 3, "stages[1].method: parallel", "--to mergekit"),
        ("mergekit", 1, "stages[1].method: simpo", "--to merged"),
        ("mergekit", 7, "stages[0].combination.how: svd", "--to merged"),
    ],
)
def test_what_a_tool_cannot_express_is_refused_with_place_and_remedy(
    results: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tool: str,
    number: int,
    place: str,
    remedy: str,
) -> None:
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["export", str(results), str(number), "--to", tool, "--out", str(out)]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error")]
    assert line.startswith(f"error: trial {number}: {place}")
    assert remedy in line
    assert not out.exists()
