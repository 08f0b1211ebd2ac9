"""Folder of a study's explanations, and of the recipes that were trained for them and are no trials. No torch.

results/<study>/explanations/
  trial-0007.json              what `apportion explain` printed last, whole
  moved-0007.json              what `apportion moved` measured last: a search.moved.records.Moved
  recipes/<key>-s<seed>/       as a trial's folder, put there when it has ended; of a failed one, with its reason
  recipes/.<key>-s<seed>/      one in training, or what a killed one left
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from search.attribution.known import recipe_key
from search.errors import StudyError
from search.folders import StudyFolder, TrialFolder, read_record_text, write_whole
from search.moved.records import Moved
from search.records import TrialRecord
from spaces.recipe import Recipe

OUTSIDE = -1
"""Number in the record of a recipe that is no trial."""


class ExplanationFolder:
    """Paths of a study's explanations, and reading and writing them."""

    def __init__(self, study: StudyFolder, fence: Callable[[], None] | None = None) -> None:
        """Take the folder; `fence` as of `StudyFolder`."""
        self.path = study.path / "explanations"
        self.recipes = self.path / "recipes"
        self._fence = fence

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
        return TrialFolder(self.recipes / f".{_name(recipe, seed)}", self._fence)

    def publish(self, recipe: Recipe, seed: int) -> None:
        """Put what has ended in its place, over an earlier attempt that failed."""
        if self._fence is not None:
            self._fence()
        place = self.recipes / _name(recipe, seed)
        if place.exists():
            shutil.rmtree(place)
        os.rename(self.draft(recipe, seed).path, place)

    def write(self, trial: int, text: str) -> Path | None:
        """Write an explanation whole; None where that cannot be, which is no reason not to print it."""
        return self._write(self.path / f"trial-{trial:04d}.json", text)

    def write_moved(self, moved: Moved) -> Path | None:
        """Write where a trial moved the model, whole; None where that cannot be."""
        return self._write(self.moved_file(moved.trial), moved.model_dump_json() + "\n")

    def read_moved(self, trial: int) -> Moved | None:
        """Return where a trial moved the model, as it was measured last; None if nobody did, or it cannot be read."""
        try:
            return Moved.model_validate_json(read_record_text(self.moved_file(trial)))
        except (OSError, StudyError, ValidationError, UnicodeDecodeError):
            return None

    def all_moved(self) -> list[Moved]:
        """Return where trials moved the model, of all that were measured and can be read."""
        names = (path.stem.removeprefix("moved-") for path in self.path.glob("moved-*.json"))
        found = [self.read_moved(int(name)) for name in sorted(names) if name.isdigit()]
        return [each for each in found if each is not None]

    def moved_file(self, trial: int) -> Path:
        """Return the file of where a trial moved the model; it need not exist."""
        return self.path / f"moved-{trial:04d}.json"

    def _write(self, path: Path, text: str) -> Path | None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError:
            return None
        return path


def _name(recipe: Recipe, seed: int) -> str:
    return f"{recipe_key(recipe)[:16]}-s{seed}"
