"""Two studies that share one store and start at the same moment: each stage is trained once, by either of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from killing import (
    N_TRIALS,
    TWO_WORKERS,
    check_nothing_lost,
    driver,
    outcome,
    read_log,
    started,
    states,
    write_study,
)
from tiny import records

# The second study begins elsewhere, so that each has something to train while the other one trains.
BEGIN_ELSEWHERE = {
    "compute:": "baselines: [{name: a, order: [taste, form]}, {name: b, order: [form, taste]}]\ncompute:"
}


def sharing(tmp_path: Path, seed: int, more: dict[str, str]) -> list[Path]:
    """Write two studies of one space and seed, on one store."""
    studies = []
    for name, begin in (("one", {}), ("two", BEGIN_ELSEWHERE)):
        place = {"sampler:": f"store: {{path: {tmp_path / 'shared'}}}\nsampler:"}
        changes = {"name: tiny": f"name: {name}", **begin, **more, **place}
        studies.append(write_study(tmp_path / name, seed, changes))
    return studies


def losses_and_scores(results: Path) -> dict[str, tuple[Any, Any]]:
    """Return losses and scores, all digits, of each prefix of all recipes."""
    return {
        stage["digest"]: (stage["loss_by_step"], boundary["scores"])
        for record in records(results)
        for stage, boundary in zip(record["stages"], record["boundaries"], strict=False)
    }


def check_shared(log: Path, tmp_path: Path) -> list[Path]:
    """Check two studies that ended, and that they shared all that they could; returns their results."""
    results = [tmp_path / "results/one", tmp_path / "results/two"]
    assert [states(study) for study in results] == [{"COMPLETE": N_TRIALS}] * 2
    check_nothing_lost(log, [], tmp_path / "shared", results)
    one, two = (losses_and_scores(study) for study in results)
    shared = one.keys() & two.keys()
    assert len(shared) >= 5, "they hardly overlap"
    assert {digest: one[digest] for digest in shared} == {digest: two[digest] for digest in shared}
    trained = {event.digest for event in read_log(log) if event.kind == "trained"}
    assert trained == one.keys() | two.keys()
    return results


def test_two_drivers_at_the_same_moment_train_each_shared_stage_once(tmp_path: Path) -> None:
    log, seed = tmp_path / "log", 1
    drivers = [driver(study, tmp_path / "results", log) for study in sharing(tmp_path, seed, {})]
    for process in drivers:
        process.join(120)
    assert [process.exitcode for process in drivers] == [0, 0]
    results = check_shared(log, tmp_path)
    pids = {event.pid for event in read_log(log) if event.kind == "trained"}
    assert pids == {process.pid for process in drivers}, "they did not run at the same time"

    alone = driver(write_study(tmp_path / "alone", seed), tmp_path / "results", tmp_path / "other")
    alone.join(120)
    assert outcome(tmp_path / "results/killed") == outcome(results[0])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_drivers_with_two_workers_each_train_each_shared_stage_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    place = ("--results", str(tmp_path / "results"))
    words = [("run", str(study), *place) for study in sharing(tmp_path, 7, TWO_WORKERS)]
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    with started(words[0], folders[0], log) as one, started(words[1], folders[1], log) as two:
        assert [program.process.wait(400) for program in (one, two)] == [0, 0]
    check_shared(log, tmp_path)
    trained = [event for event in read_log(log) if event.kind == "trained"]
    n_workers = len({event.pid for event in trained})
    print(f"\n{len(trained)} stages trained by {n_workers} workers of two studies")
    assert n_workers > 1
