"""confirmation.json: what fresh seeds say of chosen trials, as frozen records. No torch, no scipy.

The searched values are shown beside the confirmed ones and never enter them: they were the reason for the choice.
"""

from __future__ import annotations

from pydantic import Field, ValidationError

from evaluators.scores import Direction, Record
from search.errors import StudyError
from search.folders import StudyFolder, read_record_text, write_whole


class ConfirmedScore(Record):
    """One score of one recipe over fresh seeds."""

    name: str
    """As in `ScoreInfo`."""
    unit: str
    """As in `ScoreInfo`."""
    direction: Direction
    """Which way is better."""
    is_holdout: bool
    """Whether the sampler never saw it."""
    is_selection: bool = False
    """Whether it is a score of the suite on rows of the selection: by its items, too, nothing was chosen."""
    searched: float | None
    """The value that the search saw, on its own items; of the base, its one value. None where it was missing."""
    value: float | None
    """Mean over the fresh seeds; None where no replicate has the score."""
    stderr: float | None = None
    """Over seeds and items, in the score's unit; None for fewer than two seeds."""
    low: float | None = None
    """Lower end of the 95 % interval over seeds and items."""
    high: float | None = None
    """Its upper end."""
    n_seeds: int = Field(ge=0)
    """Replicates that entered."""
    n_items: int = Field(ge=0)
    """Items (prompts that are asked twice count once) in each; 0 where none was measured."""
    by_seed: dict[int, float] = Field(default={})
    """Seed to the value of its replicate."""
    missing: dict[int, str] = Field(default={})
    """Seed to why it has no value."""

    @property
    def gap(self) -> float | None:
        """How much better the search saw it than fresh seeds do: above 0 it was lucky."""
        if self.searched is None or self.value is None:
            return None
        better = self.searched - self.value
        return better if self.direction == "maximise" else -better


class ConfirmedTrial(Record):
    """One trial with what fresh seeds say of it."""

    number: int
    """Of the trial in the search."""
    label: str
    """Its recipe in one line."""
    scores: tuple[ConfirmedScore, ...]
    """Of the suite, then of the holdout."""
    ties: tuple[int, ...] = ()
    """Confirmed trials, the base among them, that no objective tells from this one."""

    def score(self, name: str, is_holdout: bool = False) -> ConfirmedScore | None:
        """Return a score by name; of the suite, on fresh items where there are any, else on those of the search."""
        own = [each for each in self.scores if each.name == name and each.is_holdout == is_holdout]
        return next((score for score in own if score.is_selection), own[0] if own else None)


class Comparison(Record):
    """Two trials in one objective."""

    first: int
    """Number of a trial."""
    second: int
    """Number of another one."""
    score: str
    """Name of the objective."""
    difference: float
    """Confirmed value of the first less that of the second."""
    stderr: float
    """Of the difference, over seeds and paired over items."""
    low: float
    """Lower end of the 95 % interval of this difference alone."""
    high: float
    """Its upper end."""
    p_value: float
    """Two-sided, of this difference alone."""
    adjusted_p: float
    """After Holm, over all comparisons of the confirmation."""
    is_distinguishable: bool
    """Whether `adjusted_p` is below 0.05."""


class NoiseFloor(Record):
    """How far trainings of one recipe with other seeds lie apart in a score."""

    name: str
    """Of the score."""
    unit: str
    """As in `ScoreInfo`."""
    is_holdout: bool
    """Whether it is a score of the holdout."""
    is_selection: bool = False
    """Whether it is a score on rows of the selection."""
    sd: float
    """Standard deviation between seeds, pooled over recipes: of a whole replicate, its items' fresh noise included."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Its upper end."""
    df: int
    """Degrees of freedom: replicates less recipes."""


class Confirmation(Record):
    """All that fresh seeds say of a study."""

    made_at: str
    """UTC, ISO 8601."""
    suite_version: str
    """Of the suite that scored searched and fresh models alike."""
    seeds: tuple[int, ...]
    """Fresh seeds, lowest first."""
    base: int | None
    """Number of the untouched base; it is compared with all, and needs no training."""
    trials: tuple[ConfirmedTrial, ...]
    """By number, the base among them."""
    comparisons: tuple[Comparison, ...]
    """All pairs of trials in all objectives; pairs of which one has too few replicates are left out."""
    noise: tuple[NoiseFloor, ...]
    """Of each score."""

    def trial(self, number: int) -> ConfirmedTrial | None:
        """Return a confirmed trial; None if it was not confirmed."""
        return next((trial for trial in self.trials if trial.number == number), None)

    def noise_sd(self, name: str) -> float | None:
        """Return the standard deviation between seeds of a score of the suite; None where it is not known."""
        found = (
            floor.sd
            for floor in self.noise
            if floor.name == name and not floor.is_holdout and not floor.is_selection
        )
        return next(found, None)

    @property
    def has_fresh_items(self) -> bool:
        """Whether some score was measured on rows of the selection."""
        return any(score.is_selection for trial in self.trials for score in trial.scores)


def read_confirmation(folder: StudyFolder) -> Confirmation | None:
    """Return what was confirmed of a study; None if nothing was.

    Raises:
        StudyError: The file is damaged.
    """
    path = folder.confirmation_json
    if not path.is_file():
        return None
    try:
        return Confirmation.model_validate_json(read_record_text(path))
    except (ValidationError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{path}: damaged, or of another version; remove it and call `apportion confirm` again, "
            "which trains nothing anew that is there"
        ) from error


def write_confirmation(folder: StudyFolder, confirmation: Confirmation) -> None:
    """Write confirmation.json whole."""
    write_whole(folder.confirmation_json, confirmation.model_dump_json(indent=1) + "\n")
