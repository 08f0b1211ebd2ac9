"""What is exported: one finished trial of a study, and the means to get at its model. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from search.errors import StudyError
from search.records import TrialRecord
from search.report.view import StudyView, load_view
from search.sources import Source, read_source
from search.spec import StudySpec
from search.store import StageStore, StoreError


@dataclass(frozen=True)
class Means:
    """How a target may get at the model."""

    train: bool
    """Whether to train what the stage store does not hold."""
    device: str
    """`auto`, `cpu` or `cuda`."""
    say: Callable[[str], None]
    """Is told a line per stage that is trained."""


@dataclass(frozen=True)
class Job:
    """A trial to be exported."""

    view: StudyView
    """Its study."""
    root: Path
    """Where relative paths of the study start."""
    record: TrialRecord
    """The trial, complete."""

    @classmethod
    def open(cls, folder: Path, number: int) -> Job:
        """Read a results folder.

        Raises:
            StudyError: There is no study, no such trial, or it did not end with its last stage.
        """
        view = load_view(folder)
        root = Path(view.files.read_file().root)
        record = next((trial for trial in view.trials if trial.number == number), None)
        if record is None:
            known = ", ".join(str(trial.number) for trial in view.trials[-20:]) or "none yet"
            raise StudyError(f"{folder}: no trial {number}; known: {known}")
        if record.state != "COMPLETE":
            done = [str(trial.number) for trial in view.trials if trial.state == "COMPLETE"]
            raise StudyError(
                f"{folder}: trial {number} is {record.state} and has no final model; complete ones: "
                f"{', '.join(done[-20:]) or 'none yet'}"
            )
        return cls(view, root, record)

    @property
    def spec(self) -> StudySpec:
        """The study."""
        return self.view.spec

    @property
    def name(self) -> str:
        """The trial in a few words, for messages."""
        return f"trial {self.record.number}"

    @property
    def digest(self) -> str:
        """Name of the model in the stage store; of a trial without stages, of the base."""
        return self.record.boundaries[-1].digest

    def sources(self) -> dict[str, Source]:
        """Read the sources that the recipe trains on.

        Raises:
            DataError: One cannot be read.
        """
        names = dict.fromkeys(name for stage in self.record.recipe.stages for name in stage.sources)
        return {
            name: read_source(name, self.spec.sources[name], self.root, self.spec.generalisation)
            for name in names
        }

    def store(self) -> StageStore | None:
        """Return the study's stage store; None if it keeps none, or it is not there."""
        place = self.view.files.store_root(self.spec, self.root)
        if place is None:
            return None
        try:
            return StageStore(place, may_create=False)
        except StoreError:
            return None


def hashes_of(sources: Mapping[str, Source]) -> dict[str, str]:
    """Return content hashes by name."""
    return {name: source.content_hash for name, source in sources.items()}
