"""A trial of a replay table, played: its record as training would have written it, with rungs from smaller doses.

A smaller dose of a stage, with the constant learning rate of the table's study, is the same training stopped earlier:
the row of the smaller dose says what a rung would have measured, and what it cost to get there.
"""

from __future__ import annotations

from collections.abc import Sequence

from table import Node, ReplayTable, digest_of

from evaluators.scores import Score
from search.records import Boundary, Proposal, Rung, StageRecord, TrialRecord
from spaces.recipe import Stage

TOLERANCE = 0.15
"""How far, in relation, a recorded dose may be from a share of another one to stand in for it. With the table's doses
.15 of the largest is the smallest, and .4 of the largest (middle) the middle (smallest)."""


def begun(proposal: Proposal, seed: int) -> TrialRecord:
    """Return the record of a trial that starts."""
    return TrialRecord(
        number=proposal.number,
        state="RUNNING",
        params=proposal.params,
        recipe=proposal.recipe,
        baseline=proposal.baseline,
        seed=seed,
        started_at="",
    )


def scored(record: TrialRecord, node: Node) -> TrialRecord:
    """Return the record with one more stage and its scores."""
    changes: dict[str, object] = {"boundaries": (*record.boundaries, boundary(node))}
    if node.depth:
        stage = record.recipe.stages[node.depth - 1]
        changes["stages"] = (*record.stages, stage_record(stage, node))
    return record.model_copy(update=changes)


def boundary(node: Node, is_stored: bool = False) -> Boundary:
    """Return what a node scored and what that cost."""
    return Boundary(
        n_stages=node.depth,
        digest=node.digest,
        scores=_scores(node),
        is_stored=is_stored,
        evaluate_seconds=node.evaluate_seconds,
    )


def stage_record(stage: Stage, node: Node, is_stored: bool = False) -> StageRecord:
    """Return what a node's last stage consumed and took."""
    return StageRecord(
        stage=stage,
        digest=node.digest,
        seed=0,
        trained_tokens=node.tokens,
        n_steps=1,
        n_rows=1,
        tokens_by_source={},
        passes_by_source={},
        loss_by_step=(),
        n_trainable=1,
        micro_batch_rows=1,
        train_seconds=node.stage_seconds,
        setup_seconds=0.0,
        is_stored=is_stored,
    )


def rungs(node: Node, table: ReplayTable, shares: Sequence[float]) -> list[tuple[float, Node]]:
    """Return the rungs of a node's last stage: shares, and the recipes that stand in for the model there."""
    *before, last = node.choices
    doses = sorted(
        other.choices[-1]["dose_tokens"]
        for other in table.children(node.parent or "")
        if {**other.choices[-1], "dose_tokens": 0} == {**last, "dose_tokens": 0}
    )
    found = []
    for share in shares:
        wanted = share * last["dose_tokens"]
        for dose in doses:
            if dose < last["dose_tokens"] and abs(dose / wanted - 1) <= TOLERANCE:
                there = table.nodes[digest_of([*before, {**last, "dose_tokens": dose}])]
                found.append((share, there))
    return found


def at_rung(record: TrialRecord, share: float, node: Node) -> TrialRecord:
    """Return the record with the scores at a rung of the next stage."""
    rung = Rung(
        n_stages=len(record.stages),
        share=share,
        trained_tokens=node.tokens,
        scores=_scores(node),
        train_seconds=node.stage_seconds,
        evaluate_seconds=node.evaluate_seconds,
    )
    return record.model_copy(update={"rungs": (*record.rungs, rung)})


def _scores(node: Node) -> tuple[Score, ...]:
    return tuple(
        Score(name=name, value=value, n=32, unit="", direction="maximise")
        for name, value in node.scores.items()
    )
