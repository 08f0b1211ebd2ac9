"""What Ray serves to Prometheus of a study."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVED = """
import sys, time, urllib.request
from types import SimpleNamespace
import ray
from search.outcomes import Spent
from search.runner.cluster import started_patiently
from search.runner.metrics import StudyMetrics
from search.spec import BudgetSpec
started_patiently(lambda: ray.init(
    address="local", include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False
))
study = SimpleNamespace(
    spec=SimpleNamespace(name="mine"),
    budget=BudgetSpec(trials=4),
    spent=lambda: Spent(3, 1, 500, 90.0, 130.0),
)
metrics = StudyMetrics(study)
(node,) = ray.nodes()
page = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
for _ in range(120):
    metrics.tick(2)
    try:
        text = urllib.request.urlopen(page, timeout=10).read().decode()
    except OSError as error:
        text = str(error)
    if "apportion_budget_left" in text:
        break
    time.sleep(1)
print(*(line for line in text.splitlines() if "apportion" in line), sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_prometheus_finds_trials_by_state_and_the_budget_left() -> None:
    done = subprocess.run([sys.executable, "-c", SERVED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    values = {
        frozenset(word for word in ("ended", "failed", "running", "left") if word in line): line
        for line in done.stdout.splitlines()
        if not line.startswith("#")
    }
    told = {" ".join(words): float(line.rsplit(" ", 1)[1]) for words, line in values.items()}
    assert told["ended"] == 3
    assert told["failed"] == 1
    assert told["running"] == 2
    assert told["left"] == 0.25
    assert 'study="mine"' in done.stdout
