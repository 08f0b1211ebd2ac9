"""StudyView: what the files of a results folder say, ready for pages, tables and charts.

Reads `study.yaml`, `study.json` and `trials/NNNN/trial.json`; needs no torch, Ray or Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.scores import Direction, Score, ScoreInfo
from evaluators.spec import EvaluatorSpec
from search.confirmation.records import Confirmation, read_confirmation
from search.errors import StudyError
from search.folders import StudyFolder
from search.front import front_mask, hypervolume, knee_heights, knee_index
from search.records import TrialRecord
from search.report.study_file import read_study_file
from search.spec import StudySpec
from search.yaml_file import load_study

INTERVAL_STDERRS = 1.96
"""Half-width of every interval in standard errors: 95 % of a normal distribution."""


@dataclass(frozen=True)
class Objective:
    """An objective with its defaults filled in."""

    name: str
    """Name of the score."""
    unit: str
    """As in `ScoreInfo`."""
    direction: Direction
    """Which way is better."""
    reference: float | None
    """Reference point of the hypervolume; None where neither the study nor the score has one."""

    @property
    def sign(self) -> float:
        """Factor that turns a value into a loss: 1 to minimise, -1 to maximise."""
        return 1.0 if self.direction == "minimise" else -1.0


@dataclass(frozen=True)
class HypervolumePoint:
    """Hypervolume of the front once some trials had finished."""

    n_finished: int
    """Trials finished so far, failed and stopped ones included."""
    compute_seconds: float
    """Seconds of all finished trials together."""
    trained_tokens: int
    """Tokens trained by all finished trials together."""
    value: float
    """In the product of the objectives' units."""


@dataclass(frozen=True)
class StudyView:
    """A study as its results folder shows it."""

    files: StudyFolder
    """The results folder."""
    spec: StudySpec
    """The study."""
    study_file: dict[str, Any]
    """Content of study.json; empty where there is none."""
    trials: tuple[TrialRecord, ...]
    """By number."""
    suite: tuple[ScoreInfo, ...]
    """Scores of the suite, retention included."""
    holdout: tuple[ScoreInfo, ...]
    """Scores of the holdout."""
    objectives: tuple[Objective, ...]
    """In the order of the study."""
    feasible: frozenset[int]
    """Numbers of completed trials with all objectives measured and all constraints kept."""
    front: frozenset[int]
    """Numbers of feasible trials that no other one dominates."""
    knee: int | None
    """Number of the knee; None without one."""
    base: TrialRecord | None
    """The finished trial without stages."""
    confirmation: Confirmation | None = None
    """What fresh seeds say; None where nothing was confirmed."""

    @property
    def finished(self) -> tuple[TrialRecord, ...]:
        """Trials that are complete, stopped early or failed, in the order they finished."""
        done = [trial for trial in self.trials if trial.state != "RUNNING"]
        return tuple(sorted(done, key=lambda trial: (trial.finished_at or "", trial.number)))

    @property
    def front_trials(self) -> tuple[TrialRecord, ...]:
        """The front, best in the first objective first."""
        members = [trial for trial in self.trials if trial.number in self.front]
        return tuple(
            sorted(
                members,
                key=lambda trial: (trial_losses(trial, self.objectives) or [], trial.number),
            )
        )

    def noise_note(self, trial: TrialRecord) -> str | None:
        """Return why a feasible trial is not shown to gain on the base; None if it is, or no base.

        A gain is a difference for the better of more than `INTERVAL_STDERRS` standard errors in one
        objective, taking the two measurements as independent. Once a study was confirmed, the
        spread between seeds counts too; and of a confirmed trial, what fresh seeds say is all that
        counts.
        """
        base = self.base
        if base is None or trial.number == base.number or trial.number not in self.feasible:
            return None
        gains = self.confirmed_gains(trial.number)
        if gains is not None:
            return None if gains else "no gain over the base confirmed"
        ours, theirs = trial.final_scores, base.final_scores
        unknown, has_loss = [], False
        for objective in self.objectives:
            change = difference(ours.get(objective.name), theirs.get(objective.name))
            if change is None or change[1] is None:
                unknown.append(objective.name)
                continue
            noise_sd = self.confirmation.noise_sd(objective.name) if self.confirmation else None
            noise = INTERVAL_STDERRS * float(np.hypot(change[1], noise_sd or 0.0))
            gain = -objective.sign * change[0]
            if gain > noise:
                return None
            has_loss = has_loss or gain < -noise
        if unknown:
            return f"no gain over the base shown ({', '.join(unknown)} without standard error)"
        return "no gain over the base beyond noise" if has_loss else "within noise of the base"

    def confirmed_gains(self, number: int) -> tuple[str, ...] | None:
        """Return in which objectives fresh seeds tell a trial from the base, for the better.

        None where that was not asked: the trial was not confirmed, is the base, or too few
        replicates came through.
        """
        found = self.confirmation
        if found is None or found.base is None or number == found.base:
            return None
        own = [
            each for each in found.comparisons if {each.first, each.second} == {number, found.base}
        ]
        if not own:
            return None
        signs = {objective.name: -objective.sign for objective in self.objectives}
        return tuple(
            each.score
            for each in own
            if each.is_distinguishable
            and signs.get(each.score, 0.0) * each.difference * (1 if each.first == number else -1)
            > 0
        )


