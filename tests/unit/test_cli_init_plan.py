"""`init` writes a whole example or nothing; `plan` counts orders, tokens and time as one can by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluators.scores import Score
from search.cli import init
from search.cli.main import main
from search.cli.output import duration
from search.plan import (
    ROUGH_TOKENS_PER_SECOND,
    Kind,
    Speeds,
    make_plan,
    measured_speeds,
)
from search.records import Boundary, StageRecord, TrialRecord
from search.resolution import resolutions
from search.schema import SCHEMA_LINE
from search.spec import ObjectiveSpec
from search.yaml_file import load_study
from spaces.recipe import Full, Recipe, Stage


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put one small example in the place of those of the package."""
    home = tmp_path / "examples" / "small"
    home.mkdir(parents=True)
    (home / "study.yaml").write_text("name: small\n")
    (home / "README.md").write_text("# Small\n\nThe smallest study.\n")
    (home / "__pycache__").mkdir()
    (home / "__pycache__" / "x.pyc").touch()
    monkeypatch.setattr(init, "example_folders", lambda: {"small": home})
    monkeypatch.chdir(tmp_path)
    return home


def test_init_copies_the_example_and_writes_the_schema_beside_it(
    examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "new/mine", "--example", "small"]) == 0
    mine = Path("new/mine")
    assert sorted(path.name for path in mine.iterdir()) == [
        "README.md",
        "study.schema.json",
        "study.yaml",
    ]
    assert (mine / "study.yaml").read_text() == SCHEMA_LINE + "name: small\n"
    assert capsys.readouterr().out.splitlines()[-1] == "next  apportion check new/mine/study.yaml"


