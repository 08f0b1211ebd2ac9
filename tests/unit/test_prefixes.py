"""A recipe's models from the store: whatever is stored, lost or damaged, they are those of a training without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefix_tools import equal, prefixes, train_all
from prefix_tools import sft_stage as stage
from stage_tools import lora

from search.stages.mix import plan_stage
from search.stages.persist import FILE
from search.store import StageStore, StoreError
from spaces.recipe import Full, Recipe

LORA_FULL = Recipe(stages=(stage(lora()), stage(Full())))
FULL_LORA = Recipe(stages=(stage(Full()), stage(lora())))


@pytest.mark.parametrize("recipe", [LORA_FULL, FULL_LORA])
def test_second_trial_trains_nothing_and_has_the_same_model(recipe: Recipe, tmp_path: Path) -> None:
    _, alone = train_all(recipe, None)
    first, stored = train_all(recipe, StageStore(tmp_path))
    second, restored = train_all(recipe, StageStore(tmp_path))
    assert equal(stored, alone)
    assert equal(restored, alone)
    assert len(first.trained) == 2
    assert second.trained == {}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("spoil", [damage, Path.unlink])
@pytest.mark.parametrize("recipe", [LORA_FULL, FULL_LORA])
def test_lost_or_damaged_stage_is_trained_again_from_its_own_parent(
    recipe: Recipe, spoil: Callable[[Path], None], lost: int, tmp_path: Path
) -> None:
    store = StageStore(tmp_path)
    _, alone = train_all(recipe, None)
    walk, _ = train_all(recipe, store)
    digest = list(walk.trained)[lost]
    spoil(store.fetch(digest) / FILE)
    for n_trained in (1, 0):  # the first one mends it; the next one must find it whole
        again, restored = train_all(recipe, StageStore(tmp_path))
        assert equal(restored, alone)
        needed = recipe is FULL_LORA or lost == 1
        assert len(again.trained) == (n_trained if needed else 0)


def test_stage_that_an_earlier_attempt_of_the_same_trial_trained_is_its_own(tmp_path: Path) -> None:
    train_all(LORA_FULL, StageStore(tmp_path), trainer="trial 3")
    for trainer, is_stored in (("trial 3", False), ("trial 4", True)):
        record = prefixes(LORA_FULL, StageStore(tmp_path), trainer).stage(1)
        assert record.is_stored is is_stored


def test_stored_record_speaks_with_the_names_of_its_own_recipe(tmp_path: Path) -> None:
    train_all(Recipe(stages=(stage(lora(), "tone"),)), StageStore(tmp_path), "trial 3")
    voice = Recipe(stages=(stage(lora(), "voice"),))
    record = prefixes(voice, StageStore(tmp_path), "trial 4").stage(1)
    assert record.is_stored
    assert record.stage.influence == "voice"
    assert set(record.tokens_by_source) == {"chat"}


@pytest.mark.parametrize("method", ["find", "touch", "lease", "scratch", "commit", "fetch"])
def test_store_that_fails_costs_no_trial(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreError("no space left")

    _, alone = train_all(LORA_FULL, None)
    train_all(LORA_FULL, StageStore(tmp_path / "full"))
    monkeypatch.setattr(StageStore, method, fail)
    for root in ("full", "empty"):
        _, trained = train_all(LORA_FULL, StageStore(tmp_path / root))
        assert equal(trained, alone)


def test_a_repeat_goes_on_in_its_data_also_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[list[int]] = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        found = plan_stage(*args, **kwargs)
        planned.append([at for step in found.steps for _, at in step.rows["sft"]])
        return found

    monkeypatch.setattr("search.stages.drawing.plan_stage", noted)
    once = stage(lora())
    twice = Recipe(stages=(once, once))
    whole = Recipe(stages=(once.model_copy(update={"dose_tokens": 240}),))
    train_all(whole, None)
    (in_one,) = planned
    _, alone = train_all(twice, None)
    # Planned are the first stage, the first again to see where it ends, and the second.
    first, again, second = planned[1:]
    assert first == again
    n = len(first) + len(second)
    assert (first + second)[: len(in_one)] == in_one[:n]
    assert set(first).isdisjoint(second)
    train_all(Recipe(stages=(once,)), StageStore(tmp_path))
    planned.clear()
    _, restored = train_all(twice, StageStore(tmp_path))
    assert planned == [again, second]
    assert equal(restored, alone)
