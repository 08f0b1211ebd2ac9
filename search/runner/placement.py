"""Where trials fit: what Ray reserves for one, and which nodes have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.compute_spec import ComputeSpec
from search.errors import StudyError

Resources = Mapping[str, float]
"""Amount by Ray's names of resources: CPU, GPU, memory, and those that nodes were given."""


def trial_resources(compute: ComputeSpec, nodes: Sequence[Resources]) -> dict[str, float]:
    """Return what Ray reserves for a trial; a GPU only where a node has one and the study wants it.

    Args:
        compute: The study's.
        nodes: What each node has in all, whatever is in use.

    Raises:
        StudyError: No node can ever run one trial, and none is to come.
    """
    wanted: dict[str, float] = {"CPU": compute.cpus_per_trial, **compute.resources}
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    if compute.device == "cuda" or (compute.device == "auto" and has_gpus):
        wanted["GPU"] = compute.gpus_per_trial
    if compute.autoscaling or any(fits(wanted, node) for node in nodes):
        return wanted
    for name, amount in wanted.items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if amount > most:
            key = f"{name.lower()}s_per_trial" if name in ("CPU", "GPU") else f"resources.{name}"
            there = (
                f"there are {most:g} {name}s"
                if len(nodes) == 1
                else f"no node has more than {most:g}"
            )
            raise StudyError(
                f"compute.{key} is {amount:g}, but {there}; lower it in study.yaml (of a study that has begun: in its "
                "results folder)"
            )
    asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    raise StudyError(
        f"compute: no node has {asked} together, which a trial wants; lower one of them in study.yaml (of a study that "
        "has begun: in its results folder)"
    )


def fits(wanted: Resources, node: Resources) -> bool:
    """Return whether a node has all that is wanted."""
    return all(node.get(name, 0.0) >= amount for name, amount in wanted.items())
