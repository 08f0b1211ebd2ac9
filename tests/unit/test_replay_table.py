"""The replay table: what is looked up is what was trained, and the true front is the front."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import tiny
from benchmarks.replay import table as replay

from search.errors import DataError, SpecError
from search.yaml_file import load_study
from spaces.recipe import Full, Lora, Recipe, Stage
from spaces.space import Space

FOLDER = Path(replay.__file__).parent
RECORDED = FOLDER.parents[2] / "results" / "replay" / "table.parquet"
OBJECTIVES = (
    replay.Objective("format", "maximise", 0.0),
    replay.Objective("loss", "minimise", 4.0),
)
STUDY_CHANGES = {
    "rank: {choice: [2, 4]}": "rank: 2",
    "dose_tokens: {low: 150, high: 600}": "dose_tokens: {choice: [150, 300]}",
    "learning_rate: {low: 1e-3, high: 1e-2, log: true}": "learning_rate: 1e-2",
}
"""From the ranges of the tiny study to a grid: 2 x 1 x 1 stages, so 1 + 4 + 10 recipes."""


def stage(influence: str, dose: int = 100) -> Stage:
    adapter = Full() if influence == "structure" else Lora(rank=2, alpha=4.0)
    return Stage(
        influence=influence,
        method="sft",
        adapter=adapter,
        mix={"chat": 1.0},
        dose_tokens=dose,
        learning_rate=1e-3,
    )


BASE = Recipe()
TONE = Recipe(stages=(stage("tone"),))
STRUCTURE = Recipe(stages=(stage("structure"),))
BOTH = Recipe(stages=(stage("tone"), stage("structure")))


def row(recipe: Recipe, form: float | None, loss: float, reason: str | None = None) -> replay.Row:
    stages = recipe.stages
    found: replay.Row = {
        "digest": replay.choices_digest(stages),
        "parent": replay.choices_digest(stages[:-1]) if stages else None,
        "depth": len(stages),
        "format": form,
        "format.stderr": 0.1,
        "loss": loss,
        "stage_cpu": 2.0 * len(stages),
        "evaluate_cpu": 0.5,
        "tokens": 100,
        "reason": reason,
    }
    for position, each in enumerate(stages, 1):
        found |= {f"{key}_{position}": value for key, value in replay.stage_choices(each).items()}
    return found


ROWS = [row(BASE, 0.0, 0.0), row(TONE, 0.5, 1.0), row(STRUCTURE, 0.5, 2.0), row(BOTH, 1.0, 3.0)]


def written(path: Path, rows: list[replay.Row]) -> Path:
    replay.write_table(path, rows, ["format", "loss"], OBJECTIVES, 2, {"machine": "none"})
    return path


@pytest.fixture
def table(tmp_path: Path) -> replay.ReplayTable:
    return replay.ReplayTable.load(written(tmp_path / "table.parquet", ROWS))


def test_recipe_is_found_with_its_scores_and_seconds(table: replay.ReplayTable) -> None:
    node = table.node(BOTH)
    assert node.scores == {"format": 1.0, "loss": 3.0}
    assert node.stderrs == {"format": 0.1, "loss": None}
    assert (node.stage_seconds, node.evaluate_seconds, node.tokens) == (4.0, 0.5, 100)
    assert node.order == ("tone", "structure")
    assert [choice["rank"] for choice in node.choices] == [2, None]
    assert table.node(node.digest) is node


def test_recipe_outside_the_space_is_not_found(table: replay.ReplayTable) -> None:
    other = Recipe(stages=(stage("tone", dose=101),))
    reversed_order = Recipe(stages=(*STRUCTURE.stages, *TONE.stages))
    assert other not in table
    assert reversed_order not in table
    assert BOTH in table
    with pytest.raises(KeyError):
        table.node(other)


def test_children_and_path_follow_prefixes(table: replay.ReplayTable) -> None:
    assert {node.order for node in table.children(BASE)} == {("tone",), ("structure",)}
    assert [node.order for node in table.children(TONE)] == [("tone", "structure")]
    assert table.children(BOTH) == ()
    assert [node.depth for node in table.path(BOTH)] == [0, 1, 2]


def test_front_leaves_out_what_another_dominates(table: replay.ReplayTable) -> None:
    # Structure alone has the format of tone at twice the loss.
    assert {node.order for node in table.front()} == {(), ("tone",), ("tone", "structure")}


def test_hypervolume_is_the_area_up_to_the_reference(table: replay.ReplayTable) -> None:
    # Reference: format 0, loss 4. Tone covers 0.5 x 3; both together cover 1 x 1, of which 0.5 x 1 is tone's.
    assert table.hypervolume([table.node(TONE).digest]) == pytest.approx(1.5)
    assert table.true_hypervolume == pytest.approx(2.0)
    assert table.hypervolume([]) == 0.0


def test_missing_score_stays_missing_and_off_the_front(tmp_path: Path) -> None:
    rows = [*ROWS[:3], row(BOTH, None, 0.0, "diverged")]
    table = replay.ReplayTable.load(written(tmp_path / "table.parquet", rows))
    node = table.node(BOTH)
    assert node.scores["format"] is None
    assert node.reason == "diverged"
    assert node not in table.front()
    assert table.true_hypervolume == pytest.approx(1.5)


@pytest.mark.parametrize("lost", [0, 1])
def test_table_without_a_prefix_is_refused(tmp_path: Path, lost: int) -> None:
    path = written(tmp_path / "table.parquet", ROWS[:lost] + ROWS[lost + 1 :])
    with pytest.raises(DataError, match="is missing"):
        replay.ReplayTable.load(path)


def test_row_that_is_not_its_digest_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "table.parquet", [*ROWS[:3], {**ROWS[3], "dose_tokens_2": 101}])
    with pytest.raises(DataError, match="does not have the digest"):
        replay.ReplayTable.load(path)


def test_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a replay table"):
        replay.ReplayTable.load(tmp_path / "table.parquet")


def test_other_objectives_may_be_chosen_among_the_scores_that_were_recorded(tmp_path: Path) -> None:
    path = written(tmp_path / "table.parquet", ROWS)
    table = replay.ReplayTable.load(path, [replay.Objective("loss", "maximise", 1.0)])
    assert [node.order for node in table.front()] == [("tone", "structure")]
    assert table.true_hypervolume == pytest.approx(2.0)
    with pytest.raises(DataError, match="has no score warmth"):
        replay.ReplayTable.load(path, [replay.Objective("warmth", "maximise", 0.0)])


def test_recorded_table_holds_whatever_its_space_can_draw() -> None:
    spec = load_study(FOLDER / "study.yaml")
    space = Space(spec.influences, spec.order)
    table = replay.ReplayTable.load(RECORDED)
    # 6 x tone, 9 x structure, 9 x taste: alone, in pairs and in threes, in every order.
    assert len(table) == 1 + 24 + 2 * (54 + 54 + 81) + 6 * 486
    assert all(space.decode(space.sample(seed)) in table for seed in range(300))
    assert table.base.scores["retention.kl"] == 0
    assert {node.order for node in table.front()} >= {("tone", "structure", "taste"), ("taste",)}


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the script as Python does when it is run: with its folder first on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("build_table")


def study(folder: Path, changes: dict[str, str]) -> Path:
    text = tiny.STUDY
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    tiny.write_model(folder / "model")
    tiny.write_data(folder)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def test_range_in_the_space_is_refused(builder: ModuleType, tmp_path: Path) -> None:
    path = study(tmp_path, {"rank: {choice: [2, 4]}": "rank: 2"})
    with pytest.raises(SpecError, match=r"tone\.dose_tokens is a range"):
        builder.build(path, tmp_path, 0)


def test_build_trains_every_recipe_as_from_scratch_and_goes_on_after_a_kill(
    builder: ModuleType, tmp_path: Path
) -> None:
    path = study(tmp_path, STUDY_CHANGES)
    builder.build(path, tmp_path, 1)
    table = replay.ReplayTable.load(tmp_path / "table.parquet")
    # tone, form and taste are 2, 1 and 1 stages: 4 alone, and 2 + 2 + 1 pairs in either order.
    assert len(table) == 1 + 4 + 10
    assert replay.pq.read_table(tmp_path / "replicates.parquet").num_rows == 1

    bench = builder.Bench.load(path)
    walk = builder.Walk(bench, bench.spec.sampler.seed)
    deep = [each for each in walk.recipes(Recipe()) if len(each.stages) == 2]
    for recipe in (deep[0], deep[-1]):
        ref = bench.base.fresh()
        for one, seed in zip(
            recipe.stages, recipe.stage_seeds(walk.context, walk.hashes), strict=True
        ):
            builder.run_stage(ref, one, bench.sources, bench.spec.training, seed)
        scores = walk._scores(builder.as_loaded(ref))
        for name, value in table.node(recipe).scores.items():
            assert scores[name] == value, name

    (rows,) = tmp_path.glob("rows-*.jsonl")
    lines = rows.read_text().splitlines(True)
    rows.write_text("".join(lines[:5]) + lines[5][:20])
    builder.build(path, tmp_path, 0)
    timings = ("cpu", "seconds")
    for before, after in zip(lines, rows.read_text().splitlines(True), strict=True):
        kept = [
            {key: value for key, value in json.loads(line).items() if not key.endswith(timings)}
            for line in (before, after)
        ]
        assert kept[0] == kept[1]
