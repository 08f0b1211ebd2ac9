"""Many workers and many trials with trainings that take no time: what the driver alone can do.

    python tests/benchmarks/bench_many.py [--workers 64] [--trials 2000] [--samplers tpe stagewise]

A whole study as `apportion run` has it (folder, SQLite, records, budget), without Ray: so many proposals are in flight,
one of them at random ends and is told, the next is asked for. Prints, for each tenth of the trials: milliseconds of an
ask (median, 99th percentile, largest), of a tell (median), the driver's memory, and how many workers had a trial. CPU
time, since the machine may be busy. The driver serves one worker after the other: with trials shorter than
workers * (ask + tell), the last column, workers wait for it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import optuna

sys.path.insert(0, str(Path(__file__).parent))
from bench_ask import STUDY, Played

from search.records import Proposal
from search.study import Study
from search.yaml_file import load_study
from spaces.space import Space

OBJECTIVES = ("tone", "structure", "retention")


def study_text(sampler: str, n_trials: int, workers: int) -> str:
    """Return a study whose objectives are the scores that are played."""
    suites = "".join(
        f"  {name}: {{evaluator: preference, source: pairs}}\n" for name in OBJECTIVES[:2]
    )
    head, _, _ = STUDY.partition("suite:\n")
    return (
        f"{head}suite:\n{suites}"
        "objectives: [{score: tone.accuracy}, {score: structure.accuracy}, "
        "{score: retention.kl, reference: 1.5}]\n"
        "constraints: [{score: retention.kl, at_most: 1.2}]\n"
        f"sampler: {{name: {sampler}, seed: 1}}\n"
        f"budget: {{trials: {n_trials}}}\n"
        f"compute: {{concurrent_trials: {workers}}}\n"
        "stopping: {enabled: false}\n"
    )


NAMES = {"tone": "tone.accuracy", "structure": "structure.accuracy", "retention": "retention.kl"}


def played(law: Played, proposal: Proposal) -> Any:
    """Return the record of a trial by the law of bench_ask, under the names of this study's scores."""
    record = law._record(proposal)
    boundaries = tuple(
        boundary.model_copy(
            update={
                "scores": tuple(
                    score.model_copy(update={"name": NAMES[score.name]})
                    for score in boundary.scores
                    if score.name in NAMES
                )
            }
        )
        for boundary in record.boundaries
    )
    return record.model_copy(update={"boundaries": boundaries})


def memory_mb() -> float:
    """Return the resident memory of this process in MB."""
    text = Path("/proc/self/status").read_text()
    return float(text.partition("VmRSS:")[2].split()[0]) / 1024


def bench(sampler: str, workers: int, n_trials: int, folder: Path) -> None:
    """Run one study to its end, or until an ask takes a minute."""
    path = folder / "study.yaml"
    path.write_text(study_text(sampler, n_trials, workers))
    spec = load_study(path)
    study = Study.create(spec, path, folder / "results", "bench")
    law = Played(Space(spec.influences, spec.order), 3, None)
    draw = random.Random(0)
    in_flight: list[Proposal] = []
    asks: list[float] = []
    tells: list[float] = []
    n_done = n_busy = 0
    while n_done < n_trials:
        while len(in_flight) < workers:
            began = time.process_time()
            proposal = study.next()
            if proposal is None:
                break
            asks.append(time.process_time() - began)
            in_flight.append(proposal)
        n_busy += len(in_flight)
        if not in_flight:
            print(f"{sampler}: {study.stop_reason}")
            break
        proposal = in_flight.pop(draw.randrange(len(in_flight)))
        record = played(law, proposal)
        trial = study.folder.trial(proposal.number)
        trial.clear()
        trial.write_record(record)
        began = time.process_time()
        study.finish(record)
        tells.append(time.process_time() - began)
        n_done += 1
        if n_done % max(n_trials // 10, 1) == 0:
            ordered = sorted(asks) or [0.0]
            p99 = ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)]
            median, told = statistics.median(ordered), statistics.median(tells)
            print(
                f"{sampler:10} {n_done:6} trials   ask {1e3 * median:7.0f} ms, p99 {1e3 * p99:7.0f}, largest "
                f"{1e3 * ordered[-1]:7.0f}   tell {1e3 * told:6.0f} ms   {memory_mb():6.0f} MB   "
                f"busy {10 * n_busy / n_trials:5.1f} of {workers}   they wait below {workers * (median + told):5.1f} s",
                flush=True,
            )
            is_hopeless = median > 60
            asks, tells, n_busy = [], [], 0
            if is_hopeless:
                break
    study.close("done")


def main() -> None:
    """Run all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", default=["tpe", "stagewise"])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--trials", type=int, default=2000)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    for sampler in arguments.samplers:
        with tempfile.TemporaryDirectory() as folder:
            bench(sampler, arguments.workers, arguments.trials, Path(folder))


if __name__ == "__main__":
    main()
