"""A study on a tiny model whose trials were trained for real, one after the other, without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tiny import STUDY, write_data, write_model

from search.folders import StudyFile, StudyFolder, utc_now
from search.lab import Lab
from search.records import Proposal
from search.spec import BudgetSpec
from search.store import StageStore
from search.trial import TrialRun
from search.yaml_file import load_study
from spaces.recipe import Recipe


def write_inputs(folder: Path, study: str = STUDY) -> Path:
    """Write model, data and study file."""
    write_model(folder / "model")
    write_data(folder)
    (folder / "study.yaml").write_text(study)
    return folder


def train_study(path: Path, inputs: Path, recipes: Mapping[int, Recipe]) -> StudyFolder:
    """Make a results folder with these trials, each trained and scored."""
    folder = StudyFolder(path)
    folder.make()
    folder.write_study((inputs / "study.yaml").read_text())
    budget = BudgetSpec(trials=6)
    folder.write_file(
        StudyFile(root=str(inputs), created_at=utc_now(), study_hash="0" * 16, budget=budget)
    )
    lab = Lab.load(load_study(folder.study_yaml), inputs, StageStore(folder.path / "store"))
    for number, recipe in recipes.items():
        run = TrialRun(lab, folder.trial(number), Proposal(number, {}, recipe, None))
        while not run.step():
            pass
        assert run.record.state == "COMPLETE"
    return folder
