"""What the stages of a recipe took, as evaluators want to know it. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.facts import Facts, StageFacts
from evaluators.suite import Suite
from search.records import StageRecord
from search.scoring import SuiteResult
from spaces.recipe import Merge


def stage_facts(records: Sequence[StageRecord]) -> Facts:
    """Return what stages took. A stage from the store took what the store recorded when it was trained.

    Args:
        records: Of all stages from the base on, in order.
    """
    return tuple(_facts(records, at) for at in range(len(records)))


def _facts(records: Sequence[StageRecord], at: int) -> StageFacts:
    record = records[at]
    # The next stage trains the same adapter on, and keeps it whole.
    is_continued = record.stage.handoff == "continue" and at + 1 < len(records)
    stored = 0 if is_continued else record.n_trainable
    if isinstance(record.stage, Merge) and any(
        member.digest is not None and member.weight for member in record.stage.models.values()
    ):
        # What the models from elsewhere took is not recorded here.
        return StageFacts(stored_parameters=stored)
    return StageFacts(
        tokens=record.trained_tokens,
        seconds=record.train_seconds + record.setup_seconds,
        trainable_parameters=max((part.n_trainable for part in record.trainings), default=0),
        stored_parameters=stored,
        peak_memory=record.peak_memory_bytes,
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