def test_init_fills_an_empty_folder_and_refuses_a_full_one(
    examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    assert main(["init", "mine", "--example", "small"]) == 0
    before = sorted(Path("mine").iterdir())
    capsys.readouterr()
    assert main(["init", "mine", "--example", "small"]) == 2
    assert capsys.readouterr().err == "error: mine: is not empty; name a new folder\n"
    assert sorted(Path("mine").iterdir()) == before


def test_init_refuses_a_file_in_the_way(examples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").write_text("text")
    assert main(["init", "mine", "--example", "small"]) == 2
    assert "mine: is a file" in capsys.readouterr().err
    assert Path("mine").read_text() == "text"


def test_init_whose_data_cannot_be_made_leaves_nothing(
    examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (examples / "build_data.py").touch()
    before = sorted(Path().iterdir())
    with pytest.raises(ModuleNotFoundError):  # the package has no example `small`
        main(["init", "mine", "--example", "small"])
    assert sorted(Path().iterdir()) == before


def test_list_of_examples_has_their_first_words(
    examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--list"]) == 0
    assert capsys.readouterr().out == "small       The smallest study.\n"


def record(trained_tokens: int, train_seconds: float, setup_seconds: float) -> TrialRecord:
    stage = Stage(
        influence="taste",
        method="sft",
        adapter=Full(),
        mix={"chat": 1.0},
        dose_tokens=1000,
        learning_rate=1e-5,
    )
    done = StageRecord(
        stage=stage,
        digest="d",
        seed=0,
        trained_tokens=trained_tokens,
        n_steps=1,
        n_rows=1,
        tokens_by_source={},
        passes_by_source={},
        loss_by_step=(),
        n_trainable=1,
        micro_batch_rows=1,
        train_seconds=train_seconds,
        setup_seconds=setup_seconds,
    )
    return TrialRecord(
        number=0,
        state="COMPLETE",
        params={},
        recipe=Recipe(stages=(stage,)),
        seed=0,
        stages=(done,),
        started_at="2026-01-01T00:00:00+00:00",
    )


def test_measured_speed_is_all_tokens_over_all_seconds_of_the_kind() -> None:
    speeds = measured_speeds([record(1000, 9.0, 1.0), record(3000, 8.0, 2.0)])
    assert speeds.tokens_per_second == {**ROUGH_TOKENS_PER_SECOND, Kind("sft", "full"): 200.0}
    assert speeds.n_measured == {Kind("sft", "full"): 2}


def test_seconds_of_a_recipe_are_training_suite_and_loading() -> None:
    speeds = Speeds(
        {Kind("sft", "full"): 100.0}, evaluate_seconds=7.0, rest_seconds=2.0, n_measured={}
    )
    stage = record(1, 1.0, 1.0).recipe.stages[0]
    assert speeds.recipe_seconds(Recipe(stages=(stage, stage))) == 2 * 10 + 2 * 7 + 2


FIXED = "rank: 8, layers: 50%-100%}\n    mix: {chat: 1.0}\n    dose_tokens: 1000\n"


@pytest.fixture
def fixed_study(good_study: Path) -> Path:
    """Make every recipe cost the same: always tone (1,000 tokens), then taste (2,000)."""
    head, rest = good_study.read_text().split("rank: {choice: [4, 8]}, layers: 50%-100%}\n")
    text = head + FIXED + rest.split("log: true}\n", 1)[1]
    text = text.replace("order:\n", "order:\n  min_stages: 2\n").replace(
        "  - {name: gentle, order: [tone], values: {tone.rank: 4, tone.dose_tokens: 1000}}", "  []"
    )
    text = text.replace("  plain: {path", "  spare: {path") + "sampler: {name: random}\n"
    good_study.write_text(text)
    return good_study


def test_plan_of_fixed_values_is_exact(fixed_study: Path) -> None:
    spec = load_study(fixed_study)
    speeds = Speeds(
        {Kind("sft", "lora"): 100.0, Kind("dpo", "full"): 50.0},
        evaluate_seconds=5.0,
        rest_seconds=1.0,
        n_measured={},
    )
    plan = make_plan(spec, speeds, n_recipes=3, seed=0)
    assert (plan.n_orders, plan.n_parameters, len(plan.recipes)) == (1, 1, 3)
    assert plan.tokens_per_trial == 3000
    assert plan.seconds_per_trial == 10 + 40 + 2 * 5 + 1
    assert (plan.n_trials, plan.ends_by) == (4, "trials")
    assert (plan.train_tokens, plan.wall_seconds) == (12000, 4 * 61)


TONE_AND_TASTE = Speeds(
    {Kind("sft", "lora"): 100.0, Kind("dpo", "full"): 50.0}, 5.0, 1.0, n_measured={}
)


@pytest.mark.parametrize("n_stages", [1, 2])
def test_stagewise_trial_is_priced_as_the_fewest_stages_where_the_rest_is_stored(
    n_stages: int, fixed_study: Path
) -> None:
    text = fixed_study.read_text().replace("sampler: {name: random}", "sampler: {name: stagewise}")
    order = f"min_stages: {n_stages}\n  max_stages: 4\n  max_repeats: 2"
    fixed_study.write_text(text.replace("min_stages: 2", order))
    spec = load_study(fixed_study)
    plan = make_plan(spec, TONE_AND_TASTE, n_recipes=50, seed=0)
    assert max(len(recipe.stages) for recipe in plan.recipes) > n_stages
    # A stage of tone costs 1,000 tokens and 10 s, one of taste 2,000 and 40 s; each 5 s of suite, and a trial 1 s.
    n_taste = plan.tokens_per_trial / 1000 - n_stages
    assert 0 < n_taste < n_stages
    assert plan.seconds_per_trial == pytest.approx(n_stages * (10 + 5) + n_taste * 30 + 1)


@pytest.mark.parametrize("store", ["", "\nstore: {enabled: false}"])
def test_stagewise_trial_is_priced_whole_where_it_trains_all_its_stages(
    store: str, fixed_study: Path
) -> None:
    # With a store: the fewest stages, two, are all.
    changed = f"sampler: {{name: stagewise}}{store}"
    fixed_study.write_text(fixed_study.read_text().replace("sampler: {name: random}", changed))
    plan = make_plan(load_study(fixed_study), TONE_AND_TASTE, n_recipes=0, seed=0)
    assert (plan.tokens_per_trial, plan.seconds_per_trial) == (3000, 61)


@pytest.mark.parametrize(
    ("budget", "n_trials", "ends_by"),
    [
        ("{trials: 4, compute_seconds: 183}", 3, "compute_seconds"),
        ("{trials: 4, train_tokens: 6000}", 2, "train_tokens"),
        ("{trials: 4, wall_seconds: 183}", 3, "wall_seconds"),
        ("{trials: 4, train_tokens: 90000, wall_seconds: 9000}", 4, "trials"),
    ],
)
def test_plan_ends_with_the_part_of_the_budget_that_ends_first(
    fixed_study: Path, budget: str, n_trials: int, ends_by: str
) -> None:
    fixed_study.write_text(fixed_study.read_text().replace("{trials: 4}", budget))
    speeds = Speeds(
        {Kind("sft", "lora"): 100.0, Kind("dpo", "full"): 50.0}, 5.0, 1.0, n_measured={}
    )
    plan = make_plan(load_study(fixed_study), speeds, n_recipes=0, seed=0)
    assert (plan.n_trials, plan.ends_by) == (n_trials, ends_by)


def test_plan_prints_the_same_recipes_as_text_and_as_json(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(good_study), "--n", "3"]) == 0
    text = capsys.readouterr().out
    assert main(["plan", str(good_study), "--n", "3", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["recipes"]) == 3
    assert all(recipe["label"] in text for recipe in plan["recipes"])
    assert "orders      3, and the untouched base" in text
    assert "rough defaults for a 135M model" in text


@pytest.mark.parametrize(
    ("order", "repeat", "n_tokens", "doses"),
    [
        ("max_repeats: 2\n  min_stages: 4", "repeat: {dose_factor: 0.25}", 4500, "0.25k"),
        ("min_stages: 2\n  rounds: 2", "", 3000, "0.5k"),
    ],
)
def test_plan_tells_the_dose_of_each_run(
    order: str,
    repeat: str,
    n_tokens: int,
    doses: str,
    fixed_study: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # tone has 1,000 tokens, then 250, and taste 2,000 twice, less the 750 of its own quarter; or halves of both.
    text = fixed_study.read_text().replace("min_stages: 2\n  before: [[tone, taste]]", order)
    text = text.replace("    mix: {chat: 1.0}\n", f"    mix: {{chat: 1.0}}\n    {repeat}\n")
    if repeat:
        text = text.replace("    beta: 0.1\n", "    beta: 0.1\n    repeat: {dose_factor: 0.625}\n")
    fixed_study.write_text(text)
    assert main(["plan", str(fixed_study), "--n", "2"]) == 0
    out = capsys.readouterr().out
    first, _ = (line for line in out.splitlines() if line.startswith("recipe"))
    assert f"{n_tokens:,} tokens" in first
    assert f"L50%-100%, {doses})" in first
    assert ("in 2 rounds" in out) == (not repeat)


def test_plan_of_a_wrong_study_is_refused(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good_study.write_text(good_study.read_text().replace("{pairs: 1.0}", "{pears: 1.0}"))
    assert main(["plan", str(good_study)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42.4, "42 s"), (420, "7 min"), (12600, "3.5 h"), (181440, "2.1 days")],
)
def test_durations_are_said_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plan_says_how_finely_each_objective_tells(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(good_study), "--n", "0", "--resolution", "0.1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    share = next(each for each in plan["objectives"] if each["unit"] == "share")
    # 2 x .25 x 7.849 / .01 = 392.4 items; 2 rows: .5 / sqrt(2)
    assert (share["n_items"], share["items_needed"]) == (2, 393)
    assert share["stderr"] == pytest.approx(0.5 / 2**0.5)
    assert main(["plan", str(good_study), "--n", "0"]) == 0
    assert "2 items, standard error 0.35 (at a share of .5), to see 0.05: up to 1,570 items" in (
        capsys.readouterr().out
    )
    assert main(["plan", str(good_study), "--resolution", "0"]) == 2


def test_other_scores_tell_after_the_first_trial(good_study: Path) -> None:
    spec = load_study(good_study)
    objective = ObjectiveSpec(score="retention.kl", reference=1.0)
    spec = spec.model_copy(update={"objectives": (objective,)})
    (before,) = resolutions(spec, {}, [], 0.05)
    assert (before.stderr, before.items_needed, before.is_measured) == (None, None, False)
    drift = Score(
        name="retention.kl", value=0.2, stderr=0.1, n=16, unit="nats/token", direction="minimise"
    )
    boundary = Boundary(n_stages=1, digest="d", scores=(drift,), evaluate_seconds=1.0)
    trial = record(100, 1.0, 1.0).model_copy(update={"boundaries": (boundary,)})
    (after,) = resolutions(spec, {}, [trial], 0.1)
    # sd .1 x 4 = .4; 2 x .16 x 7.849 / .01 = 251.2
    assert (after.n_items, after.items_needed, after.is_measured) == (16, 252, True)
    assert after.stderr == pytest.approx(0.1)
