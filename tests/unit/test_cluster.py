"""Which cluster a study joins, what it shows there, and where trials fit. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from search.compute_spec import ComputeSpec, checked_address
from search.errors import StudyError
from search.runner import cluster
from search.runner.placement import trial_resources

SMALL, LARGE = {"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0, "accelerator_type:H200": 1.0}


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head.ray.svc:6379", "[::1]:6379"])
def test_addresses_of_control_services_are_taken(address: str) -> None:
    assert checked_address(address) == address


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("http://10.0.0.1:8265", "apportion submit --address"),
        ("ray://10.0.0.1:10001", "apportion submit"),
        ("10.0.0.1", "write HOST:PORT or auto"),
        ("10.0.0.1:99999", "write HOST:PORT or auto"),
        ("host:1; rm x", "write HOST:PORT or auto"),
    ],
)
def test_other_addresses_are_refused_with_what_to_write(address: str, remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        ComputeSpec(address=address)


def test_ray_of_our_own_gets_a_fresh_token_and_listens_locally() -> None:
    one, two = (cluster._own_authentication({}) for _ in range(2))
    assert one["RAY_AUTH_MODE"] == "token"
    assert one["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert len(one["RAY_AUTH_TOKEN"]) == 64
    assert one["RAY_AUTH_TOKEN"] != two["RAY_AUTH_TOKEN"]


def asking(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """Let every control service ask for a token; None lets anybody in."""

    def asks(address: str, environment: Mapping[str, str]) -> bool:
        shown = environment.get("RAY_AUTH_TOKEN") if environment["RAY_AUTH_MODE"] == "token" else ""
        return token is not None and shown != token

    monkeypatch.setattr(cluster, "_asks", asks)


def test_token_that_the_user_has_is_shown_to_a_cluster_that_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asking(monkeypatch, "t")
    for shown in ({"RAY_AUTH_TOKEN": "t"}, {"RAY_AUTH_TOKEN": "t", "RAY_AUTH_MODE": "disabled"}):
        mode = cluster._admission("10.0.0.1:6379", False, shown, tmp_path)
        assert mode == {"RAY_AUTH_MODE": "token"}
    for wrong in ({}, {"RAY_AUTH_TOKEN": "other"}):
        with pytest.raises(StudyError, match="asks for a token, and not for one that is here"):
            cluster._admission("10.0.0.1:6379", True, wrong, tmp_path)


def test_token_is_looked_for_where_ray_looks(tmp_path: Path) -> None:
    assert not cluster.has_token({"RAY_AUTH_TOKEN": ""}, tmp_path)
    assert cluster.has_token({"RAY_AUTH_TOKEN_PATH": "/secrets/token"}, tmp_path)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("t")
    assert cluster.has_token({}, tmp_path)


def test_cluster_that_lets_anybody_in_is_refused_but_on_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asking(monkeypatch, None)
    with_token = {"RAY_AUTH_TOKEN": "t"}
    with pytest.raises(StudyError, match=r"RAY_AUTH_MODE=token .* or give --allow-unauthenticated"):
        cluster._admission("10.0.0.1:6379", False, with_token, tmp_path)
    # A token of ours would be asked of its nodes, which have none.
    disabled = {"RAY_AUTH_MODE": "disabled"}
    assert cluster._admission("127.0.0.1:6379", False, with_token, tmp_path) == disabled
    assert cluster._admission("10.0.0.1:6379", True, with_token, tmp_path) == disabled


def test_workers_elsewhere_get_settings_and_no_secrets() -> None:
    here = {"OMP_NUM_THREADS": "2", "RAY_AUTH_TOKEN": "t", "HF_TOKEN": "t", "PYTHONPATH": "/a"}
    assert cluster._for_workers(here) == {"OMP_NUM_THREADS": "2", "PYTHONPATH": "/a:${PYTHONPATH}"}
    assert cluster._for_workers({"CUDA_VISIBLE_DEVICES": "0,1"}) == {}
    assert cluster._for_workers({"CUDA_VISIBLE_DEVICES": ""}) == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:6379", True),
        ("localhost:6379", True),
        ("[::1]:6379", True),
        ("10.0.0.1:6379", False),
        ("head:6379", False),
    ],
)
def test_loopback_is_known_by_its_address(address: str, expected: bool) -> None:
    assert cluster.is_loopback(address) is expected


def test_cluster_that_is_not_there_is_named_at_once() -> None:
    with pytest.raises(StudyError, match=r"no cluster answers at 127.0.0.1:1 .*ray start --head"):
        cluster._check_listens("127.0.0.1:1")


def test_auto_is_what_ray_start_left_and_never_any_ray_that_runs(tmp_path: Path) -> None:
    here = {"RAY_TMPDIR": str(tmp_path)}
    assert cluster.found_address("10.0.0.1:1", here) == "10.0.0.1:1"
    with pytest.raises(StudyError, match="no cluster is known on this machine"):
        cluster.found_address("auto", here)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("10.0.0.2:6379")
    assert cluster.found_address("auto", here) == "10.0.0.2:6379"
    assert cluster.found_address("auto", here | {"RAY_ADDRESS": "10.0.0.3:6379"}) == "10.0.0.3:6379"


def test_trial_takes_a_gpu_where_some_node_has_one() -> None:
    compute = ComputeSpec(gpus_per_trial=0.5)
    assert trial_resources(compute, [SMALL]) == {"CPU": 1}
    assert trial_resources(compute, [SMALL, LARGE]) == {"CPU": 1, "GPU": 0.5}
    cpu = ComputeSpec(device="cpu", cpus_per_trial=4)
    assert trial_resources(cpu, [SMALL, LARGE]) == {"CPU": 4}


def test_trial_asks_for_named_resources() -> None:
    compute = ComputeSpec(resources={"accelerator_type:H200": 0.001})
    expected = {"CPU": 1, "GPU": 1, "accelerator_type:H200": 0.001}
    assert trial_resources(compute, [SMALL, LARGE]) == expected
    with pytest.raises(StudyError, match=r"compute.resources.accelerator_type:H200 is 0.001"):
        trial_resources(compute, [SMALL])
    with pytest.raises(ValidationError, match="write gpus_per_trial"):
        ComputeSpec(resources={"gpu": 1})


def test_trial_must_fit_on_one_node() -> None:
    # 4 CPUs and a GPU are in the cluster, but on different nodes.
    compute = ComputeSpec(cpus_per_trial=4)
    with pytest.raises(StudyError, match="no node has 4 CPU, 1 GPU together"):
        trial_resources(compute, [SMALL, LARGE])
    with pytest.raises(StudyError, match="cpus_per_trial is 8, but no node has more than 4"):
        trial_resources(ComputeSpec(cpus_per_trial=8), [SMALL, LARGE])
    with pytest.raises(StudyError, match="cpus_per_trial is 8, but there are 4 CPUs; lower it"):
        trial_resources(ComputeSpec(cpus_per_trial=8), [SMALL])


def test_cluster_that_grows_is_waited_for() -> None:
    compute = ComputeSpec(cpus_per_trial=8, device="cuda", autoscaling=True)
    assert trial_resources(compute, [SMALL]) == {"CPU": 8, "GPU": 1}
