"""The cluster examples are what Ray and KubeRay take, ask for tokens, and run commands that there are."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

import search.cli.main

FOLDER = Path(__file__).resolve().parents[2] / "search/examples/cluster"
PINNED = dict(
    line.split("==")
    for line in (FOLDER.parents[2] / "constraints.txt").read_text().split()
    if "==" in line
)


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def check_command(words: list[str]) -> None:
    assert words[:4] == ["python", "-m", "search.cli.main", "run"]
    run = get_command(search.cli.main.app).commands["run"]  # type: ignore[attr-defined]
    assert run.make_context("run", words[4:]).params["or_resume"]


def test_machines_are_what_ray_up_takes_and_none_starts_without_a_token() -> None:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler/ray-schema.json").read_text())
    machines = read("machines.yaml")
    jsonschema.validate(machines, schema)
    starts = [
        line
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in machines[key]
        if "ray start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in machines["file_mounts"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**machines, "workers": 3}, schema)


def test_job_on_kubernetes_has_a_token_shares_a_folder_and_can_be_started_again() -> None:
    job = read("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == PINNED["ray"]
    assert job["spec"]["backoffLimit"] > 0
    words = shlex.split(job["spec"]["entrypoint"])
    check_command(words)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
        assert set(mounts) <= claims
        assert any(path in words[-1] and path in words[4] for path in mounts.values())
        assert container["resources"]["limits"] == container["resources"]["requests"]
    workers = cluster["workerGroupSpecs"][0]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert cluster["enableInTreeAutoscaling"] is True


def test_the_command_of_the_job_is_the_one_that_submit_hands_in() -> None:
    from pathlib import PurePosixPath

    from search.runner.jobs import entrypoint

    check_command(shlex.split(entrypoint("python", PurePosixPath("study.yaml"), "/shared/results")))
