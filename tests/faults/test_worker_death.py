"""A worker that is killed, and one that hangs, in a whole study: the first is tried again, the second fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tiny import STUDY, command, environment, records, write_data, write_model

EVALUATOR = """
import os, signal, time
from pathlib import Path
from evaluators.base import score
from evaluators.replies import ReplyEvaluator
from evaluators.reply_specs import ReplySpec
from evaluators.scores import Measurement, ScoreInfo
from evaluators.stats import mean_estimate

class SabotageSpec(ReplySpec):
    def infos(self, name):
        return (ScoreInfo(name=name, unit="share", direction="maximise"),)

class Sabotage(ReplyEvaluator):
    version = 1
    spec_class = SabotageSpec

    def measure(self, model, reference, outputs):
        calls = Path(os.environ["SABOTAGE_CALLS"])
        with calls.open("a") as file:
            file.write("x")
        n_calls = len(calls.read_text())
        if n_calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if n_calls == 4:
            time.sleep(10_000)
        mean = score(self.infos[0], mean_estimate([1.0, 0.0]), 2)
        return Measurement(scores=(mean,), items=())
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_worker_is_tried_again_and_one_that_hangs_fails_its_trial(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    write_data(tmp_path)
    (tmp_path / "sabotage.py").write_text(EVALUATOR)
    text = STUDY.replace(
        "suite:\n", 'suite:\n  broken: {evaluator: "sabotage:Sabotage", source: ask}\n'
    )
    text = text.replace("budget: {trials: 6}", "budget: {trials: 3}\nstopping: {hang_seconds: 60}")
    text = text.replace("order: {max_stages: 2}", "order: {max_stages: 1}")
    (tmp_path / "study.yaml").write_text(text)
    done = subprocess.run(
        command("run", "study.yaml"),
        cwd=tmp_path,
        env={
            **environment(),
            "SABOTAGE_CALLS": str(tmp_path / "calls"),
            "PYTHONPATH": f"{tmp_path}:{environment().get('PYTHONPATH', '')}",
        },
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    base, killed, hung = records(tmp_path / "results/tiny")
    assert (base["state"], base["lost_attempts"]) == ("COMPLETE", [])
    assert killed["state"] == "COMPLETE"
    assert [each["kind"] for each in killed["lost_attempts"]] == ["worker"]
    assert "trial 1 is tried again in 5 s" in done.stdout
    assert (hung["state"], hung["failure"]["kind"]) == ("FAIL", "hang")
    assert "nothing was done for 60 seconds (stopping.hang_seconds)" in hung["reason"]
    assert "in the evaluation after stage 1 of 1" in hung["reason"]
    # Not in a dozen lines of Ray's own.
    assert "raylet" not in done.stdout + done.stderr
    assert "sabotage.py" in (tmp_path / "results/tiny/trials/0002/hang.txt").read_text()
