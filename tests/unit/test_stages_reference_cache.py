"""Kept reference log-probabilities: the very bits that computing them again gives, and only for the very same pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stage_tools import TRAINING, lora, resident, sources, stage

from search.stages import dpo, handoff
from search.stages.reference_cache import Logps, ReferenceCache
from search.stages.schedule import make_optimizer
from search.stages.tokens import tokenise
from search.stages.trainer import Memory, Setting, untouched

ROW = {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4]}
OTHER = {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3, 4]}


class Passes:
    """Counts how often it is computed, and gives another number each time."""

    def __init__(self) -> None:
        self.n_computed = 0

    def __call__(self) -> Logps:
        self.n_computed += 1
        return ((-float(self.n_computed), -0.5),)


def test_same_rows_on_the_same_model_are_computed_once() -> None:
    cache, compute = ReferenceCache(), Passes()
    assert cache.logps("parent", [ROW], compute) == ((-1.0, -0.5),)
    assert cache.logps("parent", [dict(ROW, ref_chosen_logps=9.0)], compute) == ((-1.0, -0.5),)
    assert (compute.n_computed, cache.n_found) == (1, 1)


def test_other_model_rows_order_or_batch_are_computed_anew() -> None:
    cache, compute = ReferenceCache(), Passes()
    for model, rows in (
        ("parent", [ROW, OTHER]),
        ("other", [ROW, OTHER]),
        ("parent", [OTHER, ROW]),
        ("parent", [ROW]),
        ("parent", [OTHER]),
    ):
        cache.logps(model, rows, compute)
    assert (compute.n_computed, cache.n_found) == (5, 0)


def test_model_without_a_name_is_never_kept() -> None:
    cache, compute = ReferenceCache(), Passes()
    cache.logps(None, [ROW], compute)
    cache.logps(None, [ROW], compute)
    assert compute.n_computed == 2


def test_least_recently_used_pass_goes_first() -> None:
    cache, compute = ReferenceCache(max_passes=2), Passes()
    for model in ("a", "b", "a", "c", "a"):
        cache.logps(model, [ROW], compute)
    assert compute.n_computed == 3
    cache.logps("b", [ROW], compute)
    assert compute.n_computed == 4


def references(cache: ReferenceCache, model: str | None, folder: Path) -> list[Any]:
    """Compute references of 8 rows in passes of 3 as a stage does, each pass through the cache."""
    ref = resident().fresh()
    source = sources()["pairs"]
    tokens = tokenise(source, ref.tokenizer, ref.tokenizer_hash, 64, "completion")
    rows = [dict(row) for row in tokens.rows[:8]]
    this = stage("dpo", adapter=lora())
    parameters = handoff.begin(ref, this)
    optimizers = make_optimizer(parameters, 1e-3, 1, TRAINING)
    setting = Setting(ref, TRAINING, [rows], optimizers, Memory(8), 0, folder)
    with untouched(ref.model):
        trainer: Any = dpo.build(setting, this)
        trainer.stage_model.eval()

        def compute(part: list[Any]) -> Logps:
            inputs = trainer._prepare_inputs(trainer.data_collator(part))
            chosen_B, rejected_B = (logp.float().tolist() for logp in trainer._logps(inputs))
            return tuple(zip(chosen_B, rejected_B, strict=True))

        parts = [rows[:3], rows[3:6], rows[6:]]
        return [cache.logps(model, part, lambda part=part: compute(part)) for part in parts]  # type: ignore[misc]


def test_kept_log_probabilities_of_a_real_model_are_those_of_another_computation_bit_for_bit(
    tmp_path: Path,
) -> None:
    cache = ReferenceCache()
    first = references(cache, "base", tmp_path)
    kept = references(cache, "base", tmp_path)
    assert cache.n_found == 3
    assert kept == first == references(cache, None, tmp_path)
