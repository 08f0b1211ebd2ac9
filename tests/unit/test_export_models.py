"""Exported models are the trial's own, an exported recipe trains them again bit for bit, and refusals say why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from export_tools import full, stage, trained_study, write_inputs
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from search.cli.main import main
from search.folders import StudyFolder
from spaces.recipe import Lora, Recipe

RECIPES = {
    0: Recipe(),
    1: Recipe(stages=(stage(), stage("dpo", full(), learning_rate=1e-3))),
    2: Recipe(stages=(stage(handoff="stack"), stage("dpo", Lora(rank=3, alpha=3.0), "stack"))),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def results(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_study(inputs, tmp_path_factory.mktemp("results") / "tiny", RECIPES)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def exported(results: Path, number: int, to: str, out: str, *words: str) -> Path:
    assert main(["export", str(results), str(number), "--to", to, "--out", out, *words]) == 0
    return Path(out)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["export", *words]) == 2
    # Loading may show its progress there too; the error itself is one line.
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error:" in each]
    return line


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(torch.arange(3, 20)[None]).logits
    return output


def test_a_recipe_exported_with_its_rows_trains_the_very_weights_of_the_trial(
    results: Path, inputs: Path
) -> None:
    recipe = exported(results, 1, "recipe", "recipe")
    assert sorted(path.name for path in (recipe / "data").iterdir()) == [
        "chat.jsonl",
        "pairs.jsonl",
    ]
    assert str(inputs) not in (recipe / "recipe.yaml").read_text()
    # Elsewhere, as on another machine.
    moved = shutil.move(str(recipe), "elsewhere")
    assert main(["train", f"{moved}/recipe.yaml", "--out", "again", "--form", "merged"]) == 0
    merged = exported(results, 1, "merged", "merged")
    again, own = (load_file(f"{place}/model.safetensors") for place in ("again", merged))
    assert again.keys() == own.keys()
    assert all(torch.equal(again[name], own[name]) for name in own)
    assert not all(
        torch.equal(tensor, own[name])
        for name, tensor in load_file(f"{moved}/base/model.safetensors").items()
    )
    assert AutoTokenizer.from_pretrained(merged).chat_template


def test_stacked_adapters_become_one_that_peft_loads_with_the_merged_models_effect(
    results: Path, inputs: Path
) -> None:
    adapter = exported(results, 2, "peft", "adapter")
    merged = exported(results, 2, "merged", "merged")
    base = AutoModelForCausalLM.from_pretrained(inputs / "model").eval()
    before = logits(base)
    loaded = logits(PeftModel.from_pretrained(base, adapter).eval())
    whole = logits(AutoModelForCausalLM.from_pretrained(merged).eval())
    torch.testing.assert_close(loaded, whole, atol=1e-5, rtol=0)
    assert not torch.allclose(loaded, before, atol=1e-3)
    assert "this one is their sum" in (adapter / "README.md").read_text()


def test_a_card_has_the_graph_scores_data_and_provenance_and_a_head_that_is_yaml(
    results: Path,
) -> None:
    card = (exported(results, 1, "merged", "m") / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "transformers"
    record = StudyFolder(results).trial(1).read_record()
    assert record is not None
    assert "```mermaid\n" in body
    for score in record.final_scores.values():
        assert score.name.replace("_", "\\_") in body
    kl = record.final_scores["retention.kl"]
    assert kl.value is not None
    assert f"{kl.value:.1f}"[:3] in body
    assert "Not confirmed" in body
    assert "which the search never saw" in body
    digest = record.boundaries[-1].digest
    assert digest in body
    assert "not stated" in body


def test_a_lost_model_is_trained_again_only_when_asked_and_is_the_same(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    shutil.rmtree(copy / "store")
    line = refusal(capsys, str(copy), "1", "--to", "merged", "--out", "new")
    assert "a model of trial 1, any more; add --train" in line
    assert not Path("new").exists()
    again = exported(copy, 1, "merged", "new", "--train")
    kept = exported(results, 1, "merged", "kept")
    assert (again / "model.safetensors").read_bytes() == (kept / "model.safetensors").read_bytes()
    assert "trained again from equal inputs" in (again / "README.md").read_text()


def test_what_cannot_be_exported_is_refused_in_one_line_with_the_reason(
    results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = str(results)
    assert "trains the weights themselves" not in refusal(capsys, place, "1", "--to", "peft")
    assert "stage 1 (tone) hands off with merge" in refusal(capsys, place, "1", "--to", "peft")
    assert "untouched base" in refusal(capsys, place, "0", "--to", "recipe")
    assert "did you mean 'merged'?" in refusal(capsys, place, "1", "--to", "merge")
    assert "no trial 9; known: 0, 1, 2" in refusal(capsys, place, "9", "--to", "merged")
    (tmp_path / "there").mkdir()
    assert "exists already" in refusal(capsys, place, "1", "--to", "merged", "--out", "there")
    (tmp_path / "file").touch()
    line = refusal(capsys, place, "0", "--to", "merged", "--out", "file/under")
    assert "name another place" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


def test_an_unfinished_trial_has_no_model_to_export(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    path = copy / "trials/0002/trial.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"state": "PRUNED", "reason": "no prospects"}))
    line = refusal(capsys, str(copy), "2", "--to", "merged")
    assert "trial 2 is PRUNED and has no final model; complete ones: 0, 1" in line
