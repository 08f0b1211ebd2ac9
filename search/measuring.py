"""Score saved models by a study's suite and holdout, whoever trained them, and set them beside a trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluators.scores import Item, Score
from search.compare.gather import beside
from search.compare.scores import Key, ScoreDifference, Side
from search.errors import SpecError
from search.folders import StudyFolder
from search.lab import Lab
from search.scoring import SuiteResult
from search.spec import StudySpec
from search.stages.saved_model import saved_model
from search.store import StageStore
from search.yaml_file import load_study


@dataclass(frozen=True)
class Scored:
    """What a suite and a holdout say of one saved model."""

    folder: Path
    suite: SuiteResult
    holdout: SuiteResult

    @property
    def side(self) -> Side:
        """As `search.compare` takes it."""
        scores: dict[Key, Score] = {(score.name, False): score for score in self.suite.scores}
        scores |= {(score.name, True): score for score in self.holdout.scores}
        items: dict[bool, list[Item]] = {
            False: list(self.suite.items),
            True: list(self.holdout.items),
        }
        return Side(scores, items, is_trained=True)


class Scorer:
    """Scores models by the suites of one study; what the study needs is loaded once."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        """Read the study.

        Args:
            path: A study file, or a results folder.
            say: Is told what goes on.

        Raises:
            ApportionError: The study, its base or a source cannot be read.
        """
        self.results = StudyFolder(path) if path.is_dir() else None
        if self.results is None:
            self.spec: StudySpec = load_study(path)
            self._root = path.absolute().parent
        else:
            file = self.results.read_file()
            self.spec, self._root = load_study(self.results.study_yaml), Path(file.root)
        self._say = say
        self._lab: Lab | None = None

    @property
    def lab(self) -> Lab:
        """Base, sources and suites."""
        if self._lab is None:
            self._say("load base and suites")
            self._lab = Lab.load(self.spec, self._root, self._store())
        return self._lab

    def score(self, folder: Path) -> Scored:
        """Return what suite and holdout say of a saved model.

        Raises:
            SpecError: It cannot be loaded, or reads text in other tokens than the base.
        """
        ref = saved_model(self.lab.base, folder, self.spec.base.dtype)
        if self.lab.exam.suite.needs_reference or self.lab.holdout.suite.needs_reference:
            text = "A text, as any; 1 + 1 = 2, é, 漢字, <|im_end|>"
            own, base = (
                each(text)["input_ids"] for each in (ref.tokenizer, self.lab.base.tokenizer)
            )
            if own != base:
                raise SpecError(
                    f"{folder}: its tokenizer is not the base's, which scores against the base need; "
                    "score a model that was trained from this base"
                )
        self._say(f"score {folder}")
        suite = self.lab.measure_model(self.lab.exam, ref)
        return Scored(folder, suite, self.lab.measure_model(self.lab.holdout, ref))

    def differences(self, scored: Scored, against: str) -> tuple[ScoreDifference, ...]:
        """Return how a model differs from a trial, or from `base`, of the results folder: model less trial.

        Raises:
            StudyError: There is no such trial, or another suite scored it.
        """
        if self.results is None:
            raise SpecError(
                "--against: a study file has no trials; name its results folder instead"
            )
        return beside(self.results.path, against, scored.side, self.lab.exam.version)

    def _store(self) -> StageStore | None:
        if not self.spec.store.enabled:
            return None
        place = self.results.store_root(self.spec, self._root) if self.results else None
        return StageStore(place) if place is not None else None
