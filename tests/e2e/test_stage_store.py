"""The stage store in whole studies: nothing is trained twice, and nothing changes by not training it twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import command, environment, records, substance

Apportion = Callable[..., subprocess.CompletedProcess[str]]

# Fixed values, so that prefixes meet: three influences in orders of up to three stages share many.
SHARED = {
    "dose_tokens: {low: 150, high: 600}, learning_rate: {low: 1e-3, high: 1e-2, log: true}": (
        "dose_tokens: 300, learning_rate: 5e-3"
    ),
    "rank: {choice: [2, 4]}": "rank: 2",
    "{max_stages: 2}": "{max_stages: 3}",
    "{trials: 6}": "{trials: 10}",
}


def study_with(tiny_study: Path, folder: Path, extra: str = "", name: str = "tiny") -> Path:
    text = (tiny_study / "study.yaml").read_text()
    for old, new in SHARED.items():
        assert old in text
        text = text.replace(old, new)
    text = text.replace("name: tiny", f"name: {name}") + extra
    folder.mkdir(exist_ok=True)
    for path in (*tiny_study.glob("*.jsonl"), tiny_study / "model"):
        (folder / path.name).symlink_to(path)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def trained(results: Path) -> list[str]:
    """Digests of the stages that were really trained, with repeats."""
    return [
        stage["digest"]
        for record in records(results)
        for stage in record["stages"]
        if not stage["is_stored"]
    ]


def test_each_prefix_is_trained_once_and_scores_are_those_of_a_study_without_a_store(
    tiny_study: Path, apportion: Apportion, tmp_path: Path
) -> None:
    stored = study_with(tiny_study, tmp_path / "with")
    plain = study_with(tiny_study, tmp_path / "without", "store: {enabled: false}\n", "plain")
    apportion("run", str(stored))
    apportion("run", str(plain))
    assert substance(tmp_path / "results/tiny") == substance(tmp_path / "results/plain")
    once, again = trained(tmp_path / "results/tiny"), trained(tmp_path / "results/plain")
    assert len(once) == len(set(once))
    assert set(once) == set(again)
    assert len(again) > len(once), "no two recipes shared a prefix: the test shows nothing"
    assert not (tmp_path / "results/plain/store").exists()


@pytest.mark.slow
def test_second_study_on_the_same_store_trains_nothing(
    tiny_study: Path, apportion: Apportion, tmp_path: Path
) -> None:
    place = f"store: {{path: {tmp_path / 'shared'}}}\n"
    first = study_with(tiny_study, tmp_path / "one", place, "one")
    second = study_with(tiny_study, tmp_path / "two", place, "two")
    apportion("run", str(first))
    apportion("run", str(second))
    assert substance(tmp_path / "results/one") == substance(tmp_path / "results/two")
    assert trained(tmp_path / "results/two") == []
    spent = json.loads(apportion("status", "results/two", "--json").stdout)
    assert spent["train_tokens"] == 0


@pytest.mark.slow
def test_killed_study_trains_no_finished_stage_again(
    tiny_study: Path, apportion: Apportion, tmp_path: Path
) -> None:
    study = study_with(tiny_study, tmp_path / "study")
    results = tmp_path / "results/tiny"
    driver = subprocess.Popen(
        command("run", str(study)),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(trained(results)) < 4:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(1)
    # A manifest names the attempt that trained it.
    manifests = {path: path.read_bytes() for path in results.glob("store/**/manifest.json")}
    assert len(manifests) >= 4
    apportion("resume", str(results))
    assert all(path.read_bytes() == written for path, written in manifests.items())
    assert all(record["state"] == "COMPLETE" for record in records(results))
    assert len(records(results)) == 10
    once = trained(results)
    assert len(once) == len(set(once))
