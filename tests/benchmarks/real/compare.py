"""A plain Ray Tune + OptunaSearch + TRL script against apportion: one study, one machine, equal wall seconds.

    python tests/benchmarks/real/compare.py small --sampler tpe --trials 60 --seeds 0 1 2 [--confirm 2]

Per seed, plain.py tries --trials recipes; then `apportion run` gets as many wall seconds as that took. Both clocks
start when the process is launched, so imports and Ray's start count on both sides. Prints one fact a line and writes
results/benchmarks/real/<study>_<sampler>.json and .md. README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from report import markdown, summary
from studies import ENVIRONMENT, HERE, TOP, apportion, prepare_study, write_study
from timeline import (
    Goal,
    Observation,
    hypervolume_at,
    hypervolume_curve,
    ratio,
    seconds_to_reach,
)

from search.folders import StudyFolder
from search.provenance import provenance
from search.records import TrialRecord
from search.spec import StudySpec
from search.yaml_file import load_study

LOAD_SECONDS = 5.0
"""Seconds between two looks at the load average."""
CONFIRM_SEED = 1_000_001
"""First seed of re-measured trainings; searches have small ones."""
Facts = dict[str, Any]


def run_plain(study: Path, n_trials: int, seed: int, out: Path) -> tuple[list[Observation], Facts]:
    """Run plain.py."""
    goal = Goal.of(load_study(study))
    words = [str(HERE / "plain.py"), str(study), "--trials", str(n_trials), "--seed", str(seed)]
    started, load = _run([sys.executable, *words, "--out", str(out)], out.with_suffix(".log"))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    observations = []
    for row in rows:
        losses = goal.losses(row["scores"])
        if losses is not None:
            observations.append(Observation(row["ended_at"] - started, losses, row["recipe"]))
    if not observations:
        raise SystemExit(f"plain.py scored no model; see {out.with_suffix('.log')}")
    parts: dict[str, float] = {}
    for row in rows:
        for part, value in row["seconds"].items():
            parts[part] = round(parts.get(part, 0.0) + value, 3)
    facts = {
        "wall_seconds": max(row["ended_at"] for row in rows) - started,
        "load_average": load,
        "first_score_seconds": min(each.seconds for each in observations),
        "n_trials": len(rows),
        "n_models": len(observations),
        "seconds_by_part": parts,
        "cpu_seconds": round(sum(row["cpu_seconds"] for row in rows), 1),
        "tokens": sum(row["tokens"] for row in rows),
    }
    return observations, facts


def run_apportion(study: Path, results: Path) -> tuple[list[Observation], Facts]:
    """Run `apportion run`; each boundary with all objectives is an observation, at the time it was written."""
    spec = load_study(study)
    goal = Goal.of(spec)
    words = [*apportion(), "run", str(study), "--results", str(results)]
    started, load = _run(words, results / "apportion.log")
    folder = StudyFolder(results / spec.name)
    records = folder.records()
    observations, n_undated, n_measured = [], 0, 0
    for record in records:
        for boundary in record.boundaries:
            if boundary.n_stages < spec.order.min_stages:
                continue
            losses = goal.losses({score.name: score.value for score in boundary.scores})
            items = folder.trial(record.number).items_file(boundary.n_stages, holdout=False)
            if items.is_file():
                ended = items.stat().st_mtime
            else:
                n_undated += 1
                ended = _ended(record)
            n_measured += not boundary.is_stored
            if losses is not None:
                recipe = record.recipe.prefix(boundary.n_stages).model_dump(mode="json")
                observations.append(Observation(ended - started, losses, recipe))
    if not observations:
        raise SystemExit(f"apportion scored no model; see {results / 'apportion.log'}")
    stages = [stage for record in records for stage in record.stages]
    n_trained = sum(stage.trained_tokens for stage in stages if not stage.is_stored)
    parts = {
        part: round(sum(getattr(record.seconds, part) for record in records), 3)
        for part in ("load", "train", "evaluate", "rest")
    }
    return observations, {
        "load_average": load,
        "first_score_seconds": min(each.seconds for each in observations),
        "n_trials": len(records),
        "n_failed": sum(record.state == "FAIL" for record in records),
        "n_models": n_measured,
        "n_boundaries_dated_by_their_trial": n_undated,
        "redundancy_factor": ratio(sum(stage.trained_tokens for stage in stages), n_trained),
        "seconds_by_part": parts,
        "tokens": n_trained,
    }


def compare(
    study: Path, sampler: str, n_trials: int, seed: int, n_confirm: int, work: Path
) -> Facts:
    """Run both sides with one seed and return what came out."""
    goal = Goal.of(load_study(study))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    file = write_study(study, "tpe", seed, None)
    plain, plain_facts = run_plain(file, n_trials, seed, work / "plain.jsonl")
    budget = plain_facts["wall_seconds"]
    file = write_study(study, sampler, seed, round(budget, 1))
    ours, our_facts = run_apportion(file, work / "apportion")
    curves = {"plain": hypervolume_curve(plain, goal), "apportion": hypervolume_curve(ours, goal)}
    final = hypervolume_at(curves["plain"], budget)
    reached = seconds_to_reach(curves["apportion"], final) if final else None
    if reached is not None and reached > budget:
        reached = None  # A trial that had begun in time ended later; at equal wall time it does not count.
    facts: Facts = {
        "seed": seed,
        "plain": plain_facts
        | {"hypervolume": final, "seconds_to_it": seconds_to_reach(curves["plain"], final)},
        "apportion": our_facts
        | {"hypervolume": hypervolume_at(curves["apportion"], budget), "seconds_to_it": reached},
        "curves": {
            side: [(round(at, 2), value) for at, value in curve] for side, curve in curves.items()
        },
    }
    facts["share_of_plains_wall_seconds"] = ratio(reached, budget)
    facts["share_of_seconds_plain_needed"] = ratio(reached, facts["plain"]["seconds_to_it"])
    facts["hypervolume_ratio_at_equal_wall_time"] = ratio(facts["apportion"]["hypervolume"], final)
    if n_confirm:
        in_time = [each for each in ours if each.seconds <= budget]
        fronts = {"plain": goal.front(plain), "apportion": goal.front(in_time)}
        facts["confirmed"] = confirm(file, goal, fronts, n_confirm, work)
    return facts


def confirm(
    study: Path, goal: Goal, fronts: dict[str, list[Observation]], n_seeds: int, work: Path
) -> Facts:
    """Train both fronts again with other seeds, each with its own trainer, and return the hypervolumes of the means."""
    running = {}
    for side, front in fronts.items():
        recipes = work / f"front_{side}.json"
        recipes.write_text(json.dumps([each.recipe for each in front]))
        words = [str(HERE / "confirm.py"), str(study), "--recipes", str(recipes)]
        words += ["--trainer", side, "--out", str(work / f"confirmed_{side}.json"), "--seeds"]
        words += [str(CONFIRM_SEED + at) for at in range(n_seeds)]
        with (work / f"confirm_{side}.log").open("w") as log:
            running[side] = subprocess.Popen(
                [sys.executable, *words], env=ENVIRONMENT, cwd=work, stdout=log, stderr=log
            )
    facts: Facts = {"n_seeds": n_seeds}
    for side, process in running.items():
        if process.wait():
            raise SystemExit(f"confirm.py failed; see {work / f'confirm_{side}.log'}")
        means, n_lost = [], 0
        for by_seed in json.loads((work / f"confirmed_{side}.json").read_text()):
            losses = [goal.losses(scores or {}) for scores in by_seed]
            known = [each for each in losses if each is not None]
            n_lost += len(known) < len(losses)
            if len(known) == len(losses):
                means.append(
                    tuple(sum(values) / len(values) for values in zip(*known, strict=True))
                )
        facts[side] = {
            "n_recipes": len(fronts[side]),
            "n_lost": n_lost,
            "hypervolume_seen": goal.hypervolume([each.losses for each in fronts[side]]),
            "hypervolume": goal.hypervolume(means),
        }
    facts["ratio"] = ratio(facts["apportion"]["hypervolume"], facts["plain"]["hypervolume"])
    return facts


def _run(words: list[str], log: Path) -> tuple[float, float]:
    """Run a command to its end.

    Returns:
        Time of its launch in seconds since the epoch, and the mean load average meanwhile: well above the number of
        trials at a time, somebody else was at work.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    loads = []
    with log.open("w") as stream:
        process = subprocess.Popen(words, env=ENVIRONMENT, cwd=TOP, stdout=stream, stderr=stream)
        try:
            while process.poll() is None:
                loads.append(os.getloadavg()[0])
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOAD_SECONDS)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SystemExit(f"{' '.join(words[:3])} ended with {process.returncode}; see {log}")
    return started, round(statistics.mean(loads), 2)


