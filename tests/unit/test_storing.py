"""A stage is stored beside its evaluation: what is stored is what was trained, and nothing changes it in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prefix_tools import Bits, bits, equal, prefixes
from stage_tools import full, lora, stage
from tiny import STUDY, write_data, write_model

from evaluators.models import LoadedModel
from evaluators.suite import Suite
from search.folders import TrialFolder
from search.lab import Lab
from search.prefixes import Prefixes
from search.records import Proposal
from search.stages.persist import StageWeights
from search.store import StageStore
from search.trial import TrialRun
from search.yaml_file import load_study
from spaces.combine import Combination
from spaces.recipe import Branch, Parallel, Recipe

FULL_FULL = Recipe(stages=(stage(adapter=full()), stage(adapter=full(), learning_rate=0.02)))
LINEAR = Combination(how="linear")
FULL_LORA = Recipe(stages=(stage(adapter=full()), stage(adapter=lora())))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storing begins half a second late."""
    write = StageWeights.write

    def late(self: StageWeights, folder: Path) -> None:
        time.sleep(0.5)
        write(self, folder)

    monkeypatch.setattr(StageWeights, "write", late)


def first_model(recipe: Recipe, store: StageStore | None) -> Bits:
    walk = prefixes(recipe, store)
    walk.stage(1)
    found = bits(walk.model(1).model)
    walk.close()
    return found


def train_the_next(walk: Prefixes) -> None:
    walk.stage(2)


def restore_the_base(walk: Prefixes) -> None:
    walk.model(0)


def begin_another_recipe(walk: Prefixes) -> None:
    walk.close()
    prefixes(FULL_FULL, None).model(0)


def evaluate_in_another_precision(walk: Prefixes) -> None:
    model = walk.model(1)
    with LoadedModel(model.model, model.tokenizer, "cpu", "bfloat16").ready():
        assert {parameter.dtype for parameter in model.model.parameters()} == {torch.bfloat16}
        assert walk.settle() is not None


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("recipe", [FULL_FULL, FULL_LORA])
@pytest.mark.parametrize(
    "go_on",
    [train_the_next, restore_the_base, begin_another_recipe, evaluate_in_another_precision],
)
def test_what_is_stored_is_what_was_trained_whatever_comes_next(
    go_on: Callable[[Prefixes], None], recipe: Recipe, tmp_path: Path
) -> None:
    alone = first_model(recipe, None)
    store = StageStore(tmp_path)
    walk = prefixes(recipe, store)
    digest = walk.stage(1).digest
    assert store.find(digest) is None  # not yet
    go_on(walk)
    walk.close()
    assert store.find(digest) is not None
    again = prefixes(recipe, StageStore(tmp_path))
    assert equal(bits(again.model(1).model), alone)
    assert again.trained == {}
    again.close()


@pytest.mark.usefixtures("slow")
def test_what_a_branch_trained_is_stored_before_the_next_one_begins(tmp_path: Path) -> None:
    one, other = (stage(adapter=full(), learning_rate=rate) for rate in (0.01, 0.02))
    branches = {
        name: Branch(weight=0.5, stages=(each,)) for name, each in (("a", one), ("b", other))
    }
    both = Recipe(stages=(Parallel(influence="apart", branches=branches, combination=LINEAR),))
    walk = prefixes(both, StageStore(tmp_path))
    walk.stage(1)
    walk.close()
    for each in (one, other):
        recipe = Recipe(stages=(each,))
        alone = first_model(recipe, None)
        again = prefixes(recipe, StageStore(tmp_path))
        assert equal(bits(again.model(1).model), alone)
        assert again.trained == {}
        again.close()


@pytest.mark.usefixtures("slow")
def test_the_lease_is_held_until_the_stage_is_stored(tmp_path: Path) -> None:
    store, other = StageStore(tmp_path), StageStore(tmp_path)
    walk = prefixes(FULL_LORA, store)
    digest = walk.stage(1).digest
    assert other.lease(digest) is None
    assert other.find(digest) is None
    seconds = walk.settle()
    assert seconds is not None
    assert seconds >= 0.5
    assert other.find(digest) is not None
    assert walk.settle() is None
    walk.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("storing")
    write_model(path / "model")
    write_data(path)
    (path / "study.yaml").write_text(STUDY)
    return path


def loaded(folder: Path, results: Path) -> Lab:
    lab = Lab.load(load_study(folder / "study.yaml"), folder, StageStore(results / "store"))
    lab.load_seconds = 0.0
    return lab


def trial(lab: Lab, results: Path) -> TrialRun:
    """Return a trial of one stage on all weights, in the study of the tests."""
    recipe = Recipe(stages=(stage(adapter=full(), influence="form"),))
    return TrialRun(lab, TrialFolder(results / "0001"), Proposal(1, {}, recipe, None))


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("evaluate_seconds", [0.0, 0.6])
def test_a_second_of_storing_counts_once_as_evaluation_or_as_rest(
    evaluate_seconds: float, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Suite.measure

    def measure(*args: Any, **options: Any) -> Any:
        time.sleep(evaluate_seconds)
        return measured(*args, **options)

    lab = loaded(folder, tmp_path)
    monkeypatch.setattr(Suite, "measure", measure)
    started = time.monotonic()
    run = trial(lab, tmp_path)
    assert run.step()
    wall_seconds = time.monotonic() - started
    (boundary,), seconds = run.record.boundaries, run.record.seconds
    assert boundary.store_seconds is not None
    assert boundary.store_seconds >= 0.5
    assert seconds.total <= wall_seconds + 0.002  # four parts are rounded
    assert seconds.evaluate == boundary.evaluate_seconds
    if evaluate_seconds == 0.6:
        assert seconds.evaluate >= 0.6
        assert seconds.total < boundary.store_seconds + seconds.evaluate + seconds.train


@pytest.mark.usefixtures("slow")
def test_a_boundary_that_is_told_finds_its_stage_in_the_store(folder: Path, tmp_path: Path) -> None:
    run = trial(loaded(folder, tmp_path), tmp_path)
    assert run.step()
    assert StageStore(tmp_path / "store").find(run.record.boundaries[0].digest) is not None


def test_storing_that_fails_in_an_unknown_way_fails_the_trial_with_the_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no memory for the difference")

    monkeypatch.setattr(StageWeights, "write", fail)
    run = trial(loaded(folder, tmp_path), tmp_path)
    assert run.step()
    assert run.record.state == "FAIL"
    assert run.record.reason == "MemoryError: no memory for the difference"
