"""Whole studies with branches and merges: trained once, scored alike with and without a store, drawn, and repeated."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import STUDY, records, substance

Apportion = Callable[..., subprocess.CompletedProcess[str]]
APART = """  apart:
    method: parallel
    branches: {warm: {stages: [tone], weight: 0.5}, kind: {stages: [taste, form], weight: 0.5}}
    combination: {how: ties, density: 0.5}
"""
VALUES = {
    "apart.warm.tone.rank": 2,
    "apart.warm.tone.dose_tokens": 300,
    "apart.warm.tone.learning_rate": 0.005,
}
BLEND = """  blend:
    method: merge
    models: {{received: {{weight: 1.0}}, donor: {{digest: "{digest}", weight: 0.5}}}}
"""


def study(
    folder: Path, tiny_study: Path, name: str, influence: str, order: str, store: str
) -> Path:
    if not (folder / "data").exists():
        shutil.copytree(tiny_study, folder / "data")
    values = json.dumps(VALUES) if "apart" in order else "{}"
    baseline = f"baselines:\n  - {{name: one, order: [{order}], values: {values}}}\n"
    text = STUDY.replace("name: tiny", f"name: {name}").replace("{trials: 6}", "{trials: 2}")
    text = text.replace("order: {max_stages: 2}", f"{influence}order: {{max_stages: 3}}")
    path = folder / "data" / f"{name}.yaml"
    path.write_text(text.replace("sampler:", f"{baseline}store: {store}\nsampler:"))
    return path


@pytest.mark.slow
def test_branches_are_scored_alike_with_and_without_a_store(
    tiny_study: Path, tmp_path: Path, apportion: Apportion
) -> None:
    for name, store in (("kept", "{}"), ("fresh", "{enabled: false}")):
        apportion("run", str(study(tmp_path, tiny_study, name, APART, "taste, apart", store)))
    kept, fresh = tmp_path / "results" / "kept", tmp_path / "results" / "fresh"
    assert [record["state"] for record in records(kept)] == ["COMPLETE"] * 2
    assert substance(kept) == substance(fresh)
    number = records(kept)[1]["number"]
    shown = apportion("show", str(kept), str(number)).stdout
    assert "apart: parallel by ties" in shown
    assert "warm  tone: sft lora" in shown
    drawn = apportion("graph", str(kept), str(number)).stdout
    assert "branch warm" in drawn
    assert "weight 0.5" in drawn
    assert "parallel: ties, density 0.5" in (kept / "report" / "report.html").read_text()


@pytest.mark.slow
def test_a_stored_model_is_merged_and_its_recipe_repeated(
    tiny_study: Path, tmp_path: Path, apportion: Apportion
) -> None:
    apportion("run", str(study(tmp_path, tiny_study, "first", "", "form", "{path: shared}")))
    digest = records(tmp_path / "results" / "first")[1]["boundaries"][0]["digest"]
    blend = BLEND.format(digest=digest)
    second = study(tmp_path, tiny_study, "second", blend, "taste, blend", "{path: shared}")
    apportion("run", str(second))
    found = records(tmp_path / "results" / "second")[1]
    assert found["state"] == "COMPLETE"
    assert found["stages"][1]["trained_tokens"] == 0
    recipe = tmp_path / "results" / "second" / "trials" / f"{found['number']:04d}" / "recipe.yaml"
    assert "store: " in recipe.read_text()
    apportion("train", str(recipe), "--out", "again")
    assert (tmp_path / "again" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_merge_that_lost_its_model_fails_with_the_reason_and_the_study_goes_on(
    tiny_study: Path, tmp_path: Path, apportion: Apportion
) -> None:
    blend = BLEND.format(digest="ab" * 32)
    path = study(tmp_path, tiny_study, "lost", blend, "taste, blend", "{path: nowhere_yet}")
    apportion("run", str(path))
    base, failed = records(tmp_path / "results" / "lost")
    assert base["state"] == "COMPLETE"
    assert failed["state"] == "FAIL"
    assert "the stage store does not hold abababababab" in failed["reason"]
