"""Reads two models from results folders, and what is known of their noise. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evaluators.scores import Direction, Item, Score
from search.attribution.known import Known
from search.attribution.targets import Target
from search.compare.compared import Compared, Cost
from search.compare.outputs import output_differences
from search.compare.recipes import stage_differences
from search.compare.scores import Key, ScoreDifference, Side, Spreads, score_differences
from search.confirmation.analysis import FreshDifference, fresh_differences
from search.confirmation.records import read_confirmation
from search.errors import StudyError
from search.explanations import ExplanationFolder
from search.folders import StudyFolder
from search.records import TrialRecord
from search.spec import StudySpec
from search.yaml_file import load_study

BASE = "base"


@dataclass(frozen=True)
class Model:
    """One of the two: a trial of a study, or its base."""

    folder: StudyFolder
    record: TrialRecord
    name: str
    """Such as `trial 3`, `the base`."""

    @property
    def is_base(self) -> bool:
        """Whether it is the untouched base."""
        return not self.record.recipe.stages

    @property
    def n_stages(self) -> int:
        """Stages at the last boundary that was scored."""
        return self.record.boundaries[-1].n_stages

    def items(self) -> Iterator[tuple[bool, Item]]:
        """Yield the items of the last boundary, with whether they are the holdout's."""
        folder = self.folder.trial(self.record.number)
        for is_holdout in (False, True):
            for item in folder.read_items(self.n_stages, is_holdout):
                yield is_holdout, item

    def side(self) -> Side:
        """Return its scores and items."""
        last = self.record.boundaries[-1]
        scores: dict[Key, Score] = {(score.name, False): score for score in last.scores}
        scores |= {(score.name, True): score for score in last.holdout}
        items: dict[bool, list[Item]] = {False: [], True: []}
        for is_holdout, item in self.items():
            items[is_holdout].append(item)
        return Side(scores, items, is_trained=not self.is_base)


def find_model(folder: StudyFolder, records: list[TrialRecord], text: str) -> Model:
    """Return what `3` or `base` means in a study.

    Raises:
        StudyError: There is no such trial, or nothing of it was scored.
    """
    scored = [record for record in records if record.boundaries]
    known = ", ".join(str(record.number) for record in scored[-20:]) or "none yet"
    if text == BASE:
        base = next((record for record in scored if not record.recipe.stages), None)
        if base is None:
            raise StudyError(f"{folder.path}: the base is not scored yet; known trials: {known}")
        return Model(folder, base, "the base")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise StudyError(
            f"{folder.path}: {text!r} names no trial; write a number, `base`, or another study's folder with a "
            "number, such as results/other:7"
        )
    record = next((each for each in records if each.number == int(text)), None)
    if record is None:
        raise StudyError(f"{folder.path}: no trial {text}; known: {known}")
    if not record.boundaries:
        raise StudyError(
            f"{folder.path}: nothing of trial {text} was scored ({record.reason or record.state}); "
            f"known: {known}"
        )
    return Model(folder, record, "the base" if not record.recipe.stages else f"trial {text}")


def compared(path: Path, a: str, b: str, n_outputs: int) -> Compared:
    """Return two models side by side.

    Args:
        path: Results folder.
        a: Number of a trial, or `base`.
        b: The same; also of another study, as `results/other:7`.
        n_outputs: Most replies to return.

    Raises:
        StudyError: There is no such study or trial, both are the same, or other suites scored them.
    """
    first, spec, records = _model(path, a)
    second, other_spec, other_records = _model(path, b)
    if (first.folder.path, first.record.number) == (second.folder.path, second.record.number):
        raise StudyError(f"{path}: {a} and {b} are the same model; name two")
    is_same_study = first.folder.path == second.folder.path
    if not is_same_study:
        second = Model(second.folder, second.record, f"{second.name} of {second.folder.path.name}")
    versions = [model.record.boundaries[-1].suite_version for model in (first, second)]
    if versions[0] != versions[1] or (not is_same_study and versions[0] is None):
        raise StudyError(
            f"{path}: {first.name} and {second.name} were scored by different suites; "
            "score one of them again with the other's suite"
        )
    directions: dict[str, Direction] = dict(
        zip((each.score for each in spec.objectives), spec.directions(), strict=True)
    )
    fresh = _fresh(first, second, records) if is_same_study else {}
    spreads = _spreads(first.folder, records)
    scores = score_differences(first.side(), second.side(), directions, fresh, spreads)
    base = next((each for each in records if each.boundaries and not each.recipe.stages), None)
    return Compared(
        a=first.name,
        b=second.name,
        a_recipe=first.record.recipe.label(),
        b_recipe=second.record.recipe.label(),
        stages=stage_differences(first.record.recipe, second.record.recipe),
        scores=scores,
        a_cost=cost(first.record),
        b_cost=cost(second.record),
        a_broken=_broken(first.record, spec),
        b_broken=_broken(second.record, other_spec if not is_same_study else spec),
        outputs=output_differences(
            first.items(),
            second.items(),
            Model(first.folder, base, "the base").items() if base else (),
            n_outputs,
        ),
        knows_training=bool(fresh or spreads.by_score),
        notes=tuple(_notes(first, second, bool(fresh), spreads, [*records, *other_records])),
    )


