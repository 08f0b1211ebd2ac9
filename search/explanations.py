"""Folder of a study's explanations, and of the recipes that were trained for them and are no trials. No torch.

results/<study>/explanations/
  trial-0007.json              what `apportion explain` printed last, whole
  recipes/<key>-s<seed>/       as a trial's folder, put there when it has ended; of a failed one, with its reason
  recipes/.<key>-s<seed>/      one in training, or what a killed one left
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from search.attribution.known import recipe_key
from search.folders import StudyFolder, TrialFolder, write_whole
from search.records import TrialRecord
from spaces.recipe import Recipe

OUTSIDE = -1
"""Number in the record of a recipe that is no trial."""


class ExplanationFolder:
    """Paths of a study's explanations, and reading and writing them."""

    def __init__(self, study: StudyFolder) -> None:
        self.path = study.path / "explanations"
        self.recipes = self.path / "recipes"
        self.lock = self.path / ".lock"

    def records(self) -> list[TrialRecord]:
        """Return the records of all recipes that were trained outside the search, failed ones included."""
        folders = sorted(path for path in self.recipes.glob("[0-9a-f]*-s*") if path.is_dir())
        found = [TrialFolder(path).read_record() for path in folders]
        return [record for record in found if record is not None]

    def explained(self) -> list[int]:
        """Return the trials that a person asked about, by number."""
        names = (path.stem.removeprefix("trial-") for path in self.path.glob("trial-*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def draft(self, recipe: Recipe, seed: int) -> TrialFolder:
        """Return the folder in which a recipe is trained."""
        return TrialFolder(self.recipes / f".{_name(recipe, seed)}")

    def publish(self, recipe: Recipe, seed: int) -> None:
        """Put what has ended in its place, over an earlier attempt that failed."""
        place = self.recipes / _name(recipe, seed)
        if place.exists():
            shutil.rmtree(place)
        os.rename(self.draft(recipe, seed).path, place)

    def write(self, trial: int, text: str) -> Path | None:
        """Write an explanation whole; None where that cannot be, which is no reason not to print it."""
        path = self.path / f"trial-{trial:04d}.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError:
            return None
        return path


def _name(recipe: Recipe, seed: int) -> str:
    return f"{recipe_key(recipe)[:16]}-s{seed}"
