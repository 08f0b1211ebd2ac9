"""What the commands that explain share: an opened study with all that was scored, and the scores a person chose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluators.scores import Direction
from search.attribution.known import Known
from search.attribution.missing import Pricing
from search.attribution.targets import read_names
from search.errors import SpecError, StudyError
from search.explanations import ExplanationFolder
from search.folders import StudyFile, StudyFolder
from search.plan import measured_speeds
from search.records import TrialRecord
from search.spec import StudySpec
from search.store import StageStore, StoreError
from search.yaml_file import load_study


@dataclass
class OpenedStudy:
    """A study, its trials, and what was trained outside the search."""

    folder: StudyFolder
    file: StudyFile
    spec: StudySpec
    trials: list[TrialRecord]
    outside: list[TrialRecord]
    known: Known

    @classmethod
    def open(cls, path: Path) -> OpenedStudy:
        """Read a results folder.

        Raises:
            StudyError: There is no study, or a record is damaged.
        """
        folder = StudyFolder(path)
        file = folder.read_file()
        spec = load_study(folder.study_yaml)
        trials = folder.records()
        outside = ExplanationFolder(folder).records()
        # Fresh seeds of confirmed trials tell how far trainings lie apart.
        known = Known.of([*trials, *outside, *folder.replicate_records()])
        return cls(folder, file, spec, trials, outside, known)

    @property
    def objectives(self) -> dict[str, Direction]:
        """Objective to direction."""
        names = [objective.score for objective in self.spec.objectives]
        return dict(zip(names, self.spec.directions(), strict=True))

    @property
    def completed(self) -> list[TrialRecord]:
        """Trials that ended with their last stage."""
        return [trial for trial in self.trials if trial.state == "COMPLETE"]

    def trial(self, number: int) -> TrialRecord:
        """Return a trial.

        Raises:
            StudyError: It has no record.
        """
        found = next((trial for trial in self.trials if trial.number == number), None)
        if found is None:
            numbers = ", ".join(str(trial.number) for trial in self.trials[-20:]) or "none yet"
            raise StudyError(f"{self.folder.path}: no trial {number}; known: {numbers}")
        return found

    def chosen_scores(self, text: str | None) -> dict[str, Direction]:
        """Return the scores of `--scores`; default: objectives and scores under constraints."""
        known = self.known.directions
        if text is None:
            names = [*self.objectives, *(each.score for each in self.spec.constraints)]
            names = [name for name in dict.fromkeys(names) if name in known]
        else:
            names = read_names("--scores", text, known)
        if not names:
            raise StudyError(
                f"{self.folder.path}: no score was measured yet; wait for a trial to end"
            )
        return {name: self.objectives.get(name, known[name]) for name in names}

    def margins(self, scores: dict[str, Direction], share: float) -> dict[str, float]:
        """Return what counts as equal in each score.

        Raises:
            SpecError: The share is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise SpecError(f"--margin: {share:g} is not between 0 and 1; give such as 0.05")
        return {name: self.known.margin(name, share) for name in scores}

    def pricing(self) -> Callable[[], Pricing]:
        """Return what prices recipes by what this study's stages took and what its store holds."""
        speeds = measured_speeds([*self.trials, *self.outside])
        place = self.folder.store_root(self.spec, Path(self.file.root))
        store: StageStore | None = None
        if place is not None:
            try:
                store = StageStore(place, may_create=False)
            except StoreError:
                store = None

        def is_stored(digest: str) -> bool:
            try:
                return store is not None and store.find(digest) is not None
            except StoreError:
                return False

        return lambda: Pricing(self.known, speeds, is_stored, self.spec.store.enabled)
