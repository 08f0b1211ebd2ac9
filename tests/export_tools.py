"""A study on a tiny model whose trials were really trained and scored, for exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import STUDY, write_data, write_model

from search.folders import StudyFile, StudyFolder, utc_now
from search.lab import Lab
from search.records import Proposal, TrialRecord
from search.spec import BudgetSpec
from search.store import StageStore
from search.trial import TrialRun
from search.yaml_file import load_study
from spaces.recipe import Full, Lora, Recipe, Stage


def stage(method: str = "sft", adapter: Any = None, handoff: str = "merge", **more: Any) -> Stage:
    given = {
        "influence": "tone" if method == "sft" else "taste",
        "method": method,
        "adapter": adapter or Lora(rank=2, alpha=4.0),
        "mix": {"chat" if method == "sft" else "pairs": 1.0},
        "dose_tokens": 300,
        "learning_rate": 1e-2,
        "handoff": handoff,
    }
    if method in ("dpo", "ipo"):
        given["beta"] = 0.1
    return Stage.model_validate(given | more)


def full(**more: Any) -> Full:
    return Full(**more)


def write_inputs(folder: Path, study: str = STUDY) -> Path:
    """Write the tiny study, its model and its data."""
    write_model(folder / "model")
    write_data(folder)
    (folder / "study.yaml").write_text(study)
    return folder


def trained_study(
    inputs: Path,
    place: Path,
    recipes: dict[int, Recipe],
    untrained: dict[int, Recipe] | None = None,
) -> Path:
    """Train and score recipes as trials of the study; return its results folder.

    Args:
        inputs: See `write_inputs`.
        place: The results folder.
        recipes: By number.
        untrained: Recipes that only get a record, for what looks no further than at that.
    """
    folder = StudyFolder(place)
    folder.make()
    folder.write_study((inputs / "study.yaml").read_text())
    folder.write_file(
        StudyFile(
            root=str(inputs), created_at=utc_now(), study_hash="0" * 16, budget=BudgetSpec(trials=6)
        )
    )
    spec = load_study(folder.study_yaml)
    lab = Lab.load(spec, inputs, StageStore(folder.path / "store"))
    for number, recipe in recipes.items():
        run = TrialRun(lab, folder.trial(number), Proposal(number, {}, recipe, None))
        while not run.step():
            pass
        assert run.record.state == "COMPLETE", run.record.reason
    for number, recipe in (untrained or {}).items():
        record = TrialRecord(
            number=number, state="COMPLETE", params={}, recipe=recipe, seed=5, started_at=utc_now()
        )
        folder.trial(number).clear()
        folder.trial(number).write_record(record)
    return folder.path
