"""Whole studies in processes that a test may kill, and a log of every stage that any of them trains.

The log is written by the processes that train, one line per event, so it also knows of work that nobody recorded.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import psutil
from tiny import STUDY, command, environment, records, write_data, write_model

LOG = "STAGES_LOG"
"""Environment variable with the path of the log."""

# Few values, so that prefixes meet; full weights, adapters that stay and adapters that are merged.
SHARED = {
    "dose_tokens: {low: 150, high: 600}, learning_rate: {low: 1e-3, high: 1e-2, log: true}": (
        "dose_tokens: {choice: [150, 300]}, learning_rate: 5e-3, handoff: stack"
    ),
    "rank: {choice: [2, 4]}": "rank: 2",
    "{max_stages: 2}": "{max_stages: 3}",
    "{trials: 6}": "{trials: 10}",
}
N_TRIALS = 10
TWO_WORKERS = {"{device: cpu}": "{device: cpu, concurrent_trials: 2}"}


class Event(NamedTuple):
    """One line of the log."""

    kind: str
    """`begun`: the optimizer starts; `trained`: it is through; `stored`: the commit has returned."""
    digest: str
    pid: int


def watch(prefixes: ModuleType) -> None:
    """Let `search.prefixes` write into the log what it trains and stores."""
    log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    digests: list[str] = []

    def note(kind: str, digest: str) -> None:
        os.write(log, f"{kind} {digest} {os.getpid()}\n".encode())

    train, run, commit = (
        prefixes.Prefixes._train,
        prefixes.run_stage,
        prefixes.StageStore.commit,
    )

    def noted_train(self: Any, number: int, lease: Any) -> Any:
        digests.append(self._digests[number])
        try:
            return train(self, number, lease)
        finally:
            digests.pop()

    def noted_run(*args: Any, **kwargs: Any) -> Any:
        note("begun", digests[-1])
        outcome = run(*args, **kwargs)
        note("trained", digests[-1])
        return outcome

    def noted_commit(self: Any, lease: Any, files: Path, meta: Any) -> Any:
        entry = commit(self, lease, files, meta)
        note("stored", lease.digest)
        return entry

    prefixes.Prefixes._train = noted_train
    prefixes.run_stage = noted_run
    prefixes.StageStore.commit = noted_commit


class Hook(MetaPathFinder):
    """Watches `search.prefixes` as soon as a process imports it: for workers that Ray starts."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "search.prefixes":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            watch(module)

        loader.exec_module = exec_module
        return spec


def read_log(log: Path) -> list[Event]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [Event(kind, digest, int(pid)) for kind, digest, pid in (line.split() for line in lines)]


def watched_environment(folder: Path, log: Path) -> dict[str, str]:
    """Return the environment of a command whose processes, Ray's workers too, write the log."""
    folder.mkdir(exist_ok=True)
    start = "import sys, killing; sys.meta_path.insert(0, killing.Hook())\n"
    (folder / "sitecustomize.py").write_text(start)
    places = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    return {
        **environment(),
        "PYTHONPATH": os.pathsep.join(place for place in places if place),
        LOG: str(log),
    }


def write_study(folder: Path, seed: int, changes: dict[str, str] | None = None) -> Path:
    """Write a study of ten trials over a few dozen recipes of up to three stages, with model and data."""
    text = STUDY
    drawn = {
        "name: tiny": "name: killed",
        "sampler: {seed: 5, cost: tokens}": f"sampler: {{name: random, seed: {seed}}}",
    }
    for old, new in (SHARED | drawn | (changes or {})).items():
        assert old in text
        text = text.replace(old, new)
    return write_files(folder, text)


