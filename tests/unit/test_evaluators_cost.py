"""Cost: from facts to scores by hand, and from a trial's stages to its boundaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import STUDY, write_data, write_model

from evaluators.facts import StageFacts
from evaluators.spec import CostSpec
from evaluators.suite import Suite
from search.costs import stage_facts
from search.folders import TrialFolder
from search.lab import Lab
from search.records import Proposal, StageRecord, TrialRecord
from search.store import StageStore
from search.trial import TrialRun
from search.yaml_file import load_study
from spaces.parallel import Member
from spaces.recipe import Merge, Parallel, Recipe, Stage
from spaces.space import Space

SUITE = Suite({"it": CostSpec(evaluator="cost")}, {}, Path("."))
STAGE = StageFacts(
    tokens=100, seconds=2.5, trainable_parameters=8, stored_parameters=8, peak_memory=64
)


def scores(facts: Any) -> dict[str, float | None]:
    found = SUITE.account(facts)["it"]
    return {score.name.removeprefix("it."): score.value for score in found.scores}


def test_costs_add_up_over_stages_and_the_largest_counts_of_what_is_there_at_once() -> None:
    larger = STAGE.model_copy(update={"trainable_parameters": 32, "peak_memory": 16})
    assert scores((STAGE, larger)) == {
        "tokens": 200,
        "seconds": 5.0,
        "trainable_parameters": 32,
        "stored_parameters": 16,
        "peak_memory": 64,
    }


def test_base_cost_nothing_and_of_its_memory_nothing_is_known() -> None:
    assert scores(()) == {
        **dict.fromkeys(("tokens", "seconds", "trainable_parameters", "stored_parameters"), 0.0),
        "peak_memory": None,
    }


def test_what_is_not_known_of_one_stage_is_missing_and_never_0() -> None:
    found = SUITE.account((STAGE, StageFacts(tokens=5)))["it"]
    reasons = {score.name.removeprefix("it."): score.reason for score in found.scores}
    assert reasons.pop("tokens") is None
    assert set(reasons.values()) == {f"{part} of stage 2 is not known" for part in reasons}
    assert found.items[1].values == {"tokens": 5}
    assert set(scores(None).values()) == {None}


def test_suite_leaves_cost_to_account_and_needs_no_model_for_it() -> None:
    class Nobody:
        def ready(self) -> Any:
            from contextlib import nullcontext

            return nullcontext()

    model: Any = Nobody()
    assert SUITE.measure(model) == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cost")
    write_model(path / "model")
    write_data(path)
    text = STUDY.replace("suite:\n", "suite:\n  price: {evaluator: cost}\n")
    text = text.replace(
        "{score: retention.kl, at_most: 4.0}", "{score: price.tokens, at_most: 1e5}"
    )
    (path / "study.yaml").write_text(text)
    return path


def run(lab: Lab, results: Path, number: int, recipe: Recipe) -> TrialRecord:
    proposal = Proposal(number, {}, recipe, None)
    trial = TrialRun(lab, TrialFolder(results / f"{number:04d}"), proposal)
    while not trial.step():
        pass
    assert trial.record.state == "COMPLETE", trial.record.reason
    return trial.record


def test_trial_has_the_cost_of_its_prefix_at_every_boundary_also_from_the_store(
    folder: Path, tmp_path: Path
) -> None:
    spec = load_study(folder / "study.yaml")
    lab = Lab.load(spec, folder, StageStore(tmp_path / "store"))
    space = Space(spec.influences, spec.order)
    drawn = (space.decode(space.sample(seed)) for seed in range(50))
    recipe = next(each for each in drawn if len(each.stages) == 2)
    first, second = (run(lab, tmp_path / "results", number, recipe) for number in (0, 1))
    assert all(stage.is_stored for stage in second.stages)
    for record in (first, second):
        for boundary in record.boundaries:
            done = record.stages[: boundary.n_stages]
            names = [score.name for score in boundary.scores]
            assert names == [info.name for info in lab.exam.suite.infos]
            found = {score.name: score.value for score in boundary.scores}
            assert found["price.tokens"] == sum(stage.trained_tokens for stage in done)
            assert found["price.seconds"] == pytest.approx(
                sum(stage.train_seconds + stage.setup_seconds for stage in done)
            )
            assert found["price.trainable_parameters"] == max(stage.n_trainable for stage in done)
            assert found["price.peak_memory"] is None
    assert [boundary.is_stored for boundary in second.boundaries] == [True, True]
    assert first.boundaries[-1].scores == second.boundaries[-1].scores


def record_of(stage: Any, **changes: Any) -> StageRecord:
    fields = {
        **{"trained_tokens": 10, "train_seconds": 1.0, "setup_seconds": 0.5, "n_trainable": 8},
        **{"peak_memory_bytes": None, "branches": {}},
    }
    return StageRecord.model_construct(stage=stage, **fields, **changes)


def stage_of(handoff: str) -> Stage:
    return Stage.model_construct(handoff=handoff)


def test_adapter_that_the_next_stage_trains_on_is_stored_once() -> None:
    records = [record_of(stage_of(handoff)) for handoff in ("continue", "merge", "continue")]
    facts = stage_facts(records)
    assert [each.stored_parameters for each in facts] == [0, 8, 8]
    assert facts[0].seconds == 1.5


def test_branches_count_with_their_largest_and_merged_models_from_elsewhere_are_unknown() -> None:
    branch = (record_of(stage_of("merge")), record_of(stage_of("merge")))
    parallel = record_of(Parallel.model_construct()).model_copy(
        update={"n_trainable": 99, "branches": {"a": branch, "b": branch[:1]}}
    )
    (facts,) = stage_facts([parallel])
    assert (facts.trainable_parameters, facts.stored_parameters, facts.tokens) == (8, 99, 10)
    members = {"own": Member(weight=0.5), "other": Member(digest="a" * 64, weight=0.5)}
    merge = record_of(Merge(influence="m", models=members))
    (facts,) = stage_facts([merge])
    assert (facts.tokens, facts.seconds, facts.stored_parameters) == (None, None, 8)
