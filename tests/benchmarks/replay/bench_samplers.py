"""Samplers on the replay table: compute until plain TPE's result, hypervolume at equal compute, and an ablation.

    python tests/benchmarks/replay/bench_samplers.py                    # all, 20 seeds: about 20 minutes
    python tests/benchmarks/replay/bench_samplers.py --seeds 3 --only 'stagewise;tpe+store'
    python tests/benchmarks/replay/bench_samplers.py --seeds 10 --only views   # encodings of order and values
    python tests/benchmarks/replay/bench_samplers.py --out results/benchmarks/replay

The measure is the compute that plain Optuna TPE spends on 60 trials, every stage trained and the last model scored,
and the hypervolume that it ends with: medians over its own seeds. `+store` is a study: stages are trained once, every
boundary is scored and told to the sampler. Four simulated workers; seconds and scores are those of real trainings.
All is deterministic but for the time that proposals take, so runs compare exactly.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rivals import BestFirst, Change, NextStageOnly, Stateless, WholePaths, replaced
from simulate import Found, World, plain_search, study_search
from threadpoolctl import threadpool_limits

from search.sampling.stagewise.sampler import StagewiseSampler
from search.spec import SamplerSpec

HERE = Path(__file__).parent
RESULTS = HERE.parents[2] / "results" / "replay"
N_TRIALS = 60
FEWER_SEEDS = {"gp": 20}
"""Optuna's GP takes seconds per proposal."""


@dataclass(frozen=True)
class Search:
    """One way to search."""

    sampler: str
    has_store: bool = True
    change: Change = lambda asker: None


@dataclass(frozen=True)
class View:
    """How a sampler sees the space."""

    per_position: bool = False
    encoding: str = "auto"


PER_POSITION = "tpe, values per position"
VIEWS = {
    f"{sampler}, {encoding}, {'per position' if per_position else 'shared'}{store}": View(
        per_position, encoding
    )
    for store in ("", "+store")
    for sampler in ("tpe", "nsga2")
    for encoding in ("sequence", "keys")
    for per_position in (False, True)
}
"""Searches that differ in how the sampler sees order and values alone, by name; the name begins with its sampler."""
PLAIN: dict[str, tuple[Callable[[int], Any], bool]] = {
    "tpe": (lambda seed: optuna.samplers.TPESampler(seed=seed), True),
    "tpe, all values asked": (lambda seed: optuna.samplers.TPESampler(seed=seed), False),
    PER_POSITION: (lambda seed: optuna.samplers.TPESampler(seed=seed), True),
    "random": (lambda seed: optuna.samplers.RandomSampler(seed=seed), True),
    "nsga2": (lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20), False),
    "gp": (lambda seed: optuna.samplers.GPSampler(seed=seed), False),
}
"""Plain Optuna: sampler by seed, and whether it is asked only for values that the order uses."""

STUDIES = {
    "random+store": Search("random"),
    "tpe+store": Search("tpe"),
    "nsga2+store": Search("nsga2"),
    "best-first+store": Search("stagewise", change=replaced(BestFirst)),
    "stagewise": Search("stagewise"),
    "stagewise: no store": Search(
        "stagewise", False, replaced(StagewiseSampler, prefixes_are_stored=False)
    ),
    "stagewise: cost ignored": Search(
        "stagewise", change=replaced(StagewiseSampler, cost_exponent=0.0)
    ),
    "stagewise: cost in full": Search(
        "stagewise", change=replaced(StagewiseSampler, cost_exponent=1.0)
    ),
    "stagewise: next stage only": Search("stagewise", change=replaced(NextStageOnly)),
    "stagewise: whole paths": Search("stagewise", change=replaced(WholePaths)),
    "stagewise: no state": Search("stagewise", change=replaced(Stateless)),
}

_worlds: dict[View, World] = {}


def _one_thread() -> None:
    threadpool_limits(1)


def world(view: View = View()) -> World:
    """Return the table, loaded once per process."""
    if view not in _worlds:
        _worlds[view] = World.load(
            RESULTS / "table.parquet",
            HERE / "study.yaml",
            per_position=view.per_position,
            encoding=view.encoding,
        )
    return _worlds[view]


