"""Studies whose scores are given by a law, without noise and with a stated standard error: for tests of answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from planted import recipe

from evaluators.scores import Direction, Score
from search.confirmation.records import Comparison, Confirmation, ConfirmedScore, ConfirmedTrial
from search.folders import StudyFolder, write_whole
from search.records import Boundary, TrialRecord
from search.report.analysis import Analysis
from search.report.view import load_view
from search.yaml_file import dump_yaml
from spaces.recipe import Recipe

DIRECTIONS: dict[str, Direction] = {
    "form": "maximise",
    "drift": "minimise",
    "taste": "maximise",
    "form_new": "maximise",
}
Law = Callable[[list[str]], Mapping[str, float]]
"""Influences so far to `form` and `drift`, and `taste` where a study has it."""


def study_data(
    at_most: float | None = None, with_holdout: bool = True, with_taste: bool = False
) -> dict[str, Any]:
    """Return a study of influences a, b and c, whose objectives are form (higher) and drift (lower is better).

    With taste, that is a third one, the higher the better.
    """
    pattern = {
        "evaluator": "pattern",
        "source": "ask",
        "rules": [{"rule": "starts_with", "text": "A"}],
    }
    influence = {
        "method": "sft",
        "adapter": {"kind": "full"},
        "dose_tokens": {"low": 500, "high": 16000},
        "learning_rate": 1e-4,
    }
    data: dict[str, Any] = {
        "name": "answers",
        "base": {"hub": "example/tiny"},
        "sources": {
            **{name: {"path": f"{name}.jsonl", "format": "messages"} for name in "abc"},
            "ask": {"path": "ask.jsonl", "format": "prompt"},
            "new": {"path": "new.jsonl", "format": "prompt"},
        },
        "influences": {name: {**influence, "mix": {name: 1.0}} for name in "abc"},
        "suite": {"form": pattern, "drift": pattern},
        "objectives": [
            {"score": "form"},
            {"score": "drift", "direction": "minimise", "reference": 1.0},
        ],
        "budget": {"trials": 9},
    }
    if with_taste:
        data["suite"]["taste"] = pattern
        data["objectives"].append({"score": "taste"})
    if with_holdout:
        data["holdout"] = {"form_new": {**pattern, "source": "new"}}
    if at_most is not None:
        data["constraints"] = [{"score": "drift", "at_most": at_most}]
    return data


def score(name: str, value: float, stderr: float | None) -> Score:
    """Return a measured score."""
    return Score(
        name=name, value=value, stderr=stderr, n=100, unit="share", direction=DIRECTIONS[name]
    )


def trial(
    number: int,
    made: Recipe,
    law: Law,
    stderr: float | None = 0.01,
    holdout: float | None = None,
    seed: int = 0,
) -> TrialRecord:
    """Return a complete trial, scored after every stage."""
    names = [stage.influence for stage in made.stages]
    boundaries = []
    for n in range(len(names) + 1):
        scores = tuple(score(name, v, stderr) for name, v in law(names[:n]).items())
        is_held = holdout is not None and n == len(names)
        held = (score("form_new", holdout or 0.0, stderr),) if is_held else ()
        boundaries.append(
            Boundary(n_stages=n, digest="d", scores=scores, holdout=held, evaluate_seconds=1.0)
        )
    return TrialRecord(
        number=number,
        state="COMPLETE",
        params={},
        recipe=made,
        seed=seed,
        boundaries=tuple(boundaries),
        started_at="2026-11-24T00:00:00+00:00",
        finished_at=f"2026-11-24T00:{number // 60:02d}:{number % 60:02d}+00:00",
    )


def analysis_of(folder: Path, records: Sequence[TrialRecord], **options: Any) -> Analysis:
    """Write a study with these trials, and read it again."""
    files = StudyFolder(folder / "study")
    files.trials.mkdir(parents=True)
    write_whole(files.study_yaml, dump_yaml(study_data(**options)))
    for record in records:
        files.trial(record.number).path.mkdir()
        files.trial(record.number).write_record(record)
    return Analysis(load_view(files.path))


def confirmed(
    analysis: Analysis, number: int, form: float, is_gain: bool, ties: tuple[int, ...] = ()
) -> Analysis:
    """Return the study with one trial confirmed against the base, trial 0."""

    def fresh(trial: int, name: str, value: float) -> ConfirmedTrial:
        own = ConfirmedScore(
            name="form",
            unit="share",
            direction="maximise",
            is_holdout=False,
            searched=0.5,
            value=value,
            stderr=0.01,
            low=value - 0.02,
            high=value + 0.02,
            n_seeds=3,
            n_items=100,
        )
        return ConfirmedTrial(number=trial, label=name, scores=(own,), ties=ties if trial else ())

    apart = Comparison(
        first=number,
        second=0,
        score="form",
        difference=form - 0.1,
        stderr=0.01,
        low=form - 0.12,
        high=form - 0.08,
        p_value=0.001 if is_gain else 0.5,
        adjusted_p=0.001 if is_gain else 0.5,
        is_distinguishable=is_gain,
    )
    found = Confirmation.model_validate(
        {
            "made_at": "2026-11-24T00:00:00+00:00",
            "suite_version": "v",
            "seeds": (101, 102, 103),
            "base": 0,
            "trials": (fresh(0, "base", 0.1), fresh(number, "recipe", form)),
            "comparisons": (apart,),
            "noise": (),
        }
    )
    return Analysis(dataclasses.replace(analysis.view, confirmation=found))


BASE = recipe()


def law(
    form: Mapping[str, float], drift: Mapping[str, float] | float = 0.02, start: float = 0.1
) -> Law:
    """Influences add to form and drift, each time they run."""
    steps = drift if isinstance(drift, Mapping) else dict.fromkeys("abc", drift)
    return lambda names: {
        "form": start + sum(form.get(name, 0.0) for name in names),
        "drift": sum(steps.get(name, 0.0) for name in names),
    }


def table(rows: Mapping[tuple[str, ...], tuple[float, float]]) -> Law:
    """Form and drift as listed by order."""
    return lambda names: dict(zip(("form", "drift"), rows[tuple(names)], strict=True))


def study(folder: Path, made: Law, *recipes: Recipe, stderr: float | None = 0.01) -> Analysis:
    """The base and these recipes, in that order, scored by a law."""
    listed = [BASE, *recipes]
    records = [trial(at, each, made, stderr) for at, each in enumerate(listed)]
    found = analysis_of(folder, records, with_holdout=False)
    # A second seed that gives the very same: without one, nothing is claimed of a recipe.
    found.__dict__["outside"] = [trial(-1, each, made, stderr, seed=1) for each in recipes[:1]]
    return found
