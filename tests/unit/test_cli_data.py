"""`apportion data`: facts about rows, exit codes, and nothing that a row could do to a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from search.cli.main import main
from search.cli.output import visible

HOSTILE = "\x1b]0;pwned\x07\x1b[2J\u202eevil\u2066\x08\x9b31m\r\t\u2028[bold]:smile: {{ 7 }}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.write_model(folder)
    return folder


@pytest.fixture
def study(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model").symlink_to(model)
    tiny.write_data(tmp_path)
    (tmp_path / "study.yaml").write_text(tiny.STUDY)
    monkeypatch.chdir(tmp_path)
    return Path("study.yaml")


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["data", *words]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out if code == 0 else out + err


def test_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys)
    assert "apportion data preview study.yaml chat" in text


def test_check_of_a_clean_study_names_its_sources(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run(capsys, "check", "study.yaml").splitlines()
    assert lines[0] == "source      chat: messages, 8 rows"
    assert lines[-1] == "no errors"


def test_check_shows_shared_rows_side_by_side_and_ends_with_2(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": "Why not?"},
        {"prompt": f"{HOSTILE} What does the CAT say"},
        {"prompt": "what does the cow say"},
    ]
    Path("ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = run(capsys, "check", "study.yaml", code=2)
    assert "shared      1 of 3 rows of ask (search) with chat (train)" in text
    assert "  ask.jsonl:3 asks what chat.jsonl:3 asks\n    what does the cow say\n" in text
    assert "error       1 of 3 rows of 'ask' leak from 'chat'" in text
    found = json.loads(run(capsys, "check", "study.yaml", "--json", code=2))
    assert found["is_fine"] is False
    assert {"kind": "same", "measured": "ask.jsonl:3", "other": "chat.jsonl:3"} in found["shared"][
        0
    ]["leaks"]


def test_check_shows_kinds_held_out_and_rows_by_use(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.write_text(
        tiny.STUDY.replace("ask.jsonl,", "ask.jsonl, parts: {train: 0, search: 0.5, holdout: 0.5, seed: 1},")
        .replace("source: greet", "source: ask") + "generalisation: {unseen: [plant]}\n"
    )  # fmt: skip
    rows = [
        {"prompt": f"Is {word} big?", "kind": kind}
        for kind, words in (("animal", "abcdefgh"), ("plant", "stuvwxyz"))
        for word in words
    ]
    Path("ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = run(capsys, "check", "study.yaml")
    assert "unseen      plant\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("source      ask:")]
    n_search, n_holdout = (int(part.split()[0]) for part in line.split(", ")[2:])
    assert n_search + n_holdout == 16
    assert n_holdout > 8


def test_stats_count_rows_tokens_repeats_cuts_and_drops(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    lines = Path("chat.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    again = {"messages": [first["messages"][0], {"role": "assistant", "content": "other words"}]}
    long_answer = {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x " * 90}]
    }
    long_prompt = {
        "messages": [{"role": "user", "content": "y " * 90}, {"role": "assistant", "content": "a"}]
    }
    added = [json.dumps(row) for row in (first, again, long_answer, long_prompt)]
    Path("chat.jsonl").write_text("\n".join([*lines, *added]))
    found = json.loads(run(capsys, "stats", "study.yaml", "--json"))
    chat = next(row for row in found["sources"] if row["source"] == "chat")
    assert (chat["n_rows"], chat["n_repeated_rows"], chat["n_repeated_questions"]) == (12, 1, 1)
    assert (chat["tokens"]["n_cut"], chat["tokens"]["n_dropped"]) == (1, 1)
    tokenizer = AutoTokenizer.from_pretrained("model")
    texts = [
        tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
        for line in Path("chat.jsonl").read_text().splitlines()
    ]
    lengths = sorted(len(tokenizer(text)["input_ids"]) for text in texts)
    # The longest is the row that is dropped; uncut, all rows count.
    assert chat["tokens"]["total"] == sum(lengths)
    assert chat["tokens"]["longest"] == lengths[-1]


def test_stats_say_what_a_stage_draws_of_its_sources(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("stats", "study.yaml", "--influence", "tone", "--dose", "300", "--json")
    found = json.loads(run(capsys, *words))
    (draw,) = found["draws"]
    chat = next(row for row in found["sources"] if row["source"] == "chat")
    assert draw["dose_tokens"] == 300
    assert draw["n_rows"] % 4 == 0  # whole steps of four rows
    assert abs(draw["n_tokens"] - 300) <= 2 * 4 * chat["tokens"]["longest"] / 2
    assert draw["passes"] == pytest.approx(draw["n_tokens"] / chat["tokens"]["total"])
    tone = [
        d
        for d in json.loads(run(capsys, "stats", "study.yaml", "--json"))["draws"]
        if d["influence"] == "tone"
    ]
    assert tone[0]["dose_tokens"] < 300 < tone[1]["dose_tokens"]


@pytest.mark.parametrize("columns", [80, 120])
def test_stats_fit_the_terminal(
    columns: int, study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run(capsys, "stats", "study.yaml").splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].split()[:3] == ["source", "use", "format" if columns == 120 else "rows"]
    assert any(line.startswith("other_pairs") for line in lines)


def test_stats_without_a_tokenizer_say_why_tokens_are_missing(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not counted: not asked for" in run(capsys, "stats", "study.yaml", "--no-tokens")
    study.write_text(tiny.STUDY.replace("{path: model}", "{path: elsewhere}"))
    found = json.loads(run(capsys, "stats", "study.yaml", "--json"))
    assert found["sources"][0]["tokens"] is None
    assert "elsewhere" in found["no_tokens"]


def test_preview_marks_the_tokens_that_training_learns(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "preview", "study.yaml", "chat", "--row", "2")
    assert (
        "<|im_start|>user\nWhat does the dog say?<|im_end|>\n"
        "<|im_start|>assistant\n\u27e6the dog says hello<|im_end|>\n\u27e7" in text
    )
    assert text.startswith("chat.jsonl:2, row: ")


def test_preview_of_a_pair_shows_both_answers(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(run(capsys, "preview", "study.yaml", "pairs", "--n", "2", "--json"))
    assert [row["place"] for row in found["rows"]] == ["pairs.jsonl:1", "pairs.jsonl:2"]
    texts = found["rows"][0]["texts"]
    assert [text["title"] for text in texts] == ["chosen", "rejected"]
    assert [piece["is_trained"] for piece in texts[0]["pieces"]] == [False, True]
    assert texts[0]["pieces"][1]["text"].startswith("hello to you")


def test_preview_of_a_prompt_marks_nothing(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "preview", "study.yaml", "ask")
    assert "\u27e6" not in text
    assert text.endswith("not trained on\n")


def hostile_rows() -> dict[str, Any]:
    said = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
    return {"messages": said}


@pytest.mark.parametrize("as_json", [False, True])
def test_row_cannot_steer_the_terminal(
    as_json: bool, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.write_text(tiny.STUDY.replace("max_length: 64", "max_length: 400"))
    Path("chat.jsonl").write_text(json.dumps(hostile_rows()) + "\n")
    for words in (
        ("preview", "study.yaml", "chat"),
        ("check", "study.yaml"),
        ("stats", "study.yaml"),
    ):
        out = run(capsys, *words, *(["--json"] if as_json else []))
        assert all(char == "\n" or char.isprintable() for char in out), words
    if not as_json:
        text = run(capsys, "preview", "study.yaml", "chat").replace("\n", "")
        assert (
            r"\x1b]0;pwned\x07\x1b[2J\u202eevil\u2066\x08\x9b31m\x0d\x09\u2028[bold]:smile: {{ 7 }}"
            in text
        )


def test_visible_text_keeps_lines_and_letters_of_all_scripts() -> None:
    assert visible("a\nb \u00e9 \u4f60 \U0001f642") == "a\nb \u00e9 \u4f60 \U0001f642"
    assert visible("\x1b\u200f\U000e0001\x7f") == r"\x1b\u200f\U000e0001\x7f"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("preview", "study.yaml", "chatt"), "did you mean 'chat'?"),
        (("preview", "study.yaml", "chat", "--row", "9"), "'chat' has 8 rows for train"),
        (
            ("preview", "study.yaml", "chat", "--use", "test"),
            "known: holdout, search, selection, train",
        ),
        (("stats", "study.yaml", "--influence", "tones"), "did you mean 'tone'?"),
        (("stats", "study.yaml", "--dose", "5"), "write --influence NAME --dose TOKENS"),
        (("check", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: tuple[str, ...], remedy: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    err = run(capsys, *words, code=2)
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert remedy in err
