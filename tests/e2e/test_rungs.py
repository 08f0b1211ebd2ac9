"""Early stopping inside stages through Ray Tune: a trial ends in the middle of a stage, and nobody waits for it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import STUDY as TINY
from tiny import command, environment, records, write_data, write_model

Apportion = Callable[..., subprocess.CompletedProcess[str]]

CHANGES = {
    "name: tiny": "name: rungs",
    "{max_stages: 2}": "{min_stages: 2, max_stages: 3}",
    "{low: 150, high: 600}": "{low: 600, high: 1200}",
    "dose_tokens: 300": "dose_tokens: 1000",
    "sampler: {seed: 5, cost: tokens}": "sampler: {name: random, seed: 5}",
    "{trials: 6}": "{trials: 16}",
    # Trials of both workers begin with the same stages: one waits for what the other one trains.
    "compute: {device: cpu}": "compute: {device: cpu, concurrent_trials: 2}",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a study that stops as soon as one trial has shown what remains, with what it printed."""
    folder = tmp_path_factory.mktemp("rungs")
    write_model(folder / "model")
    write_data(folder)
    text = TINY + "stopping: {alpha: 0.5, audit_share: 0.0, rungs: [0.3, 0.6]}\n"
    for old, new in CHANGES.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "study.yaml").write_text(text)
    done = subprocess.run(
        command("run", "study.yaml"),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (folder / "out.txt").write_text(done.stdout)
    return folder / "results/rungs"


def test_trials_stop_in_the_middle_of_stages_and_the_study_goes_on(finished: Path) -> None:
    told = records(finished)
    assert len(told) == 16
    assert {record["state"] for record in told} == {"COMPLETE", "PRUNED"}
    inside = [record for record in told if (record["reason"] or "").startswith("stopped at ")]
    assert inside
    lines = (finished.parents[1] / "out.txt").read_text()
    for record in inside:
        n_done, n_stages = len(record["stages"]), len(record["recipe"]["stages"])
        assert n_done == len(record["boundaries"]) < n_stages
        rung = record["rungs"][-1]
        assert rung["n_stages"] == n_done
        share = f"{100 * rung['share']:.0f} % of stage {n_done + 1} of {n_stages}"
        assert record["reason"].startswith(f"stopped at {share}: cannot ")
        assert 0 < rung["trained_tokens"] < record["recipe"]["stages"][n_done]["dose_tokens"]
        assert f"trial {record['number']} {record['reason']}; up to " in lines


def test_show_and_report_tell_the_rungs_of_a_trial(finished: Path, apportion: Apportion) -> None:
    record = next(
        each for each in records(finished) if (each["reason"] or "").startswith("stopped at ")
    )
    told = apportion("show", str(finished), str(record["number"])).stdout
    assert record["reason"].split(" (")[0] in " ".join(told.split())
    assert f"{100 * record['rungs'][-1]['share']:.0f} % of {len(record['stages']) + 1}" in told
    assert "not to their end" in " ".join((finished / "report/report.md").read_text().split())
    assert '"share":0.3' in (finished / "report/report.html").read_text()
