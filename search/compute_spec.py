"""ComputeSpec: the `compute` part of study.yaml, and the address of a cluster as a person writes it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from spaces.spec import Spec

_RESOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,99}")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9_.-]*):([0-9]{1,5})")
_NOT_CUSTOM = {"CPU": "cpus_per_trial", "GPU": "gpus_per_trial"}


class ComputeSpec(Spec):
    """Where trials run."""

    address: str | None = None
    """A Ray cluster to run on: HOST:PORT of its control service, or `auto` for the one that this machine belongs to.
    Default: a Ray of its own on this machine, which nobody else can reach."""
    concurrent_trials: int = Field(default=1, gt=0)
    """Trials at the same time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where the machine, or a node of the cluster, has it."""
    cpus_per_trial: float = Field(default=1, gt=0)
    """CPUs Ray reserves for a trial."""
    gpus_per_trial: float = Field(default=1, ge=0)
    """GPUs, or a fraction of one, Ray reserves for a trial when the device is CUDA."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Further resources Ray reserves for a trial, by the names that the nodes of a cluster give them, such as
    `{"accelerator_type:H200": 0.001}`: trials run only on nodes that have them."""
    autoscaling: bool = False
    """True: room for all concurrent trials is asked for at once, so that a cluster that grows starts its nodes side by
    side, and trials wait for nodes that are not there yet. False: a trial that no node has room for is refused."""
    threads_per_trial: int = Field(default=1, gt=0)
    """torch threads. Equal counts are needed for equal results on CPU."""
    evaluator_seconds: float | None = Field(default=None, gt=0)
    """Longest that an evaluator may take on one model, writing (of all evaluators together) counted apart. Beyond it
    its scores are missing, with that reason. Default: no limit."""
    retries: int = Field(default=3, ge=0, le=100)
    """How often a trial is tried again that the machines failed: its process died or was killed for its memory, a disk
    or network was full or away, the accelerator gave up. After 5, 10, 20 ... seconds, 300 at most."""

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str | None) -> str | None:
        return None if address is None else checked_address(address)

    @field_validator("resources")
    @classmethod
    def _check_resources(cls, resources: dict[str, float]) -> dict[str, float]:
        for name in resources:
            if name.upper() in _NOT_CUSTOM:
                raise ValueError(f"{name} has a key of its own; write {_NOT_CUSTOM[name.upper()]}")
            if name != "memory" and not _RESOURCE.fullmatch(name):
                raise ValueError(
                    f"{name[:50]!r} is no name of a resource; use letters, digits, _ and -"
                )
        return resources


def checked_address(address: str) -> str:
    """Return the address of a cluster's control service.

    Raises:
        ValueError: It is none; the message says what to write.
    """
    if address == "auto":
        return address
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"{address} is where a cluster takes jobs; give it to `apportion submit --address`, and HOST:PORT of the "
            "control service here"
        )
    if address.startswith("ray://"):
        raise ValueError(
            f"{address} would leave the study on this machine and its trials elsewhere; use `apportion submit`, or "
            "HOST:PORT on a machine of the cluster"
        )
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ValueError(f"{address!r} is no address of a cluster; write HOST:PORT or auto")
    return address
