"""Parts of a source and kinds held out: who sees which row, and that added rows move none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from pydantic import ValidationError

from search.check import check_study
from search.cli.main import main
from search.data.parts import fraction
from search.data.spec import GeneralisationSpec, PartsSpec, Use
from search.errors import DataError
from search.folders import TrialFolder
from search.lab import Lab
from search.recipe_file import read_recipe, recipe_text
from search.records import Proposal
from search.sources import Source, read_source
from search.spec import SourceSpec, StudySpec
from search.trial import TrialRun
from search.yaml_file import load_study
from spaces.recipe import Recipe, Stage
from spaces.space import Space

THIRDS = PartsSpec(train=0.5, search=0.25, holdout=0.25)
USES: tuple[Use, ...] = ("train", "search", "holdout")


def read(
    root: Path,
    rows: list[dict[str, Any]],
    parts: PartsSpec | None = THIRDS,
    generalisation: GeneralisationSpec | None = None,
    row_format: str = "prompt",
) -> Source:
    (root / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = SourceSpec(path="a.jsonl", format=row_format, parts=parts)  # type: ignore[arg-type]
    return read_source("a", spec, root, generalisation)


def asks(n: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"What is number {at}?", **more} for at in range(n)]


def placed(source: Source) -> dict[str, Use]:
    return {row["prompt"]: use for use in USES for row in source.seen_by(use)}


def test_each_row_is_in_one_part_of_about_its_share(tmp_path: Path) -> None:
    source = read(tmp_path, asks(400))
    sizes = [len(source.seen_by(use)) for use in USES]
    assert sum(sizes) == len(placed(source)) == 400
    # Binomial: four standard deviations of 400 rows at a half are 40.
    assert abs(sizes[0] - 200) < 40
    assert abs(sizes[1] - 100) < 35


def test_added_rows_move_none_and_another_seed_draws_anew(tmp_path: Path) -> None:
    few, more = placed(read(tmp_path, asks(50))), placed(read(tmp_path, asks(100)[::-1]))
    assert {prompt: more[prompt] for prompt in few} == few
    assert placed(read(tmp_path, asks(50), THIRDS.model_copy(update={"seed": 1}))) != few


def test_equal_questions_stay_together_in_all_formats(tmp_path: Path) -> None:
    prompts = placed(read(tmp_path, asks(40)))
    pairs = [
        {"prompt": f" what is NUMBER {at}", "chosen": "a", "rejected": "b"} for at in range(40)
    ]
    chats = [
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": row["prompt"]},
                      {"role": "assistant", "content": str(at)}]}
        for at, row in enumerate(asks(40))
    ]  # fmt: skip
    as_pairs = read(tmp_path, pairs, row_format="preference")
    as_chats = read(tmp_path, chats, row_format="messages")
    for use in USES:
        own = [at for at, row in enumerate(asks(40)) if prompts[row["prompt"]] == use]
        assert [pairs.index(row) for row in as_pairs.seen_by(use)] == own
        assert [chats.index(row) for row in as_chats.seen_by(use)] == own


def test_groups_stay_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {at}", "book": f"book {at % 10}"} for at in range(100)]
    source = read(tmp_path, rows, THIRDS.model_copy(update={"group": "book"}))
    books = [{row["book"] for row in source.seen_by(use)} for use in USES]
    assert sum(map(len, books)) == len(set().union(*books)) == 10
    with pytest.raises(DataError, match=r"a.jsonl:2: book is missing, and parts.group names it"):
        read(tmp_path, [rows[0], {"prompt": "b"}], THIRDS.model_copy(update={"group": "book"}))


def test_field_says_the_part(tmp_path: Path) -> None:
    parts = PartsSpec(field="split", train=("train",), search=("dev",), holdout=("test", "7"))
    values = {"a": "dev", "b": 7, "c": "train"}
    rows = [{"prompt": prompt, "split": value} for prompt, value in values.items()]
    assert placed(read(tmp_path, rows, parts)) == {"a": "search", "b": "holdout", "c": "train"}
    with pytest.raises(DataError, match=r"a.jsonl:1: split: 'x' is in no part; name it"):
        read(tmp_path, [{"prompt": "a", "split": "x"}], parts)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train": 0.5, "search": 0.4}, "shares sum to 0.9"),
        ({"train": 1.5, "search": -0.5}, "1.5 is no share"),
        ({"train": ("a",)}, "no field is given"),
        ({"field": "split", "train": 0.5}, "train is a share and field is given"),
        ({"field": "split", "train": ("a",), "search": ("a",)}, "'a' is in train and in search"),
        ({"field": "split"}, "no value of field"),
        ({"field": "split", "train": ("a",), "group": "b"}, "remove group"),
    ],
)
def test_parts_that_contradict_themselves_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PartsSpec(**values)


def test_rows_of_unseen_kinds_are_for_the_holdout_alone(tmp_path: Path) -> None:
    rows = [*asks(6, kind="sums"), {"prompt": "Why?", "kind": "reasons"}, {"prompt": "So?"}]
    held = GeneralisationSpec(unseen=("reasons",))
    source = read(tmp_path, rows, None, held)
    assert [len(source.seen_by(use)) for use in USES] == [7, 7, 8]
    cut = read(tmp_path, rows, PartsSpec(train=0.5, search=0.5), held)
    assert [row["prompt"] for row in cut.seen_by("holdout")] == ["Why?"]


def test_holding_out_a_kind_changes_what_is_trained_and_so_its_hash(tmp_path: Path) -> None:
    rows = [*asks(3, kind="sums"), {"prompt": "Why?", "kind": "reasons"}]
    held = read(tmp_path, rows, None, GeneralisationSpec(unseen=("reasons",)))
    assert held.content_hash == read(tmp_path, rows[:3], None).content_hash
    assert held.content_hash != read(tmp_path, rows, None).content_hash


def test_evaluators_see_the_kind_whatever_its_field_is_called(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "topic": 3}, {"prompt": "b", "topic": "x", "kind": "other"}]
    held = GeneralisationSpec(by="topic", unseen=("x",))
    source = read(tmp_path, rows, None, held)
    assert [row["kind"] for row in source.seen_by("holdout")] == ["3", "x"]
    assert source.rows == rows[:1]


def test_share_of_kinds_is_drawn_by_a_hash(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {at}", "kind": f"kind {at}"} for at in range(40)]
    held = GeneralisationSpec(unseen_share=0.25, seed=3)
    source = read(tmp_path, rows, None, held)
    expected = [row for row in rows if fraction(row["kind"], 3) >= 0.25]
    assert source.rows == expected
    assert 20 < len(expected) < 40


def test_place_of_a_row_is_its_line_in_the_file(tmp_path: Path) -> None:
    parts = PartsSpec(field="split", train=("a",), holdout=("b",))
    rows = [{"prompt": str(at), "split": "ab"[at % 2]} for at in range(4)]
    assert read(tmp_path, rows, parts).place("holdout", 1) == "a.jsonl:4"


def problems(study: Path, more: str, *changes: tuple[str, str]) -> list[str]:
    text = study.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    study.write_text(text + more)
    found = check_study(load_study(study), study)
    return [f"{'warning' if problem.is_warning else 'error'} {problem}" for problem in found]


def test_one_source_cut_in_parts_serves_training_suite_and_holdout(good_study: Path) -> None:
    rows = [
        {"prompt": f"{word}?", "chosen": "Green.", "rejected": "Blue."}
        for word in ("grass", "sea", "sky", "fire", "coal", "snow", "rose", "leaf", "wine", "milk")
    ]
    Path("data/pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    whole = "pairs: {path: data/pairs.jsonl, format: preference}"
    uses = [
        ("source: held}", "source: pairs}"),
        (
            "english: {evaluator: likelihood, source: prose}",
            "o: {evaluator: preference, source: pairs}",
        ),
        ("  held: {path: data/held.jsonl, format: preference}\n", ""),
        ("  prose: {path: data/prose.jsonl, format: text}\n", ""),
    ]
    parts = whole.replace("}", ", parts: {train: 0.4, search: 0.3, holdout: 0.3}}")
    assert problems(good_study, "", *uses, (whole, parts)) == []
    text = good_study.read_text()
    good_study.write_text(text.replace(parts, whole))
    found = problems(good_study, "")
    assert [line.split(":")[2].strip() for line in found] == [
        "suite.choice.source",
        "holdout.o.source",
        "holdout.o.source",
    ]


def test_part_without_rows_is_refused(good_study: Path) -> None:
    old = "asks: {path: data/asks.jsonl, format: prompt}"
    found = problems(good_study, "", (old, old.replace("}", ", parts: {train: 1.0}}")))
    assert found == [
        "error study.yaml:29: suite.style.source: no row of 'asks' is for search; give it search (sources.asks)",
    ]


def test_allowed_leak_is_a_warning_and_an_idle_permission_is_one(good_study: Path) -> None:
    rows = [{"prompt": "Who are you"}]
    Path("data/asks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = problems(good_study, "allow_leaks: [[asks, chat], [pairs, held]]\n")
    assert len(found) == 2
    assert found[0].startswith("warning study.yaml:29: suite.style.source: 1 of 1 rows of 'asks'")
    assert found[0].endswith("; allowed by allow_leaks")
    assert found[1].endswith("allow_leaks[1]: 'pairs' and 'held' do not leak; remove it")


def test_permission_for_an_unknown_source_is_refused(good_study: Path) -> None:
    assert problems(good_study, "allow_leaks: [[pears, held]]\n") == [
        "error study.yaml:42: allow_leaks[0]: 'pears' is no source in use; did you mean 'pairs'?"
    ]


def test_training_on_the_text_of_retention_is_refused(good_study: Path) -> None:
    from evaluators.behaviours.retention import prose_passages

    said = [
        {"role": "user", "content": "Explain."},
        {"role": "assistant", "content": f"Well, {prose_passages()[1]}"},
    ]
    Path("data/chat.jsonl").write_text(json.dumps({"messages": said}))
    (found,) = problems(good_study, "")
    assert "1 of 16 rows of 'retention' leak from 'chat'" in found
    assert "passage 2 shares a passage with data/chat.jsonl:1" in found
    assert found.endswith("allow_leaks: [[chat, retention]]")


def test_kind_that_no_row_has_is_refused(good_study: Path) -> None:
    found = problems(good_study, "generalisation: {unseen: [shirt]}\n")
    assert found[0] == (
        "error study.yaml:42: generalisation.unseen[0]: no row has kind 'shirt'; did you mean 'short'?"
    )


def test_holdout_without_kinds_and_training_rows_without_them_are_warnings(
    good_study: Path,
) -> None:
    Path("data/asks.jsonl").write_text(
        '{"prompt": "Name a town.", "kind": "towns"}\n{"prompt": "Name a tree.", "kind": "trees"}\n'
    )
    found = problems(good_study, "generalisation: {unseen: [towns]}\n")
    assert all(line.startswith("warning") for line in found)
    assert "no evaluator of the holdout reads rows of seen and of unseen kinds" in found[-1]
    assert "2 of 2 rows of 'chat' have no 'kind' and are trained on" in found[0]


def test_check_names_file_line_and_remedy_of_a_leak(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/held.jsonl").write_text(
        '\n{"prompt": "SKY!", "chosen": "Green.", "rejected": "Blue."}'
    )
    assert main(["check", "study.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: study.yaml:31: suite.choice.source: 1 of 1 rows of 'held' leak from 'pairs', which is trained on: "
        "data/held.jsonl:2 asks what data/pairs.jsonl:1 asks; measure on other rows, or allow it: "
        "allow_leaks: [[pairs, held]]\n"
    )


def test_texts_that_a_style_is_compared_with_may_serve_suite_and_holdout(good_study: Path) -> None:
    words = ("river", "hill", "rain", "stone", "owl", "bell", "lamp", "door", "salt", "moss", "pine", "crow",
             "silk", "iron", "clay", "fern", "wolf", "drum", "sand", "gate")  # fmt: skip
    for name, text in (("warm", "Dear {} of mine, how kind."), ("cold", "No {} today, go away.")):
        rows = [json.dumps({"text": text.format(word)}) for word in words]
        Path(f"data/{name}.jsonl").write_text("\n".join(rows))
    Path("data/more.jsonl").write_text('{"prompt": "Name a bird."}')
    style = "{evaluator: style, source: %s, more_like: warm, less_like: cold}"
    sources = "".join(
        f"  {name}: {{path: data/{name}.jsonl, format: {kind}}}\n"
        for name, kind in (("warm", "text"), ("cold", "text"), ("more", "prompt"))
    )
    changes = (
        ("sources:\n", f"sources:\n{sources}"),
        ("suite:\n", f"suite:\n  like: {style % 'asks'}\n"),
        ("holdout:\n", f"holdout:\n  like_more: {style % 'more'}\n"),
    )
    assert problems(good_study, "", *changes) == []


def test_unseen_kinds_reach_the_holdout_of_a_trial_and_neither_training_nor_suite(
    tmp_path: Path,
) -> None:
    tiny.write_model(tmp_path / "model")
    tiny.write_data(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    kinds = ("bird", "beast")
    chat = [{**row, "kind": kinds[at % 2]} for at, row in enumerate(rows)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat))
    for name in ("ask", "greet"):
        asked = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        kinded = [{**json.loads(line), "kind": kinds[at % 2]} for at, line in enumerate(asked)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kinded))
    study = tmp_path / "study.yaml"
    study.write_text(tiny.STUDY + "generalisation: {unseen: [bird]}\n")
    spec = load_study(study)
    lab = Lab.load(spec, tmp_path, None)
    assert [row["kind"] for row in lab.sources["chat"].rows] == ["beast"] * 4
    proposal = Proposal(0, {}, Recipe(stages=()), "base")
    folder = TrialFolder(tmp_path / "results" / "trials" / "0000")
    run = TrialRun(lab, folder, proposal)
    assert run.step()
    assert run.record.state == "COMPLETE", run.record.reason
    searched = [item.kind for item in folder.read_items(0, False) if item.evaluator == "short"]
    held_out = [item.kind for item in folder.read_items(0, True) if item.evaluator == "shorter"]
    assert (searched, held_out) == (["beast"] * 2, ["bird", "beast"] * 2)
    stage = spec_stage(spec)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(spec, Recipe(stages=(stage,)), 1, tmp_path, tmp_path))
    file = read_recipe(path)
    again = read_source("chat", file.sources["chat"], tmp_path, file.generalisation)
    assert again.content_hash == lab.sources["chat"].content_hash


def spec_stage(spec: StudySpec) -> Stage:
    space = Space(spec.influences, spec.order)
    stages = (stage for seed in range(50) for stage in space.decode(space.sample(seed)).stages)
    return next(stage for stage in stages if isinstance(stage, Stage) and stage.influence == "tone")