def beside(path: Path, against: str, side: Side, version: str) -> tuple[ScoreDifference, ...]:
    """Return how a model from elsewhere differs from a trial of a study: model less trial.

    Args:
        path: Results folder.
        against: Number of a trial, or `base`.
        side: What a suite and a holdout say of the model.
        version: Of that suite.

    Raises:
        StudyError: There is no such study or trial, or another suite scored it.
    """
    model, spec, records = _model(path, against)
    scored_by = model.record.boundaries[-1].suite_version
    if scored_by not in (None, version):
        raise StudyError(
            f"{path}: {model.name} was scored by another suite than this study file and its sources give now; "
            "restore the sources, or compare with a trial of a newer study"
        )
    directions: dict[str, Direction] = dict(
        zip((each.score for each in spec.objectives), spec.directions(), strict=True)
    )
    return score_differences(model.side(), side, directions, {}, _spreads(model.folder, records))


def cost(record: TrialRecord) -> Cost:
    """Return what it takes to make a trial's model."""
    stages = record.stages
    return Cost(
        n_stages=len(stages),
        trained_tokens=sum(stage.trained_tokens for stage in stages),
        train_seconds=sum(stage.train_seconds for stage in stages),
        most_trainable=max((stage.n_trainable for stage in stages), default=0),
        trial_seconds=record.seconds.total,
    )


def _model(path: Path, text: str) -> tuple[Model, StudySpec, list[TrialRecord]]:
    place, _, number = text.rpartition(":")
    folder = StudyFolder(Path(place) if place else path)
    folder.read_file()
    records = folder.records()
    return find_model(folder, records, number), load_study(folder.study_yaml), records


def _fresh(first: Model, second: Model, records: list[TrialRecord]) -> dict[Key, FreshDifference]:
    """Return differences over fresh seeds; empty unless both were confirmed, or one is the base."""
    base = next((each for each in records if each.boundaries and not each.recipe.stages), None)
    return fresh_differences(first.folder, records, base, first.record.number, second.record.number)


def _spreads(folder: StudyFolder, records: list[TrialRecord]) -> Spreads:
    """Return how far trainings of one recipe lie apart: from confirmed trials, else from those of explanations."""
    known = Known.of([*records, *ExplanationFolder(folder).records()])
    found: dict[Key, tuple[float, int]] = {
        (name, False): known.seed_spread(name) for name in known.directions
    }
    confirmation = read_confirmation(folder)
    for floor in confirmation.noise if confirmation else ():
        found[floor.name, floor.is_holdout] = (floor.sd**2, floor.df)
    return Spreads({key: spread for key, spread in found.items() if spread[1]})


def _broken(record: TrialRecord, spec: StudySpec) -> tuple[str, ...]:
    scores = record.final_scores
    found = []
    for target in map(Target.of, spec.constraints):
        score = scores.get(target.score)
        if score is None or score.value is None:
            found.append(f"{target.text}, which is missing")
        elif target.shortfall(score.value) > 0:
            found.append(target.text)
    return tuple(found)


def _notes(
    first: Model,
    second: Model,
    has_fresh: bool,
    spreads: Spreads,
    records: list[TrialRecord],
) -> list[str]:
    notes = []
    if has_fresh:
        notes.append(
            "Both are judged by fresh seeds alone: what the search saw was the reason to look at them."
        )
        return notes
    if not spreads.by_score:
        notes.append(
            "Intervals are from items alone. How far two trainings of one recipe lie apart is not in them, and is "
            "often as much: so this is about these two models, and not yet about their recipes; `apportion confirm` "
            "trains them again."
        )
    else:
        notes.append(
            "Not both were confirmed: intervals are from items, and from how far trainings of other recipes lie "
            "apart, where that is known."
        )
    n_scored = sum(bool(record.boundaries) for record in records)
    if n_scored > 10:
        notes.append(
            f"If one of them was picked for its scores among {n_scored} trials, part of its lead is luck; "
            "the holdout was not picked by."
        )
    unfinished = [
        f"{model.name} is {model.record.state} and scored after stage {model.n_stages}"
        for model in (first, second)
        if model.record.state != "COMPLETE"
    ]
    return [*notes, *(f"{each[:1].upper()}{each[1:]}." for each in unfinished)]
