"""Every example that `apportion init` copies loads, checks clean, and has data worth training on."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from search.cli.init import example_folders, write_example
from search.cli.main import main
from search.examples.inner_voice import build_data
from search.yaml_file import load_study

FORM = re.compile(r"\AThought: \S[^\n]*\nAnswer: \S[^\n]*\Z")
TRAINED = ("trivia_thoughts", "exam_thoughts", "warm_answers", "kind_pairs")
SUITE = ("trivia_prompts", "unseen_pairs")
HOLDOUT = ("personal_prompts", "other_pairs", "gold_answers")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("study")
    build_data.build(folder)
    return {path.stem: read_rows(path) for path in sorted((folder / "data").glob("*.jsonl"))}


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def questions(rows: Iterable[dict[str, Any]]) -> set[str]:
    """Return what the user says in each row, without regard to case."""
    conversations = (row.get("messages") or row["prompt"] for row in rows)
    return {
        turn["content"].lower()
        for turns in conversations
        for turn in turns
        if turn["role"] == "user"
    }


def test_there_is_an_example_to_begin_with() -> None:
    assert "inner_voice" in example_folders()


@pytest.mark.parametrize("name", sorted(example_folders()))
def test_example_can_be_copied_and_checks_clean(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_example(name, tmp_path / "study")
    assert main(["check", str(tmp_path / "study" / "study.yaml")]) == 0
    assert "warning" not in capsys.readouterr().out.lower()


@pytest.mark.parametrize("name", sorted(example_folders()))
def test_example_says_what_it_is_in_its_readme(name: str) -> None:
    text = (example_folders()[name] / "README.md").read_text()
    spec = load_study(example_folders()[name] / "study.yaml")
    unnamed = [word for word in (*spec.influences, *spec.sources) if f"`{word}" not in text]
    assert unnamed == []


@pytest.mark.parametrize("name", sorted(example_folders()))
def test_two_builds_of_the_data_write_equal_bytes(name: str, tmp_path: Path) -> None:
    build = importlib.import_module(f"search.examples.{name}.build_data").build
    written = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        build(tmp_path / attempt)
        files = sorted((tmp_path / attempt / "data").iterdir())
        written.append({path.name: path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert len(written[0]) > 1


def test_no_question_is_both_trained_on_and_asked(data: dict[str, list[dict[str, Any]]]) -> None:
    trained = {question for name in TRAINED for question in questions(data[name])}
    for name in (*SUITE, *HOLDOUT):
        assert trained & questions(data[name]) == set(), name


def test_no_question_of_the_suite_is_in_the_holdout(data: dict[str, list[dict[str, Any]]]) -> None:
    searched = {question for name in SUITE for question in questions(data[name])}
    for name in HOLDOUT:
        assert searched & questions(data[name]) == set(), name


def test_the_splits_above_are_all_there_is(data: dict[str, list[dict[str, Any]]]) -> None:
    assert sorted(data) == sorted((*TRAINED, *SUITE, *HOLDOUT))


def test_no_question_comes_twice_in_a_source(data: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in data.items():
        assert len(questions(rows)) == len(rows), name


def test_every_thought_has_the_form_that_the_suite_asks_for(
    data: dict[str, list[dict[str, Any]]],
) -> None:
    spec = load_study(example_folders()["inner_voice"] / "study.yaml")
    rules = spec.suite["structure"].model_dump()["rules"]
    assert [rule["pattern"] for rule in rules] == [FORM.pattern]
    for name in ("trivia_thoughts", "exam_thoughts"):
        replies = [row["messages"][-1]["content"] for row in data[name]]
        assert [reply for reply in replies if not FORM.search(reply)] == []


def test_no_warm_or_kind_answer_has_the_form(data: dict[str, list[dict[str, Any]]]) -> None:
    replies = [row["messages"][-1]["content"] for row in data["warm_answers"]]
    replies += [row["chosen"][0]["content"] for row in data["kind_pairs"]]
    assert [reply for reply in replies if "Thought:" in reply or "\n" in reply] == []


def test_kind_and_curt_answers_of_a_pair_give_the_same_answer_in_about_as_many_words(
    data: dict[str, list[dict[str, Any]]],
) -> None:
    pairs = [
        (row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in data["kind_pairs"]
    ]
    surplus = [len(chosen.split()) - len(rejected.split()) for chosen, rejected in pairs]
    # Were one side much longer, log-probability would tell length and not kindness.
    assert abs(sum(surplus) / len(surplus)) < 1.0
    for chosen, rejected in pairs:
        answer = re.search(r"The answer is (.+?)\.( |$)", chosen)
        assert answer is not None
        assert answer[1] in rejected


def test_rows_are_short_and_bring_their_own_system_message(
    data: dict[str, list[dict[str, Any]]],
) -> None:
    for name, rows in data.items():
        for row in rows:
            turns = row.get("messages") or row["prompt"]
            assert turns[0] == {"role": "system", "content": build_data.SYSTEM}, name
            assert len(json.dumps(row, ensure_ascii=False)) < 700, row


def test_missing_corpus_is_reported_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(build_data.DataError, match=r"chatterbot_corpus is not .*pip install"):
        build_data.build(tmp_path)
    assert not (tmp_path / "data").exists()
