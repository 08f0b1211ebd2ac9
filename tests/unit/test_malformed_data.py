"""Each malformed data file gives one line with file, line and remedy, and exit code 2."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search import sources
from search.cli.main import main

HELLO = (
    b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hey"}]}\n'
)


def said(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def row(**fields: object) -> bytes:
    return json.dumps(fields).encode()


# Name, file of the good study, its content instead, place after the file's name, fragment of the remedy.
FILES = [
    ("empty file", "chat", b"", ": holds no rows", "add rows"),
    ("blank lines alone", "chat", b"\n \n\r\n", ": holds no rows", "add rows"),
    ("broken JSON", "chat", HELLO + b'{"messages": [', ":2: is not JSON at column 15", "mend it"),
    ("two objects in a line", "chat", HELLO.strip() * 2, ":1: is not JSON at column", "mend it"),
    ("JSON beyond JSON", "prose", b'{"text": NaN}', ":1: is not JSON (NaN", "mend it"),
    ("key twice", "prose", b'{"text": "a", "text": "b"}', ":1: is not JSON (key 'text'", "mend it"),
    ("deep nesting", "prose", b"[" * 100_000, ":1: is nested too deeply", "flatten"),
    ("nested text", "prose", b'{"text": "a", "x": ' + b'{"x": ' * 40 + b"1" + b"}" * 41,
     ":1: is nested too deeply", "flatten"),
    ("nested list in a kind", "asks", b'{"prompt": "a", "kind": ' + b"[" * 40 + b"]" * 40 + b"}",
     ":1: is nested too deeply", "flatten"),
    ("broken UTF-8", "prose", b'{"text": "caf\xe9"}', ":1: byte 14 (0xe9) is not UTF-8", "as UTF-8"),
    ("UTF-16", "prose", '{"text": "a"}'.encode("utf-16"), ":1: byte 1 (0xff) is not UTF-8", "as UTF-8"),
    ("NUL", "prose", rb'{"text": "a\u0000b"}', ":1: text: holds a NUL", "remove it"),
    ("lone surrogate", "prose", rb'{"text": "a\ud800b"}', r":1: text: holds half a surrogate pair (\ud800)",
     "remove it"),
    ("surrogate in a key", "prose", rb'{"text": "a", "\udc00": 1}', ":1: ?: holds half a", "remove it"),
    ("escape sequence in a name", "prose", rb'{"\u001b[31mred\ud800": "a"}',
     ":1: text is missing, the row has [31mred;", '{"text": "..."}'),
    ("endless name", "prose", b'{"' + b"a" * 100_000 + b'": "a"}', f":1: text is missing, the row has {'a' * 40};",
     '{"text": "..."}'),
    ("endless line", "prose", b'{"text": "' + b"a" * 9_000_000 + b'"}', ":1: is longer than 8 MiB",
     "one row a line"),
    ("list for an object", "prose", b'["text"]', ":1: is a list, not an object", '{"text": "..."}'),
    ("text for an object", "prose", b'"text"', ":1: is text ('text'), not an object", '{"text": "..."}'),
    ("field missing", "prose", b'\n{"txt": "a"}', ":2: text is missing, the row has txt", '{"text": "..."}'),
    ("field null", "prose", b'{"text": null}', ":1: text is missing", '{"text": "..."}'),
    ("number for text", "prose", b'{"text": 7}', ":1: text: is the number 7", "write text"),
    ("white space for text", "prose", b'{"text": " \\n"}', ":1: text: is empty", "remove the row"),
    ("messages as text", "chat", row(messages="Hi"), ":1: messages: is text ('Hi')", '"role": "user"'),
    ("no messages", "chat", row(messages=[]), ":1: messages: is an empty list", "add a message"),
    ("message as text", "chat", row(messages=["Hi"]), ":1: messages[0]: is text", '"role"'),
    ("no role", "chat", row(messages=[{"content": "Hi"}]), ":1: messages[0].role is missing", "add it"),
    ("unknown role", "chat", row(messages=said(("user", "Hi"), ("asistant", "Hey"))),
     ":1: messages[1].role: 'asistant' is not known", "did you mean 'assistant'?"),
    ("empty content", "chat", row(messages=said(("user", ""))), ":1: messages[0].content: is empty", "write text"),
    ("content in parts", "chat", row(messages=[{"role": "user", "content": [{"type": "text"}]}]),
     ":1: messages[0].content: is a list", "write text"),
    ("nobody answers", "chat", row(messages=said(("user", "Hi"))), ":1: messages: none is of the assistant",
     "format prompt"),
    ("completion missing", "plain", row(prompt="a"), ":1: completion is missing, the row has prompt",
     '"completion"'),
    ("text and messages", "plain", row(prompt="a", completion=said(("assistant", "b"))),
     ":1: completion: is a list and prompt is text", "both alike"),
    ("answer of the user", "plain", row(prompt=said(("user", "a")), completion=said(("user", "b"))),
     ":1: completion[0].role: is 'user'", "begins with the assistant"),
    ("prompt that answers", "asks", row(prompt=said(("user", "a"), ("assistant", "b"))),
     ":1: prompt[1].role: ", "move this message"),
    ("kind as a number", "asks", row(prompt="a", kind=3), ":1: kind: is the number 3", "write text"),
    ("rejected missing", "pairs", row(prompt="a", chosen="b"), ":1: rejected is missing", '"rejected"'),
    ("prompt missing", "pairs", row(chosen="b", rejected="c"), ":1: prompt is missing and chosen is text",
     '"prompt"'),
    ("nothing shared", "pairs", row(chosen=said(("user", "a"), ("assistant", "b")),
     rejected=said(("user", "c"), ("assistant", "b"))), ":1: chosen and rejected share no beginning",
     "add a prompt"),
    ("only equal pairs", "pairs", row(prompt="a", chosen="b", rejected="b"),
     ": holds only pairs of equal answers", "add rows"),
]  # fmt: skip


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr of `check study.yaml`, which must fail."""
    assert main(["check", "study.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("name", "source", "content", "place", "remedy"), FILES, ids=[case[0] for case in FILES]
)
def test_malformed_data_file_is_refused_in_one_line(
    name: str,
    source: str,
    content: bytes,
    place: str,
    remedy: str,
    good_study: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path(f"data/{source}.jsonl").write_bytes(content)
    err = refused(capsys)
    assert err.startswith(f"error: data/{source}.jsonl{place}"), err
    assert remedy in err, err


OTHER = [
    ("prose.csv", b"text\na\n", "prose.csv: .csv is not known", ".jsonl, .json, .parquet"),
    ("prose.json", b'{"text": "a"}', "prose.json: holds no list of rows", "[{...}, ...]"),
    ("prose.json", b'[{"text": "a"}, {"text": ""}]', "prose.json: row 2: text: is empty", "write text"),
    ("prose.json", b'[{"text": "a"},\n]', "prose.json: is not JSON at column", "line 2"),
    ("prose.parquet", b"PAR1 not really PAR1", "prose.parquet: is not a readable parquet", "write it anew"),
    ("prose.parquet", b"", "prose.parquet: is not a readable parquet", "write it anew"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "content", "place", "remedy"), OTHER)
def test_malformed_file_of_another_kind_is_refused_in_one_line(
    file: str,
    content: bytes,
    place: str,
    remedy: str,
    good_study: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("data", file).write_bytes(content)
    good_study.write_text(good_study.read_text().replace("prose.jsonl", file))
    err = refused(capsys)
    assert err.startswith(f"error: data/{place}"), err
    assert remedy in err, err


def test_folder_that_is_no_dataset_is_refused_in_one_line(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good_study.write_text(good_study.read_text().replace("data/prose.jsonl", "model"))
    assert "model: is not a folder written by datasets.save_to_disk" in refused(capsys)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(
    kind: str, good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("data/prose.jsonl")
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert "data/prose.jsonl: is a pipe or a device; name a plain file" in refused(capsys)


@pytest.mark.parametrize("n_rows", [1, 20])
def test_rows_that_a_small_parquet_file_blows_up_to_are_refused(
    n_rows: int, good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({"text": pa.array(["a" * 9_000_000] * n_rows).dictionary_encode()})
    pq.write_table(table, "data/prose.parquet", compression="zstd")
    assert Path("data/prose.parquet").stat().st_size < 100_000
    good_study.write_text(good_study.read_text().replace("prose.jsonl", "prose.parquet"))
    assert "prose.parquet: row 1: is longer than 8 MiB" in refused(capsys)


def test_a_long_row_of_other_letters_is_measured_in_bytes_and_not_in_escapes(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/prose.jsonl").write_text(
        '{"text": "%s"}' % ("\u4e16" * 1_500_000)
    )  # 4.5 MB, 9 MB escaped
    assert main(["check", "study.yaml"]) == 0


def test_a_source_that_never_ends_is_refused_when_its_rows_take_too_much(
    good_study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_SOURCE_BYTES", 2**26)
    # A small file: one long text, and a million times its number.
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["a" * 1_000_000])
    pq.write_table(pa.table({"text": long}), "data/prose.parquet", compression="zstd")
    assert Path("data/prose.parquet").stat().st_size < 100_000
    good_study.write_text(good_study.read_text().replace("prose.jsonl", "prose.parquet"))
    err = refused(capsys)
    assert "prose.parquet: row 68: up to here are 0.0625 GiB of rows" in err
    assert "set sources.prose.limit" in err


def test_a_json_file_that_is_too_long_to_be_parsed_is_not_read(
    good_study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("data/prose.json").open("wb") as file:
        file.truncate(1 << 40)
    good_study.write_text(good_study.read_text().replace("prose.jsonl", "prose.json"))
    monkeypatch.setattr(sources, "MAX_JSON_BYTES", 2**20)
    assert "prose.json: is longer than 1 MiB; write .jsonl" in refused(capsys)
