"""What report.html knows: a study as one JSON object, small enough for thousands of trials.

Scores are lists in the order of `scores` and `holdout`: `[value, stderr, n]`, the reason as text
where the score is missing, or null where it was not taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.scores import Score, ScoreInfo
from search.records import StageRecord, TrialRecord
from search.report.analysis import Analysis
from search.report.describe import infeasible_reasons, moved_text, where_text
from search.report.inside import grids
from search.report.samples import Sample
from search.report.view import StudyView, holdout_scores, hypervolumes
from spaces.recipe import Merge, Parallel, Stage

_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def payload(analysis: Analysis) -> dict[str, Any]:
    """Return the object that the page's script reads."""
    view, routes = analysis.view, analysis.routes
    return {
        "study": view.spec.name,
        "scores": [_info(info) for info in view.suite],
        "holdout": [_info(info) for info in view.holdout],
        "objectives": [
            {"name": objective.name, "direction": objective.direction}
            for objective in view.objectives
        ],
        "base": view.base.number if view.base else None,
        "knee": view.knee,
        "recommended": analysis.recommended.number if analysis.recommended else None,
        "routes": [route.trial for route in routes.routes] if routes is not None else [],
        "front": [trial.number for trial in view.front_trials],
        "trials": [_trial(view, trial) for trial in view.trials],
        "hypervolume": [
            [point.n_finished, _short(point.compute_seconds), _short(point.value)]
            for point in hypervolumes(view)
        ],
        **_samples(analysis.samples),
    }


def script_json(data: Any) -> str:
    """Return JSON that can stand inside a `script` element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _info(info: ScoreInfo) -> dict[str, str]:
    return {"name": info.name, "unit": info.unit, "direction": info.direction}


def _trial(view: StudyView, trial: TrialRecord) -> dict[str, Any]:
    seconds = trial.seconds
    return {
        "n": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "baseline": trial.baseline,
        "label": trial.recipe.label(),
        "order": trial.recipe.order_label(),
        "feasible": trial.number in view.feasible,
        "front": trial.number in view.front,
        "note": view.noise_note(trial) if trial.number in view.front else None,
        "broken": infeasible_reasons(view, trial),
        "stages": _stages(trial),
        "boundaries": [
            {"n": at.n_stages, "scores": _scores(view.suite, {s.name: s for s in at.scores})}
            for at in trial.boundaries
        ],
        "rungs": [
            {
                "n": at.n_stages,
                "share": at.share,
                "tokens": at.trained_tokens,
                "scores": _scores(view.suite, {s.name: s for s in at.scores}),
            }
            for at in trial.rungs
        ],
        "holdout": _scores(view.holdout, holdout_scores(trial)),
        "seconds": [
            _short(part) for part in (seconds.load, seconds.train, seconds.evaluate, seconds.rest)
        ],
        "storing": _short(sum(at.store_seconds or 0.0 for at in trial.boundaries)),
        "tokens": trial.trained_tokens,
        "seed": trial.seed,
        "device": trial.device,
        "started": trial.started_at,
        "finished": trial.finished_at,
    }


def _stages(trial: TrialRecord) -> list[dict[str, Any]]:
    done: list[StageRecord | None] = list(trial.stages)
    done += [None] * (len(trial.recipe.stages) - len(done))
    return [_stage(stage, record) for stage, record in zip(trial.recipe.stages, done, strict=False)]


def _stage(stage: Stage | Parallel | Merge, record: StageRecord | None) -> dict[str, Any]:
    own = stage if isinstance(stage, Stage) else None
    return {
        "influence": stage.influence,
        "method": stage.method_text,
        "adapter": moved_text(stage),
        "where": where_text(own.adapter) if own else "",
        # Of a joint stage, shares of each loss's tokens; branches say theirs themselves.
        "mix": {
            name: _short(share)
            for term in (own.losses.values() if own else ())
            for name, share in term.mix.items()
        },
        "dose": stage.dose_tokens,
        "rate": own.learning_rate if own else None,
        "beta": own.beta if own else None,
        "handoff": stage.handoff,
        "trained": record.trained_tokens if record else None,
        "is_stored": record.is_stored if record else False,
        "passes": record.passes_by_source if record else None,
        "steps": record.n_steps if record else None,
        "dropped": record.n_dropped_rows if record else None,
        "tables": [vars(grid) for grid in grids(record)] if record else [],
    }


def _scores(infos: Sequence[ScoreInfo], scores: Mapping[str, Score]) -> list[Any]:
    return [_score(scores.get(info.name)) for info in infos]


def _score(score: Score | None) -> list[float | None] | str | None:
    if score is None:
        return None
    if score.value is None:
        return score.reason or "no reason recorded"
    return [_short(score.value), None if score.stderr is None else _short(score.stderr), score.n]


def _samples(samples: Mapping[int, Sequence[Sample]]) -> dict[str, Any]:
    """Return prompts once, with the base's outputs, and each trial's outputs by prompt."""
    prompts: dict[tuple[Any, ...], int] = {}
    asked: list[dict[str, Any]] = []
    written: dict[str, list[list[Any]]] = {}
    for number, found in samples.items():
        rows = []
        for sample in found:
            key = (sample.evaluator, sample.index, sample.prompt, sample.base_output)
            if key not in prompts:
                prompts[key] = len(asked)
                asked.append(
                    {
                        "evaluator": sample.evaluator,
                        "holdout": sample.is_holdout,
                        "kind": sample.kind,
                        "prompt": sample.prompt,
                        "base": sample.base_output,
                        "baseValues": sample.base_values,
                    }
                )
            rows.append([prompts[key], sample.output, sample.values])
        written[str(number)] = rows
    return {"prompts": asked, "samples": written}


def _short(value: float) -> float:
    """Return six significant figures: what a chart can show, in a third of the bytes."""
    return float(f"{value:.6g}")