def write_files(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    if not (folder / "model").exists():
        write_model(folder / "model")
        write_data(folder)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def drive(study_yaml: Path, results: Path, log: Path) -> None:
    """Run a study, or go on with it, in this process; what Ray does in the program is a loop here."""
    os.environ[LOG] = str(log)
    import search.prefixes
    from search.errors import StudyError
    from search.lab import Lab
    from search.store import StageStore
    from search.study import Study
    from search.trial import TrialRun
    from search.yaml_file import load_study

    watch(search.prefixes)
    spec = load_study(study_yaml)
    try:
        study = Study.open(results / spec.name, "apportion resume")
    except StudyError:
        study = Study.create(spec, study_yaml, results, "apportion run")
    root = study.folder.store_root(study.spec, study.root)
    lab: Lab | None = None
    while (proposal := study.next()) is not None:
        lab = lab or Lab.load(spec, study.root, StageStore(root) if root else None)
        run = TrialRun(lab, study.folder.trial(proposal.number), proposal)
        while not run.step():
            pass
        study.finish(run.record)
    study.close(study.stop_reason or "no reason")


def _context() -> multiprocessing.context.ForkServerContext:
    """Return a context whose processes come with torch imported and start in a moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["search.trial", "search.study", "peft", "trl"])
    return context


def driver(study_yaml: Path, results: Path, log: Path) -> Any:
    """Start `drive` in a process of its own."""
    process = _context().Process(target=drive, args=(study_yaml, results, log))
    process.start()
    return process


class Kill(NamedTuple):
    """What a kill hit."""

    pids: frozenset[int]
    """Processes that died of it."""
    n_events: int
    """Lines of the log before it."""
    manifests: dict[Path, bytes]
    """Entries of the store before it."""


def manifests(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.glob("entries/*/*/manifest.json")}


def kill(pids: set[int], log: Path, store: Path) -> Kill:
    """Kill processes at once, all of them children of this test."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return Kill(frozenset(pids), len(read_log(log)), manifests(store))


def phase(hit: Kill, log: Path) -> str:
    """Say what the killed processes were at."""
    last = [event for event in read_log(log)[: hit.n_events] if event.pid in hit.pids][-1:]
    names = {
        "begun": "training",
        "trained": "storing beside scoring",
        "stored": "scoring, telling, asking or loading",
    }
    return names[last[0].kind] if last else "starting, or reading what is stored"


def random_moment(log: Path, numbers: random.Random, is_alive: Callable[[], bool]) -> bool:
    """Wait for a random moment of a process: of its start, or of its work; False if it ends before."""
    n_more = numbers.randint(0, 8)
    n_events, longest = len(read_log(log)) + n_more, 0.2 if n_more else 1.5
    moment = time.monotonic() + 120
    has_come = False
    while is_alive() and time.monotonic() < moment:
        if not has_come and len(read_log(log)) >= n_events:
            has_come = True
            moment = time.monotonic() + numbers.uniform(0, longest)
        time.sleep(0.005)
    assert has_come or not is_alive(), "nothing is trained"
    return is_alive()


def killed_at_random(
    study_yaml: Path, results: Path, log: Path, numbers: random.Random, n_kills: int
) -> list[Kill]:
    """Run a study to its end, whose driver is killed up to `n_kills` times."""
    hits: list[Kill] = []
    while True:
        process = driver(study_yaml, results, log)
        if len(hits) < n_kills and random_moment(log, numbers, process.is_alive):
            hits.append(kill({process.pid}, log, results / "killed/store"))
            process.join()
            continue
        process.join(120)
        assert process.exitcode == 0
        return hits


class Program:
    """A running `apportion` and all the processes that it has started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._family: set[psutil.Process] = set()

    def is_alive(self) -> bool:
        """Tell whether the driver runs."""
        return self.process.poll() is None

    def family(self) -> set[int]:
        """Return the numbers of its processes that live."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            self._family |= {top, *top.children(recursive=True)}
        return {member.pid for member in self._family if member.is_running()}

    def end(self) -> None:
        """Kill what is left of them."""
        self.family()
        for member in self._family:
            with suppress(psutil.NoSuchProcess):  # a number that was given away is not killed
                member.kill()
        self.process.wait()


@contextmanager
def started(words: tuple[str, ...], folder: Path, log: Path) -> Iterator[Program]:
    """Run `apportion` in a folder; whatever it started is dead afterwards."""
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            command(*words),
            cwd=folder,
            env=watched_environment(folder / "hook", log),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    program = Program(process)
    try:
        yield program
    finally:
        program.end()


def states(results: Path) -> Counter[str]:
    """Trials of the storage by state; repeats and prefixes, which cost nothing, are left out."""
    with sqlite3.connect(results / "study.db") as database:
        rows = database.execute(
            "select trials.state from trials where trial_id not in "
            "(select trial_id from trial_user_attributes where key in ('not_trained', 'prefix_of'))"
        )
        return Counter(state for (state,) in rows)


def check_nothing_lost(
    log: Path, hits: list[Kill], stores: Path, results: list[Path], n_failed: int = 0
) -> None:
    """Check a finished study: budget, storage, and that no finished stage was lost or trained again."""
    from search.store import StageStore

    events = read_log(log)
    for study in results:
        told = states(study)
        assert told["COMPLETE"] + told["FAIL"] == N_TRIALS == told.total(), told
        assert told["FAIL"] <= n_failed, told
        assert Counter(record["state"] for record in records(study)) == told, "folders differ"
    end = manifests(stores)
    for hit in hits:
        kept = {path.parent.name for path in hit.manifests}
        again = {e.digest for e in events[hit.n_events :] if e.kind == "begun"} & kept
        assert again == set(), "stored before the kill, and trained after it"
        lost = [path for path, written in hit.manifests.items() if end.get(path) != written]
        assert lost == [], "stored before the kill, and not or not the same in the end"
    seen: set[str] = set()
    for event in events:
        assert event.kind != "begun" or event.digest not in seen, "trained though it was stored"
        if event.kind == "stored":
            assert event.digest not in seen, "stored twice"
            seen.add(event.digest)
    stored = {path.parent.name for path in end}
    assert seen <= stored, "stored, and not there in the end"
    completed = n_completed(events, hits)
    assert completed == dict.fromkeys(stored, 1), f"completed trainings: {completed}"
    recorded = Counter(
        stage["digest"]
        for study in results
        for record in records(study)
        for stage in record["stages"]
        if not stage["is_stored"]
    )
    assert set(recorded) <= stored, "a record names a stage that is not stored"
    assert set(recorded.values()) == {1}, "two trials say that they trained a stage"
    # What a trial trained that failed later may stand in no record.
    assert n_failed or set(recorded) == stored, "no trial says that it trained a stage"
    assert StageStore(str(stores)).verify() == []


def n_completed(events: list[Event], hits: list[Kill]) -> Counter[str]:
    """Count completed trainings by digest.

    A process that was killed between the last step and the end of its commit has completed nothing, unless that commit
    stands: then nobody trained the stage after it.
    """
    killed = {pid for hit in hits for pid in hit.pids}
    trained = [event for event in events if event.kind == "trained"]
    counts: Counter[str] = Counter()
    for place, event in enumerate(trained):
        was_cut = event.pid in killed and event._replace(kind="stored") not in events
        is_last = event.digest not in {later.digest for later in trained[place + 1 :]}
        counts[event.digest] += is_last or not was_cut
    return +counts


def outcome(results: Path) -> list[tuple[Any, ...]]:
    """What must be equal whatever was stored before: recipes, losses and scores, all digits."""
    return [
        (
            json.dumps(record["recipe"]),
            [(stage["digest"], stage["loss_by_step"]) for stage in record["stages"]],
            [(b["digest"], b["scores"], b["holdout"]) for b in record["boundaries"]],
        )
        for record in records(results)
    ]
