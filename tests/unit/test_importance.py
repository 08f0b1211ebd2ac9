"""Importances: the parameter that decides comes first, and few trials are called few."""

from __future__ import annotations

from pathlib import Path

import pytest
from played import study_file

from evaluators.scores import Direction, Score
from search.records import Boundary, TrialRecord
from search.sampling.importance import Importances, importances
from search.yaml_file import load_study
from spaces.space import Space

OBJECTIVES: dict[str, Direction] = {"form": "maximise", "retention.kl": "minimise"}


def found(folder: Path, n_trials: int) -> Importances | None:
    """Form grows with the dose of `a`, drift with its learning rate; nothing else plays a part."""
    spec = load_study(study_file(folder))
    space = Space(spec.influences, spec.order)
    trials, seed = [], 0
    while len(trials) < n_trials:
        seed += 1
        params = space.sample(seed)
        recipe = space.decode(params)
        if recipe.order_label() != "a":
            continue
        stage = recipe.stages[0]
        values = {"form": stage.dose_tokens / 1000, "retention.kl": 10 * stage.learning_rate}
        scores = tuple(
            Score(name=name, value=value, n=9, unit="share", direction=OBJECTIVES[name])
            for name, value in values.items()
        )
        boundary = Boundary(n_stages=1, digest="d", scores=scores, evaluate_seconds=1.0)
        trials.append(
            TrialRecord(
                number=len(trials),
                state="COMPLETE",
                params=params,
                recipe=recipe,
                seed=0,
                boundaries=(boundary,),
                started_at="2026-11-24T00:00:00+00:00",
            )
        )
    return importances(space, trials, OBJECTIVES, frozenset({0, 1, 2}))


def test_what_decides_an_objective_comes_first(tmp_path: Path) -> None:
    matter = found(tmp_path, 60)
    assert matter is not None
    first = {
        name: max(shares, key=shares.__getitem__) for name, shares in matter.by_objective.items()
    }
    assert first == {"form": "a.dose_tokens", "retention.kl": "a.learning_rate"}
    assert sum(matter.front.values()) == pytest.approx(1.0)
    assert matter.warning is None


def test_few_trials_are_called_few_and_three_say_nothing(tmp_path: Path) -> None:
    matter = found(tmp_path, 10)
    assert matter is not None
    assert matter.warning == "thin data: 10 trials for 3 parameters, 3 of them count as good"
    assert found(tmp_path, 3) is None