def difference(score: Score | None, before: Score | None) -> tuple[float, float | None] | None:
    """Return `score - before` and its standard error; None if either is not measured.

    The measurements count as independent. Both use the same items, so the true standard error is
    mostly smaller: what is called a difference here is one all the more.
    """
    if score is None or before is None or score.value is None or before.value is None:
        return None
    stderr = None
    if score.stderr is not None and before.stderr is not None:
        stderr = float(np.hypot(score.stderr, before.stderr))
    return score.value - before.value, stderr


def holdout_scores(trial: TrialRecord) -> dict[str, Score]:
    """Return the holdout scores of a trial by name; empty if none were taken."""
    if not trial.boundaries:
        return {}
    return {score.name: score for score in trial.boundaries[-1].holdout}


def load_view(folder: Path) -> StudyView:
    """Read a results folder.

    Raises:
        StudyError: The folder is no results folder, or a record is damaged.
        SpecError: study.yaml is wrong.
    """
    files = StudyFolder(Path(folder))
    if not files.study_yaml.is_file():
        raise StudyError(
            f"{folder}: holds no study.yaml; give the folder of a study, such as results/<study>"
        )
    spec = load_study(files.study_yaml)
    trials = tuple(files.records())
    suite = _score_infos(spec.full_suite, [trial.final_scores for trial in trials])
    objectives = _objectives(spec, suite)
    feasible = frozenset(trial.number for trial in trials if is_feasible(trial, spec, objectives))
    front, knee = _front([trial for trial in trials if trial.number in feasible], objectives)
    bases = [trial for trial in trials if not trial.recipe.stages and trial.state == "COMPLETE"]
    return StudyView(
        files=files,
        spec=spec,
        study_file=read_study_file(files.study_json),
        trials=trials,
        suite=suite,
        holdout=_score_infos(spec.holdout, [holdout_scores(trial) for trial in trials]),
        objectives=objectives,
        feasible=feasible,
        front=front,
        knee=knee,
        base=bases[0] if bases else None,
        confirmation=read_confirmation(files),
    )


def trial_losses(trial: TrialRecord, objectives: Sequence[Objective]) -> list[float] | None:
    """Return the objectives at the last boundary as losses (lower is better); None if one is missing."""
    scores = trial.final_scores
    losses = []
    for objective in objectives:
        value = scores[objective.name].value if objective.name in scores else None
        if value is None:
            return None
        losses.append(objective.sign * value)
    return losses


