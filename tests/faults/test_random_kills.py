"""Drivers and workers killed at random moments: the study ends with its budget met, and no finished stage is lost.

The slow tests kill a hundred times and print what the kills hit:

    python -m pytest tests/faults/test_random_kills.py -m slow -s
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from killing import (
    N_TRIALS,
    TWO_WORKERS,
    Event,
    Kill,
    Program,
    check_nothing_lost,
    driver,
    kill,
    killed_at_random,
    n_completed,
    outcome,
    phase,
    random_moment,
    read_log,
    started,
    states,
    write_study,
)
from ports import Port, listening
from tiny import records

from search.folders import StudyFolder
from search.records import Proposal
from search.yaml_file import load_study


def undisturbed(study: Path, folder: Path) -> Path:
    process = driver(study, folder, folder.with_suffix(".log"))
    process.join(120)
    assert process.exitcode == 0
    return folder / "killed"


def kill_drivers(folder: Path, seed: int, n_kills: int) -> Counter[str]:
    """Kill the driver of one study several times; returns what the kills hit."""
    folder.mkdir(exist_ok=True)
    study, log = write_study(folder / "study", seed=seed), folder / "log"
    numbers = random.Random(seed)
    hits = killed_at_random(study, folder / "results", log, numbers, n_kills)
    results = folder / "results/killed"
    check_nothing_lost(log, hits, results / "store", [results])
    assert states(results) == {"COMPLETE": N_TRIALS}
    assert outcome(results) == outcome(undisturbed(study, folder / "whole"))
    return Counter(phase(hit, log) for hit in hits)


@pytest.mark.slow
def test_a_driver_killed_at_random_moments_loses_no_finished_stage(tmp_path: Path) -> None:
    assert kill_drivers(tmp_path, seed=1, n_kills=6).total() > 2


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_of_80_kills_of_drivers_none_costs_a_finished_stage(tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    seed = 100
    while found.total() < 80:
        seed += 1
        found += kill_drivers(tmp_path / str(seed), seed, min(6, 80 - found.total()))
    print(f"\n{found.total()} kills in {seed - 100} studies, by what they hit: {dict(found)}")


class Launches:
    """One study under Ray with two trials at a time, launched until it ends."""

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir(exist_ok=True)
        self.study = write_study(folder / "study", seed, TWO_WORKERS)
        self.folder, self.log = folder, folder / "log"
        self.results = folder / "results/killed"
        self.hits: list[Kill] = []
        self.n_workers_killed = 0
        self.ports: set[Port] = set()
        self._numbers = random.Random(seed)

    def launch(self, victims: Sequence[str]) -> bool:
        """Run or resume, and kill `driver` or `worker` at random moments; returns whether the study ended."""
        is_new = not (self.results / "study.json").exists()
        words = ("run", str(self.study)) if is_new else ("resume", str(self.results))
        with started(words, self.folder, self.log) as program:
            for victim in victims:
                if random_moment(self.log, self._numbers, program.is_alive):
                    self.ports |= set(listening(program.family()))
                    {"driver": self._kill_driver, "worker": self._kill_worker}[victim](program)
            program.process.wait(240)
            output = (self.folder / "output.txt").read_text()
            assert program.process.returncode in (0, -9), output[-3000:]
            return program.process.returncode == 0

    def _kill_driver(self, program: Program) -> None:
        # Its workers die of it as well, within moments; what they had not committed is not completed.
        family = program.family()
        hit = kill({program.process.pid}, self.log, self.results / "store")
        self.hits.append(hit._replace(pids=frozenset(family)))

    def _kill_worker(self, program: Program) -> None:
        family = program.family()
        workers = {event.pid for event in read_log(self.log)} & family
        if workers:
            worker = self._numbers.choice(sorted(workers))
            self.hits.append(kill({worker}, self.log, self.results / "store"))
            self.n_workers_killed += 1

    def check(self) -> None:
        check_nothing_lost(
            self.log, self.hits, self.results / "store", [self.results], self.n_workers_killed
        )
        assert {port for port in self.ports if not port.is_loopback} == set()
        failed = [record for record in records(self.results) if record["state"] == "FAIL"]
        assert all("the worker process died" in record["reason"] for record in failed)


def kill_under_ray(folder: Path, seed: int, victims: Sequence[Sequence[str]]) -> Launches:
    """Launch a study until it ends, killing some of its processes in each of the first launches."""
    launches = Launches(folder, seed)
    is_ended = any(launches.launch(whom) for whom in victims)
    assert is_ended or launches.launch(())
    launches.check()
    return launches


@pytest.mark.slow
def test_a_worker_and_a_driver_killed_under_ray_lose_no_finished_stage(tmp_path: Path) -> None:
    launches = kill_under_ray(tmp_path, 3, [("worker", "driver")])
    assert len(launches.hits) == 2
    assert launches.n_workers_killed == 1
    assert launches.ports, "nobody looked"


def test_an_actor_that_starts_and_takes_no_step_leaves_its_trial_alone(tmp_path: Path) -> None:
    # Tune starts an actor for a trial and gives the trial to another one that comes free before: after a worker died,
    # and whenever loading takes longer than a trial. What the late actor does in its set-up hits a finished trial.
    from search.attempts import Attempts
    from search.holding import take_hold
    from search.runner.searcher import ATTEMPT, NUMBER, PROPOSAL
    from search.runner.trainable import RecipeTrainable

    study = write_study(tmp_path / "study", 1)
    results = undisturbed(study, tmp_path / "results")
    trial = StudyFolder(results).trial(1)
    before = trial.read_record()
    assert before is not None
    proposal = Proposal(1, before.params, before.recipe, before.baseline)
    actor = object.__new__(RecipeTrainable)
    config = {NUMBER: 1, PROPOSAL: proposal, ATTEMPT: Attempts(results).begin(1)}
    hold = take_hold(results, "run")
    actor.setup(config, load_study(study), str(study.parent), str(results), hold.token)
    assert trial.read_record() == before
    actor.reset_config(config)
    assert trial.read_record() == before
    actor.step()
    hold.release()
    assert trial.read_record() != before


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_20_kills_under_ray_none_costs_a_finished_stage(tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    n_failed, n_workers, seed = 0, 0, 200
    while found.total() < 20:
        seed += 1
        victims = random.Random(seed).choices([("driver",), ("worker", "driver"), ("worker",)], k=2)
        launches = kill_under_ray(tmp_path / str(seed), seed, victims)
        found += Counter(phase(hit, launches.log) for hit in launches.hits)
        n_workers += launches.n_workers_killed
        n_failed += states(launches.results)["FAIL"]
    print(f"\n{found.total()} kills in {seed - 200} studies, by what they hit: {dict(found)}")
    print(f"{n_workers} of them of workers; {n_failed} trials failed with theirs")


def test_a_stage_trained_twice_is_counted_twice() -> None:
    def events(*lines: str) -> list[Event]:
        return [Event(kind, digest, int(pid)) for kind, digest, pid in map(str.split, lines)]

    hit = [Kill(frozenset({1}), 0, {})]
    twice = events("trained a 1", "stored a 1", "trained a 2")
    assert n_completed(twice, []) == {"a": 2}
    assert n_completed(twice, hit) == {"a": 2}
    cut = events("trained a 1", "trained a 2", "stored a 2")
    assert n_completed(cut, []) == {"a": 2}
    assert n_completed(cut, hit) == {"a": 1}
    assert n_completed(events("trained a 1"), hit) == {"a": 1}  # its commit stands