def run(name: str, seed: int, compute_seconds: float) -> dict[str, Any]:
    """Return the curve of one search."""
    started = time.process_time()
    view = VIEWS.get(name, View(per_position=name == PER_POSITION))
    kind = name if name not in VIEWS else name.partition(",")[0]
    if name.endswith("+store") and name in VIEWS:
        kind += "+store"
    if kind in PLAIN:
        make, is_conditional = PLAIN[kind]
        found = plain_search(world(view), make, seed, N_TRIALS, is_conditional)
    else:
        search = STUDIES[kind]
        found = study_search(
            world(view),
            SamplerSpec(name=search.sampler, seed=seed, population=20),  # type: ignore[arg-type]
            compute_seconds,
            change=search.change,
            has_store=search.has_store,
        )
    return _curve(found, time.process_time() - started)


def _curve(found: Found, cpu_seconds: float) -> dict[str, Any]:
    return {
        "spent": [round(value, 3) for value in found.spent],
        "hypervolume": [round(float(value), 5) for value in found.hypervolumes(world().table)],
        "clock": round(found.clock[-1], 2),
        "n_trials": found.n_trials,
        "redundancy": round(found.n_tokens_asked / max(1, found.n_tokens_trained), 3),
        "cpu_seconds_per_trial": round(cpu_seconds / found.n_trials, 4),
    }


def to_reach(curve: dict[str, Any], hypervolume: float) -> float:
    """Return the compute until a hypervolume was reached, infinity if it never was."""
    for spent, value in zip(curve["spent"], curve["hypervolume"], strict=True):
        if value >= hypervolume:
            return float(spent)
    return float("inf")


def at_compute(curve: dict[str, Any], compute_seconds: float) -> float:
    """Return the hypervolume that was had at some compute."""
    within = [
        value
        for spent, value in zip(curve["spent"], curve["hypervolume"], strict=True)
        if spent <= compute_seconds
    ]
    return max(within, default=0.0)


def line(name: str, curves: list[dict[str, Any]], compute: float, target: float) -> str:
    """Return one row of the table: quartiles over seeds of both measures."""
    reach = [to_reach(curve, target) / compute for curve in curves]
    equal = [at_compute(curve, compute) / target for curve in curves]
    low, middle, high = np.percentile(reach, [25, 50, 75], method="higher")
    quarter, half, three = np.percentile(equal, [25, 50, 75])
    never = sum(np.isinf(value) for value in reach)
    more = [f"{np.median([curve[key] for curve in curves]):.2f}" for key in ("redundancy",)]
    return (
        f"| {name} | {_number(middle)} ({_number(low)}-{_number(high)}) | {never} of {len(curves)} | "
        f"{half:.2f} ({quarter:.2f}-{three:.2f}) | {' | '.join(more)} |"
    )


def _number(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:.3f}"


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", help="names joined by semicolons, or views; tpe always runs")
    parser.add_argument("--out", type=Path, help="folder for replay.json and replay.md")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    names = arguments.only.split(";") if arguments.only else [*PLAIN, *STUDIES]
    if arguments.only == "views":
        names = list(VIEWS)
    names = ["tpe", *(name for name in names if name != "tpe")]
    with ProcessPoolExecutor(arguments.processes, initializer=_one_thread) as pool:
        tpe = list(
            pool.map(
                run, ["tpe"] * arguments.seeds, range(arguments.seeds), [0.0] * arguments.seeds
            )
        )
        compute = float(np.median([curve["spent"][-1] for curve in tpe]))
        target = float(np.median([curve["hypervolume"][-1] for curve in tpe]))
        share = target / world().table.true_hypervolume
        print(
            f"plain TPE, {N_TRIALS} trials: {compute:.1f} s of compute, {share:.3f} of the true hypervolume"
        )
        print(
            "| search | compute to plain TPE's end | never | hypervolume at equal compute | redundancy |"
        )
        print("|---|---|---|---|---|")
        curves = {}
        for name in names:
            n_seeds = min(arguments.seeds, FEWER_SEEDS.get(name, arguments.seeds))
            curves[name] = (
                tpe
                if name == "tpe"
                else list(pool.map(run, [name] * n_seeds, range(n_seeds), [compute] * n_seeds))
            )
            print(line(name, curves[name], compute, target), flush=True)
            if arguments.out:
                arguments.out.mkdir(parents=True, exist_ok=True)
                kept = {"compute_seconds": compute, "target": target, "curves": curves}
                (arguments.out / "replay.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
