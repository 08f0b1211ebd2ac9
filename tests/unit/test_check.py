"""Cross-checks: what is an error, what is only a warning, and what is left alone."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from search import check, check_space
from search.check import all_problems, check_study, checked_study
from search.check_space import TABLE_COLUMNS
from search.errors import SpecError
from search.records import TrialRecord
from search.report.tables import _row
from search.report.view import StudyView
from search.yaml_file import load_study
from spaces.recipe import Recipe

LORA = "adapter: {kind: lora, rank: 8}"


def problems(study: Path, *changes: tuple[str, str]) -> list[str]:
    """Return the problems of the good study after some changes of its text."""
    text = study.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    study.write_text(text)
    return [f"{'warning' if p.is_warning else 'error'} {p}" for p in all_problems(study)]


def adapters(tone: str, taste: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (
        ("adapter: {kind: lora, rank: {choice: [4, 8]}, layers: 50%-100%}", tone),
        ("adapter: {kind: full, layers: 0-3}", taste),
    )


CONTINUE = ("method: sft\n", "method: sft\n    handoff: continue\n")
NO_BASELINE = (", values: {tone.rank: 4, tone.dose_tokens: 1000}", "")


def test_good_study_has_no_problems_and_its_sources_are_at_hand(good_study: Path) -> None:
    assert check_study(load_study(good_study), good_study) == []
    checked = checked_study(good_study)
    assert {name: len(source.rows) for name, source in checked.sources.items()} == {
        "chat": 2, "plain": 2, "pairs": 2, "held": 1, "asks": 2, "prose": 1,
    }  # fmt: skip


def test_all_problems_come_at_once_errors_first_and_by_line(good_study: Path) -> None:
    found = problems(
        good_study,
        ("score: style", "score: stile"),
        ("{pairs: 1.0}", "{pears: 1.0}"),
        ("1e-5", "0"),
    )
    places = [re.search(r"^(error|warning) study.yaml:(\d+)", text) for text in found]
    assert [(place[1], int(place[2])) for place in places if place] == [
        ("error", 20),
        ("error", 22),
        ("error", 35),
        ("warning", 6),
    ]
    with pytest.raises(SpecError, match=r"\(and 2 more\)$"):
        checked_study(good_study)


def test_continue_needs_an_equal_fixed_adapter_in_all_that_may_follow(good_study: Path) -> None:
    assert problems(good_study, *adapters(LORA, LORA), CONTINUE, NO_BASELINE) == []


@pytest.mark.parametrize(
    ("tone", "taste", "reason"),
    [
        (LORA, "adapter: {kind: lora, rank: 4}", "rank is 8 here and 4 there"),
        (LORA, "adapter: {kind: lora, rank: 8, dora: true}", "dora is false here and true there"),
        (LORA, "adapter: {kind: lora, rank: {choice: [8]}}", "rank is to be searched"),
        (LORA, "adapter: {kind: full}", "that trains full weights"),
    ],
)
def test_continue_into_another_adapter_is_an_error(
    good_study: Path, tone: str, taste: str, reason: str
) -> None:
    (found,) = problems(good_study, *adapters(tone, taste), CONTINUE, NO_BASELINE)
    assert found.startswith("error study.yaml:13: influences.tone.handoff: continue passes")
    assert f"to taste, which may come next, but {reason}" in found


def test_continue_is_fine_where_the_order_bars_the_other_adapter(good_study: Path) -> None:
    swapped = ("[[tone, taste]]", "[[taste, tone]]")
    base = ("[tone], values: {tone.rank: 4, tone.dose_tokens: 1000}", "[tone]")
    assert problems(good_study, CONTINUE, swapped, base) == []


def test_continue_of_a_repeated_influence_needs_fixed_values(good_study: Path) -> None:
    changes = (CONTINUE, ("before: [[tone, taste]]", "influences: [tone]\n  max_repeats: 2"))
    found = problems(good_study, *changes)
    assert [text for text in found if text.startswith("error")] == [
        "error study.yaml:13: influences.tone.handoff: continue passes the adapter to tone, which "
        "may come next, but rank is to be searched; make both adapters equal and fixed, or bar "
        "that order with order.before"
    ]


def test_unknown_module_is_a_warning_and_a_slip_an_error(good_study: Path) -> None:
    (unknown,) = problems(good_study, ("layers: 0-3", "targets: Wqkv"))
    assert unknown.startswith("warning")
    (slip,) = problems(good_study, ("targets: Wqkv", "targets: 'q_proj, v_porj'"))
    assert slip.startswith("error")
    assert "did you mean 'v_proj'?" in slip


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_adapter_on_tied_ends_of_the_model_is_an_error_and_else_a_warning(
    good_study: Path, name: str
) -> None:
    (found,) = problems(good_study, ("layers: 50%-100%", f"targets: {name}"))
    assert found.startswith("warning")
    assert f"{name} must not share its weight with another module" in found
    Path("model/config.json").write_text('{"tie_word_embeddings": true}')
    (found,) = problems(good_study)
    assert found.startswith("error")
    assert f"{name} shares its weight with another module" in found


@pytest.mark.parametrize(
    ("handoff", "tone", "taste", "is_error"),
    [
        ("stack", "dora: true", "dora: false", True),
        ("stack", "dora: false", "dora: true", True),
        ("detach", "dora: {choice: [false, true]}", "dora: false", True),
        ("stack", "dora: false", "dora: false", False),
        ("merge", "dora: true", "dora: true", False),
    ],
)
def test_dora_and_stacked_adapters_exclude_each_other(
    good_study: Path, handoff: str, tone: str, taste: str, is_error: bool
) -> None:
    both = adapters(
        f"handoff: {handoff}\n    adapter: {{kind: lora, {tone}}}",
        f"adapter: {{kind: lora, {taste}}}",
    )
    found = problems(good_study, *both, NO_BASELINE)
    assert ["lies on bare weights only" in text for text in found] == [True] * is_error


def test_dora_may_stack_where_nothing_may_follow(good_study: Path) -> None:
    both = adapters(
        "handoff: stack\n    adapter: {kind: lora, dora: true}", "adapter: {kind: lora}"
    )
    swapped = ("[[tone, taste]]", "[[taste, tone]]")
    assert problems(good_study, *both, NO_BASELINE, swapped) == []


def test_full_weights_may_move_the_ends_of_the_model(good_study: Path) -> None:
    assert problems(good_study, ("layers: 0-3", "targets: 'lm_head, embed_tokens'")) == []


def test_measuring_what_is_trained_on_is_refused(good_study: Path) -> None:
    assert problems(good_study, ("source: held}", "source: pairs}")) == [
        "error study.yaml:31: suite.choice.source: 'pairs' is trained on by taste too (sources.pairs.parts can "
        "cut it); measure on other rows, or allow it: allow_leaks: [[pairs, pairs]]",
        "warning study.yaml:7: sources.held: is used nowhere; remove it or name it in a mix",
    ]


def test_shared_questions_of_different_sources_are_refused(good_study: Path) -> None:
    rows = [{"prompt": "  who are YOU? "}, {"prompt": "Name a colour."}]
    Path("data/asks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert problems(good_study) == [
        "error study.yaml:29: suite.style.source: 1 of 2 rows of 'asks' leak from 'chat', which is trained on: "
        "data/asks.jsonl:1 asks what data/chat.jsonl:2 asks; measure on other rows, or allow it: "
        "allow_leaks: [[chat, asks]]"
    ]


def test_equal_pairs_and_unused_sources_are_warnings(good_study: Path) -> None:
    pair = '{"prompt": "a", "chosen": "b", "rejected": "b"}\n'
    with Path("data/pairs.jsonl").open("a") as file:
        file.write(pair * 2)
    found = problems(good_study, ("sources:\n", "sources:\n  idle: {hub: a/b, format: text}\n"))
    assert found == [
        "warning study.yaml:4: sources.idle: is used nowhere; remove it or name it in a mix",
        "warning study.yaml:7: sources.pairs: 2 pairs with two equal answers are left out",
    ]


def test_more_threads_than_cpus_are_a_warning(
    good_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    compute = "{trials: 4}\ncompute: {concurrent_trials: 2, threads_per_trial: 3}"
    (found,) = problems(good_study, ("{trials: 4}", compute))
    assert "compute.threads_per_trial: 2 trials of 3 threads share 4 CPUs" in found
    (found,) = problems(good_study, ("threads_per_trial: 3", "cpus_per_trial: 2.5"))
    assert "2 trials of 2.5 CPUs do not fit the 4 CPUs here" in found


def test_trial_that_needs_more_cpus_than_there_are_is_an_error(
    good_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    (found,) = problems(good_study, ("{trials: 4}", "{trials: 4}\ncompute: {cpus_per_trial: 4.5}"))
    assert found == (
        "error study.yaml:42: compute.cpus_per_trial: 4.5 CPUs are more than the 4 here; lower it"
    )
    assert problems(good_study, ("4.5", "4")) == []


@pytest.mark.parametrize(
    ("first", "second", "is_twin"),
    [
        ("[tone], values: {tone.rank: 4}", "[tone], values: {tone.rank: 4.0}", True),
        ("[tone], values: {tone.rank: 4}", "[tone], values: {tone.rank: 8}", False),
        ("[tone], values: {tone.rank: 4}", "[tone]", False),
        ("[taste]", "[taste]", True),
        ("[tone, taste]", "[taste]", False),
        ("[]", "[]", True),
    ],
)
def test_two_baselines_with_one_recipe_are_an_error(
    good_study: Path, first: str, second: str, is_twin: bool
) -> None:
    old = "[tone], values: {tone.rank: 4, tone.dose_tokens: 1000}}"
    found = problems(good_study, (old, f"{first}}}\n  - {{name: again, order: {second}}}"))
    twin = (
        "error study.yaml:41: baselines[1]: has the order and values of 'gentle'; remove one, or "
        "give it other values"
    )
    assert found == [twin] * is_twin


def test_baseline_with_stages_may_not_be_called_base(good_study: Path) -> None:
    (found,) = problems(good_study, ("name: gentle", "name: base"))
    assert found.startswith("error study.yaml:40: baselines[0].name: 'base' is the name of the")
    assert (
        problems(good_study, ("[tone], values: {tone.rank: 4, tone.dose_tokens: 1000}", "[]")) == []
    )


@pytest.mark.parametrize("name", ["base", "order", "n_stages"])
def test_reserved_name_of_an_influence_is_an_error_at_its_line(good_study: Path, name: str) -> None:
    changes = (("  taste:", f"  {name}:"), ("[[tone, taste]]", f"[[tone, {name}]]"))
    (found,) = problems(good_study, *changes)
    assert found.startswith(f"error study.yaml:17: influences.{name}: is the name of the ")
    assert found.endswith("; choose another for the influence")


@pytest.mark.parametrize("name", ["number", "recipe", "device", "n_stages_scored", "my_seconds"])
@pytest.mark.parametrize(("group", "line"), [("suite", 31), ("holdout", 33)])
def test_evaluator_named_like_a_column_of_the_table_is_an_error(
    good_study: Path, name: str, group: str, line: int
) -> None:
    old = {"suite": "  choice: {", "holdout": "  english: {"}[group]
    changes = [(old, f"  {name}: {{"), ("choice.accuracy", f"{name}.accuracy")]
    (found,) = problems(good_study, *changes[: 2 if group == "suite" else 1])
    assert found.startswith(f"error study.yaml:{line}: {group}.{name}: is the name of a column")


def test_reserved_names_are_the_columns_that_a_study_without_scores_has() -> None:
    trial = TrialRecord(number=0, state="FAIL", params={}, recipe=Recipe(), seed=0, started_at="")
    spec = SimpleNamespace(fidelity=None)
    bare = SimpleNamespace(spec=spec, suite=(), holdout=(), front=(), feasible=(), knee=None)
    view = cast(StudyView, bare)
    columns = {name for name in _row(view, trial, ()) if not name.endswith("_seconds")}
    assert columns == TABLE_COLUMNS


def test_choice_of_handoffs_of_which_one_cannot_be_is_an_error(good_study: Path) -> None:
    choice = "handoff: {choice: [merge, continue]}"
    (found,) = problems(good_study, ("beta: 0.1", choice))
    assert found.startswith(
        "error study.yaml:23: influences.taste.handoff.choice[1]: continue needs"
    )
    (found,) = problems(
        good_study, (choice, "beta: 0.1"), ("method: sft\n", f"method: sft\n    {choice}\n")
    )
    assert found.startswith("error study.yaml:13: influences.tone.handoff.choice[1]: continue pass")


def test_recipes_that_are_seldom_illegal_are_found_by_drawing(
    good_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One dose in a hundred of one influence is illegal, and only the drawing can find it here.
    monkeypatch.setattr(check, "influence_findings", lambda *_: ())
    doses = ", ".join(map(str, [-1, *range(1000, 1099)]))
    (found,) = problems(good_study, ("dose_tokens: 2000", f"dose_tokens: {{choice: [{doses}]}}"))
    assert found.startswith("error study.yaml:10: influences: taste.dose_tokens: Input should be")


def test_baseline_whose_gaps_may_be_filled_illegally_is_found(
    good_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "influence_findings", lambda *_: ())
    monkeypatch.setattr(check_space, "N_DRAWN_RECIPES", 0)
    (found,) = problems(good_study, ("1e-4, high: 1e-3, log: true", "-1.0, high: 1.0"))
    assert found.startswith("error study.yaml:40: baselines[0]: influences.tone.learning_rate: Inp")


@pytest.mark.parametrize("path", ["store", "../store", "/no/such/place/store", "s3://bucket/store"])
def test_places_of_the_store_that_work_are_accepted(good_study: Path, path: str) -> None:
    assert problems(good_study, ("{trials: 4}", f"{{trials: 4}}\nstore: {{path: {path}}}")) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("study.yaml", "study.yaml is a file; name a folder"),
        ("no/store", "folder no does not exist; make it first"),
        ("''", "is empty; name a folder, or remove it"),
    ],
)
def test_place_of_the_store_that_cannot_be_is_an_error(
    good_study: Path, path: str, text: str
) -> None:
    (found,) = problems(good_study, ("{trials: 4}", f"{{trials: 4}}\nstore: {{path: {path}}}"))
    assert found == f"error study.yaml:42: store.path: {text}"


def test_objective_against_its_own_direction_needs_a_reference(good_study: Path) -> None:
    (found,) = problems(good_study, ("- score: style", "- {score: style, direction: minimise}"))
    assert "objectives[0]: style is a score against its own direction; add reference" in found


def test_constraints_that_exclude_each_other_are_an_error(good_study: Path) -> None:
    more = "at_least: 0.2}\n  - {score: choice.accuracy, at_most: 0.1}"
    (found,) = problems(good_study, ("at_least: 0.2}", more))
    assert "constraints[1].at_most: 0.1 is below at_least 0.2" in found


def test_evaluator_called_retention_must_be_one(good_study: Path) -> None:
    changes = (("  choice: {", "  retention: {"), ("choice.accuracy", "style"))
    found = problems(good_study, *changes)
    assert any("the name retention is kept for that evaluator" in text for text in found)


def test_budget_that_baselines_use_up_is_a_warning(good_study: Path) -> None:
    (found,) = problems(good_study, ("trials: 4", "trials: 2"))
    assert "2 is used up by 2 baselines; the sampler gets no trial" in found


@pytest.mark.parametrize(
    "url", ["sqlite:///x.db", "sqlite:////tmp/x.db", "postgresql+psycopg://u@h/d"]
)
def test_database_urls_that_work_are_accepted(good_study: Path, url: str) -> None:
    assert problems(good_study, ("{trials: 4}", f"{{trials: 4}}\nstorage: {url}")) == []


def test_database_in_a_folder_that_is_not_there_is_an_error(good_study: Path) -> None:
    (found,) = problems(good_study, ("{trials: 4}", "{trials: 4}\nstorage: sqlite:///no/x.db"))
    assert "folder no of the database does not exist" in found


def test_relative_database_and_store_start_at_the_study(
    good_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "{trials: 4}\nstorage: sqlite:///sub/x.db?timeout=9\nstore: {path: sub/store}"
    good_study.write_text(good_study.read_text().replace("{trials: 4}", more))
    (tmp_path / "sub").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert all_problems(Path("..") / good_study) == []
    (elsewhere / "sub").mkdir()
    (tmp_path / "sub").rmdir()
    assert [problem.text for problem in all_problems(Path("..") / good_study)] == [
        "folder ../sub of the database does not exist; make it first",
        "folder ../sub does not exist; make it first",
    ]


def test_layers_of_a_model_that_is_not_here_are_not_judged(good_study: Path) -> None:
    assert problems(good_study, ("path: model", "hub: a/b"), ("0-3", "0-99")) == []


def test_sources_and_models_are_looked_for_beside_the_study(
    good_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert all_problems(Path("..") / good_study) == []


def test_required_score_must_be_one_of_suite_or_holdout(good_study: Path) -> None:
    text = good_study.read_text()
    good_study.write_text(text + "required: [style, retention.kl, stile]\n")
    (found,) = [line for line in problems(good_study) if "required" in line]
    assert "required[2]: 'stile' is not a score; did you mean 'style'?" in found