def _ended(record: TrialRecord) -> float:
    return datetime.fromisoformat(record.finished_at or record.started_at).timestamp()


def machine() -> Facts:
    """Return what ran where, without names of folders."""
    known = provenance()
    return {
        name: known[name] for name in ("commit", "is_modified", "versions", "python", "machine")
    }


def described(spec: StudySpec) -> Facts:
    """Return what of a study a reader of the results wants to know."""
    return {
        "name": spec.name,
        "objectives": [each.model_dump(exclude_none=True) for each in spec.objectives],
        "concurrent_trials": spec.compute.concurrent_trials,
    }


def main() -> None:
    """Compare, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", help="small, demo, or a study file")
    parser.add_argument("--sampler", required=True, help="apportion's; the plain script has tpe")
    parser.add_argument("--trials", type=int, required=True, help="of the plain script")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--confirm", type=int, default=0, metavar="N", help="train both fronts again with N seeds"
    )
    parser.add_argument("--work", type=Path, default=TOP / ".demo" / "real")
    parser.add_argument("--out", type=Path, default=TOP / "results" / "benchmarks" / "real")
    options = parser.parse_args()
    study = prepare_study(options.study)
    spec = load_study(study)
    options.out.mkdir(parents=True, exist_ok=True)
    report: Facts = {
        "study": described(spec),
        "sampler": options.sampler,
        "n_trials": options.trials,
        "date": datetime.now(UTC).date().isoformat(),
        **machine(),
        "runs": [],
    }
    target = options.out / f"{spec.name}_{options.sampler}"
    for seed in options.seeds:
        work = options.work.resolve() / spec.name / f"{options.sampler}_{seed}"
        report["runs"].append(
            compare(study, options.sampler, options.trials, seed, options.confirm, work)
        )
        report["summary"] = summary(report["runs"])
        target.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        target.with_suffix(".md").write_text(markdown(report))
        print(f"seed {seed} done, {datetime.now():%H:%M:%S}", flush=True)
    print(markdown(report))


if __name__ == "__main__":
    main()
