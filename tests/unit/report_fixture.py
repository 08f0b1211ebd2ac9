"""A synthetic study with failures, a holdout and hostile model output, written as a results folder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from evaluators.scores import Item, Score, ScoreInfo
from search.folders import StudyFolder, write_whole
from search.records import Boundary, Seconds, StageRecord, TrialRecord
from search.spec import StudySpec
from search.yaml_file import dump_yaml
from spaces.recipe import Full, Lora, Recipe, Stage

HOSTILE = '</script><script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">'
FORMULA = '=HYPERLINK("http://evil.invalid", "click")'
OBJECTIVES = ("tone", "taste.gain_accuracy", "retention.kl", "taste.margin", "prose")
NOISE = 3
"""A trial that is trained too little to tell it from the base."""
KNEE = 8
"""A trial that gains more in two objectives for its drift than any other."""
REFERENCES = {"retention.kl": 1.0, "taste.margin": -2.0, "prose": 3.0}
PROMPTS = (
    "What is the capital of Finland?",
    "How do I boil an egg?",
    "Name three rivers.",
    "Why is the sky blue?",
)


def study_data(n_objectives: int = 3, kl_at_most: float = 0.45) -> dict[str, Any]:
    """Return study.yaml as plain data."""
    return {
        "name": "inner_voice",
        "base": {"hub": "example/tiny"},
        "sources": {
            "chat": {"path": "chat.jsonl", "format": "messages"},
            "plain": {"path": "plain.jsonl", "format": "messages"},
            "pairs": {"path": "pairs.jsonl", "format": "preference"},
            "questions": {"path": "questions.jsonl", "format": "prompt"},
            "essays": {"path": "essays.jsonl", "format": "text"},
        },
        "influences": {
            "tone": {
                "method": "sft",
                "adapter": {"kind": "lora", "rank": {"choice": [4, 8, 16]}, "layers": "50%-100%"},
                "mix": {"simplex": {"chat": {"low": 0.3}, "plain": {}}},
                "dose_tokens": {"low": 1000, "high": 6000, "log": True},
                "learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
            },
            "taste": {
                "method": "dpo",
                "adapter": {"kind": "full"},
                "mix": {"pairs": 1.0},
                "dose_tokens": {"low": 1000, "high": 4000},
                "learning_rate": 5e-6,
                "beta": 0.1,
            },
        },
        "suite": {
            "tone": {
                "evaluator": "pattern",
                "source": "questions",
                "rules": [{"rule": "regex", "pattern": "Well"}],
            },
            "taste": {"evaluator": "preference", "source": "pairs"},
            "prose": {"evaluator": "likelihood", "source": "essays"},
        },
        "holdout": {
            "tone_unseen": {
                "evaluator": "pattern",
                "source": "questions",
                "rules": [{"rule": "regex", "pattern": "Well"}],
            },
            "taste_unseen": {"evaluator": "preference", "source": "pairs"},
        },
        "objectives": [
            {"score": name, **({"reference": REFERENCES[name]} if name in REFERENCES else {})}
            for name in OBJECTIVES[:n_objectives]
        ],
        "constraints": [{"score": "retention.kl", "at_most": kl_at_most}],
        "baselines": [
            {"name": "base", "order": []},
            {"name": "tone_alone", "order": ["tone"], "values": {"tone.dose_tokens": 2000}},
        ],
        "budget": {"trials": 16, "train_tokens": 200000, "wall_seconds": 7200.0},
    }


def write_study(
    folder: Path, n_trials: int = 14, n_objectives: int = 3, kl_at_most: float = 0.45
) -> StudyFolder:
    """Write a results folder; every fifth trial from the fifth fails and the last one is running."""
    draw = random.Random(7)
    files = StudyFolder(folder)
    files.trials.mkdir(parents=True)
    data = study_data(n_objectives, kl_at_most)
    write_whole(files.study_yaml, dump_yaml(data))
    write_whole(files.study_json, _STUDY_JSON)
    spec = StudySpec.model_validate_json(json.dumps(data))
    for number in range(n_trials):
        state = "COMPLETE"
        if number == n_trials - 1 and n_trials > 2:
            state = "RUNNING"
        elif number % 5 == 4:
            state = "FAIL"
        write_trial(files, spec, number, state, draw)
    return files


def write_trial(
    files: StudyFolder, spec: StudySpec, number: int, state: str, draw: random.Random
) -> TrialRecord:
    """Write one trial: 0 is the untouched base, 1 a baseline, the rest are drawn."""
    recipe = _recipe(number, draw)
    n_done = len(recipe.stages) if state == "COMPLETE" else max(0, len(recipe.stages) - 1)
    boundaries = tuple(
        _boundary(files, spec, number, recipe, k, k == len(recipe.stages), draw)
        for k in range(n_done + 1)
    )
    reasons = ("loss is not finite at step 12", f"StageError: {HOSTILE}", FORMULA)
    record = TrialRecord.model_validate(
        {
            "number": number,
            "state": state,
            "reason": reasons[number // 5 % 3] if state == "FAIL" else None,
            "params": {} if not number else {"order": recipe.order_label(), "tone.rank": number},
            "recipe": recipe,
            "baseline": {0: "base", 1: "tone_alone"}.get(number),
            "seed": 0,
            "stages": tuple(_stage_record(stage, draw) for stage in recipe.stages[:n_done]),
            "boundaries": boundaries,
            "seconds": Seconds(load=0.4, train=30.0 * n_done, evaluate=12.0, rest=3.1),
            "started_at": f"2026-11-24T{number // 60 % 24:02d}:{number % 60:02d}:00+00:00",
            "finished_at": None
            if state == "RUNNING"
            else f"2026-11-24T{number // 60 % 24:02d}:{number % 60:02d}:50+00:00",
        }
    )
    folder = files.trial(number)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_record(record)
    return record


Scored = tuple[float, float | None] | None


def write_scored(
    files: StudyFolder,
    number: int,
    tone: Scored,
    kl: Scored,
    state: str = "COMPLETE",
    n_stages: int = 1,
    seconds: float = 10.0,
    reason: str | None = None,
) -> None:
    """Write a trial with given (value, stderr) of `tone` and `retention.kl`; None is missing."""
    stage = _recipe(1, random.Random(0)).stages[0]
    scores = tuple(
        Score(
            name=name,
            value=given[0] if given else None,
            stderr=given[1] if given else None,
            n=64 if given else 0,
            unit=unit,
            direction=direction,
            status="measured" if given else "missing",
            reason=None if given else "nobody looked",
        )
        for name, unit, direction, given in (
            ("tone", "share", "maximise", tone),
            ("retention.kl", "nats/token", "minimise", kl),
        )
    )
    record = TrialRecord(
        number=number,
        state=state,
        reason=reason,
        params={},
        recipe=Recipe(stages=(stage,) * n_stages),
        seed=0,
        boundaries=(Boundary(n_stages=n_stages, digest="d", scores=scores, evaluate_seconds=1.0),),
        seconds=Seconds(train=seconds),
        started_at=f"2026-11-24T00:00:{number:02d}+00:00",
        finished_at=None if state == "RUNNING" else f"2026-11-24T00:01:{number:02d}+00:00",
    )
    files.trial(number).path.mkdir(parents=True)
    files.trial(number).write_record(record)


def write_two_objectives(folder: Path) -> StudyFolder:
    """Write a study without trials whose objectives are `tone` and `retention.kl`, at most 0.5."""
    data = study_data(1, kl_at_most=0.5)
    data["objectives"].append({"score": "retention.kl", "reference": 1.0})
    files = StudyFolder(folder)
    files.trials.mkdir(parents=True)
    write_whole(files.study_yaml, dump_yaml(data))
    return files


def _recipe(number: int, draw: random.Random) -> Recipe:
    tone = Stage(
        influence="tone",
        method="sft",
        adapter=Lora(rank=draw.choice([4, 8, 16]), alpha=16.0, layers="50%-100%"),
        mix={"chat": 0.7, "plain": 0.3},
        dose_tokens=draw.randrange(1000, 6000),
        learning_rate=10 ** draw.uniform(-4, -3),
    )
    taste = Stage(
        influence="taste",
        method="dpo",
        adapter=Full(),
        mix={"pairs": 1.0},
        dose_tokens=draw.randrange(1000, 4000),
        learning_rate=5e-6,
        beta=0.1,
    )
    if number < 2:
        return Recipe(stages=(tone,) * number)
    if number == NOISE:
        return Recipe(stages=(tone.model_copy(update={"dose_tokens": 40}),))
    if number == KNEE:
        tone, taste = (stage.model_copy(update={"dose_tokens": 1500}) for stage in (tone, taste))
        return Recipe(stages=(taste, tone))
    return Recipe(stages=draw.choice([(tone,), (tone, taste), (taste, tone), (taste,)]))


def _stage_record(stage: Stage, draw: random.Random) -> StageRecord:
    trained = stage.dose_tokens + draw.randrange(-60, 60)
    return StageRecord(
        stage=stage,
        digest=f"{draw.getrandbits(64):016x}",
        seed=draw.getrandbits(31),
        trained_tokens=trained,
        n_steps=12,
        n_rows=96,
        tokens_by_source={name: round(trained * share) for name, share in stage.mix.items()},
        passes_by_source={name: round(draw.uniform(0.2, 2.5), 2) for name in stage.mix},
        n_dropped_rows=draw.choice([0, 0, 3]),
        loss_by_step=tuple(round(2.5 - 0.1 * step, 3) for step in range(12)),
        n_trainable=120_000,
        micro_batch_rows=8,
        train_seconds=30.0,
        setup_seconds=1.5,
    )


def _boundary(
    files: StudyFolder,
    spec: StudySpec,
    number: int,
    recipe: Recipe,
    n_stages: int,
    is_last: bool,
    draw: random.Random,
) -> Boundary:
    """Score a model that gains by dose, loses tone to a later taste, and drifts with every token."""
    done = recipe.stages[:n_stages]
    level = {"tone": 0.1, "taste": 0.5}
    efficiency = {KNEE: 0.8, 11: 1.0}.get(number, random.Random(number).uniform(0.3, 0.7))
    for stage in done:
        gain = efficiency * (1 - 2.7 ** (-stage.dose_tokens / 2000))
        level[stage.influence] += (0.95 - level[stage.influence]) * gain
        if stage.influence == "taste":
            level["tone"] *= 0.8
    drift = (sum(stage.dose_tokens for stage in done) / 10000) ** 2
    means = {
        "tone": level["tone"],
        "taste.accuracy": level["taste"] - 0.1,
        "taste.margin": 2 * level["taste"] - 1.5,
        "taste.gain": 3 * (level["taste"] - 0.5),
        "taste.gain_accuracy": level["taste"],
        "prose": 1.1 + drift / 4,
        "retention.bits_per_byte_change": drift / 3,
        "retention.kl": drift,
    }
    scores = tuple(_score(info, means[info.name], draw) for info in spec.score_infos.values())
    holdout: tuple[Score, ...] = ()
    if is_last:
        infos = [i for name, evaluator in spec.holdout.items() for i in evaluator.infos(name)]
        holdout = tuple(
            Score.missing(info, "the judge was away")
            if info.name == "taste_unseen.margin"
            else _score(info, means[info.name.replace("_unseen", "")] * 0.9, draw)
            for info in infos
        )
        folder = files.trial(number)
        folder.write_items(n_stages, False, _items("tone", number, level["tone"], draw))
        folder.write_items(n_stages, True, _items("tone_unseen", number, level["tone"], draw))
    return Boundary(
        n_stages=n_stages,
        digest=f"{n_stages:016x}",
        scores=scores,
        holdout=holdout,
        evaluate_seconds=6.0,
    )


def _score(info: ScoreInfo, mean: float, draw: random.Random) -> Score:
    value = mean if info.name == "retention.kl" else mean + draw.gauss(0, 0.02)
    if info.unit == "share":
        value = min(1.0, max(0.0, value))
    return Score(
        name=info.name,
        value=value,
        stderr=0.0 if info.name == "retention.kl" and not mean else 0.03,
        n=64,
        unit=info.unit,
        direction=info.direction,
    )


def _items(evaluator: str, number: int, level: float, draw: random.Random) -> list[Item]:
    outputs = [
        f"Well, let me think about that. Trial {number} says so, at some length." * 3,
        HOSTILE,
        "```\nfenced\n```\n# heading\n| a | b |",
        "",
    ]
    return [
        Item(
            evaluator=evaluator,
            index=index,
            kind="trivia",
            prompt=PROMPTS[index % len(PROMPTS)] + (HOSTILE if index == 1 else ""),
            output=outputs[index % len(outputs)] if index < 4 or draw.random() < level else "No.",
            values={"satisfied": float(draw.random() < level)},
        )
        for index in range(12)
    ]


_STUDY_JSON = """{
 "created_at": "2026-11-24T00:00:00+00:00",
 "study_hash": "0123456789abcdef",
 "root": "/somewhere/private",
 "launches": [
  {"command": "apportion run study.yaml", "started_at": "2026-11-24T00:00:00+00:00",
   "wall_seconds": 1200.0, "ended": "interrupted"},
  {"command": "apportion resume results/inner_voice", "started_at": "2026-11-24T01:00:00+00:00",
   "wall_seconds": 600.0}
 ],
 "provenance": {"commit": "abc123", "machine": {"cpus": 2, "system": "Linux"},
  "versions": {"torch": "2.13.0", "optuna": "5.0.0"}}
}
"""