def is_feasible(trial: TrialRecord, spec: StudySpec, objectives: tuple[Objective, ...]) -> bool:
    """Return whether a trial is complete, has every objective and keeps every constraint.

    A constraint whose score is missing is not kept: nobody knows.
    """
    if trial.state != "COMPLETE" or trial_losses(trial, objectives) is None:
        return False
    return keeps_goals(trial, spec)


def keeps_goals(trial: TrialRecord, spec: StudySpec) -> bool:
    """Return whether the scores at a trial's last boundary keep every constraint."""
    values = {name: score.value for name, score in trial.final_scores.items()}
    for constraint in spec.constraints:
        value = values.get(constraint.score)
        if value is None or constraint.violation(value) > 0:
            return False
    return True


def _score_infos(
    evaluators: Mapping[str, EvaluatorSpec], found: Sequence[Mapping[str, Score]]
) -> tuple[ScoreInfo, ...]:
    """Return the scores that the spec promises, then any others that records hold.

    A record's unit wins: only a finished lm-eval task knows which metric is its default.
    """
    infos = {info.name: info for name, spec in evaluators.items() for info in spec.infos(name)}
    for scores in found:
        for score in scores.values():
            known = infos.get(score.name)
            if known is None:
                infos[score.name] = ScoreInfo(
                    name=score.name, unit=score.unit, direction=score.direction
                )
            elif known.unit != score.unit and score.value is not None:
                infos[score.name] = known.model_copy(update={"unit": score.unit})
    return tuple(infos.values())


def _objectives(spec: StudySpec, suite: tuple[ScoreInfo, ...]) -> tuple[Objective, ...]:
    infos = {info.name: info for info in suite}
    objectives = []
    for objective in spec.objectives:
        info = infos.get(objective.score)
        reference = objective.reference
        if reference is None and info is not None:
            reference = info.worst
        direction = objective.direction or (info.direction if info else "maximise")
        unit = info.unit if info else ""
        objectives.append(Objective(objective.score, unit, direction, reference))
    return tuple(objectives)


def _front(
    feasible: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> tuple[frozenset[int], int | None]:
    measured = [(trial.number, trial_losses(trial, objectives)) for trial in feasible]
    numbers = [number for number, losses in measured if losses is not None]
    if not numbers:
        return frozenset(), None
    losses_NK = np.array([losses for _, losses in measured if losses is not None])
    on_front_N = front_mask(losses_NK)
    front = frozenset(number for number, is_on in zip(numbers, on_front_N, strict=True) if is_on)
    knee = knee_index(losses_NK)
    # Extremes lie in the plane itself; rounding must not make one of them a knee.
    is_knee = len(objectives) > 1 and knee_heights(losses_NK)[knee] > 1e-9
    return front, numbers[knee] if is_knee else None


def total_seconds(trial: TrialRecord) -> float:
    """Return the wall seconds of a trial, all parts together."""
    parts = trial.seconds
    return parts.load + parts.train + parts.evaluate + parts.rest


def hypervolumes(view: StudyView) -> tuple[HypervolumePoint, ...]:
    """Return the hypervolume after each finished trial, in the order they finished.

    Empty where an objective has no reference point.
    """
    references = [objective.reference for objective in view.objectives]
    if any(reference is None for reference in references):
        return ()
    sign_K = np.array([objective.sign for objective in view.objectives])
    reference_K = sign_K * np.array(references, dtype=np.float64)
    front_NK = np.zeros((0, len(view.objectives)))
    points, value, seconds, tokens = [], 0.0, 0.0, 0
    for n_finished, trial in enumerate(view.finished, start=1):
        seconds += total_seconds(trial)
        tokens += trial.trained_tokens
        losses = trial_losses(trial, view.objectives) if trial.number in view.feasible else None
        if losses is not None and not (front_NK <= np.array(losses)).all(axis=1).any():
            front_NK = np.vstack([front_NK, losses])
            front_NK = front_NK[front_mask(front_NK)]
            value = hypervolume(front_NK, reference_K)
        points.append(HypervolumePoint(n_finished, seconds, tokens, value))
    return tuple(points)
