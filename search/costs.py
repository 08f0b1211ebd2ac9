"""What the stages of a recipe took, as evaluators want to know it. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.facts import Facts, StageFacts
from evaluators.suite import Suite
from search.records import StageRecord
from search.scoring import SuiteResult


def stage_facts(records: Sequence[StageRecord]) -> Facts:
    """Return what stages took. A stage from the store took what the store recorded when it was trained.

    Args:
        records: Of all stages from the base on, in order.
    """
    return tuple(
        StageFacts(
            tokens=record.trained_tokens,
            seconds=record.train_seconds + record.setup_seconds,
            trainable_parameters=record.n_trainable,
            # The next stage trains the same adapter on, and keeps it whole.
            stored_parameters=0 if _is_continued(records, at) else record.n_trainable,
            peak_memory=record.peak_memory_bytes,
        )
        for at, record in enumerate(records)
    )


def with_costs(result: SuiteResult, suite: Suite, facts: Facts | None) -> SuiteResult:
    """Return a result with the scores and items that follow from facts, all in the suite's order.

    They are never kept with the others: scores are shared by studies, and what a model cost may be known anew.
    """
    found = suite.account(facts)
    if not found:
        return result
    scores = {score.name: score for score in result.scores}
    scores |= {score.name: score for each in found.values() for score in each.scores}
    items = [*result.items, *(item for each in found.values() for item in each.items)]
    order = {evaluator.name: at for at, evaluator in enumerate(suite.evaluators)}
    return result.model_copy(
        update={
            "scores": tuple(scores[info.name] for info in suite.infos),
            "items": tuple(sorted(items, key=lambda item: order[item.evaluator])),
        }
    )


def _is_continued(records: Sequence[StageRecord], at: int) -> bool:
    return records[at].stage.handoff == "continue" and at + 1 < len(records)
