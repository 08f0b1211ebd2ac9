"""Ask every node of a cluster what it lacks, before the first trial: a trial that finds out has cost its time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.errors import StudyError
from search.messages import one_line
from search.runner.placement import Resources, fits
from search.sight import Marks, has_written, leave_marks, look, remove_marks
from search.spec import StudySpec
from search.study import Study

PROBE_SECONDS = 180.0
"""How long nodes may take to answer: a worker has to start there."""


def check_nodes(study: Study, nodes: Sequence[dict[str, Any]], wanted: Resources) -> None:
    """Check that all nodes on which trials may run see what the driver sees.

    Args:
        study: Which study.
        nodes: As Ray lists them.
        wanted: What a trial reserves.

    Raises:
        StudyError: Some do not; the message names them.
    """
    asked = [node for node in nodes if fits(wanted, node["Resources"])]
    results = study.folder.path
    marks = leave_marks(study.spec, study.root, results)
    try:
        problems = _answers(study, asked, marks)
        for number in problems:
            if not problems[number] and not has_written(results, marks, number):
                problems[number] = [
                    f"writes its results where the driver does not see them ({results} is another folder there); mount "
                    "one shared folder on both, or give --results on one"
                ]
    finally:
        remove_marks(study.spec, study.root, results, marks)
    names = {node["NodeID"]: node["NodeManagerAddress"] for node in asked}
    found = [f"node {names[one]} {text}" for one, texts in problems.items() for text in texts[:1]]
    if found:
        n_more = sum(map(len, problems.values())) - len(found)
        more = f" (and {n_more} more)" if n_more else ""
        raise StudyError(one_line("; ".join(found) + more))


def _answers(study: Study, nodes: Sequence[dict[str, Any]], marks: Marks) -> dict[str, list[str]]:
    """Return what each node lacks, by its id."""
    ask = ray.remote(num_cpus=0, max_retries=0)(_look)
    what = ray.put((study.spec, str(study.root), str(study.folder.path), marks))
    asked = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answer = ask.options(scheduling_strategy=here).remote(what, node["NodeID"])
        asked[answer] = node["NodeID"]
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS)
    problems = {
        asked[one]: [f"does not answer within {PROBE_SECONDS:.0f} s; end it, or try again"]
        for one in late
    }
    for one in ready:
        try:
            problems[asked[one]] = ray.get(one)
        except Exception as error:  # whatever keeps it from answering
            reason = one_line(str(error).strip().splitlines()[-1])[:200] if str(error) else ""
            problems[asked[one]] = [
                f"cannot run apportion ({type(error).__name__}: {reason}); install the driver's version there, or hand "
                "the study in with `apportion submit` from a checkout"
            ]
    return problems


def _look(what: tuple[StudySpec, str, str, Marks], node: str) -> list[str]:
    spec, root, results, marks = what
    return look(spec, Path(root), Path(results), marks, node)
