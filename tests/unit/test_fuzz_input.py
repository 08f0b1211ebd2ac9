"""Whatever a study file or a data file holds: read, or refused in one line with place and remedy; nothing else happens.

The few examples here are always the same; `make test-slow` draws thousands of new ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hostile
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from search.cli.main import main
from search.errors import DataError
from search.rows import FIELDS
from search.schema import study_schema
from search.sources import read_source
from search.spec import SourceSpec
from search.yaml_file import dump_yaml, read_yaml

HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hey"}]
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": HELLO},
    "prompt-completion": {"prompt": "a", "completion": "b"},
    "preference": {"prompt": HELLO[:1], "chosen": HELLO[1:], "rejected": [{**HELLO[1], "content": "No"}]},
    "unpaired-preference": {"prompt": "a", "completion": "b", "label": True},
    "prompt": {"prompt": "a", "kind": "b", "tags": ["x", "y"]},
    "text": {"text": "abc"},
}  # fmt: skip


@pytest.fixture
def check(good_study: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Give a function that writes a study file and checks it."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    def checked(data: Any) -> int:
        """Take bytes, or data to be dumped as YAML; return the exit code."""
        raw = data if isinstance(data, bytes) else dumped(data)
        good_study.write_bytes(raw)
        code = main(["check", str(good_study)])
        out, err = capsys.readouterr()
        assert code in (0, 2)
        assert (code == 0) == out.endswith("no errors\n")
        if code == 2:
            assert out == ""
            assert err.count("\n") == 1
            assert err.startswith("error: ")
            assert ";" in err, f"no remedy: {err}"
            assert len(err) < 2000
            assert err[:-1].isprintable()
        after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        assert after == {**before, good_study: raw}
        return code

    return checked


def dumped(data: Any) -> bytes:
    if not isinstance(data, dict):
        return json.dumps(data).encode()
    return dump_yaml(data).encode("utf-8", "surrogatepass")


@hostile.sizes(20, 1500)
def test_a_study_changed_at_any_place_is_fine_or_refused_in_one_line(
    check: Any, good_study: Path, n_examples: int
) -> None:
    codes: set[int] = set()
    good = read_yaml(good_study).data
    hostile.holds(lambda data: codes.add(check(data)), hostile.changed(good), n_examples)
    assert codes == {0, 2}


@hostile.sizes(10, 1500)
def test_a_study_drawn_along_its_schema_is_fine_or_refused_in_one_line(
    check: Any, n_examples: int
) -> None:
    hostile.holds(check, hostile.from_schema(study_schema()), n_examples)


@hostile.sizes(10, 1500)
def test_a_study_file_with_damaged_bytes_is_fine_or_refused_in_one_line(
    check: Any, good_study: Path, n_examples: int
) -> None:
    hostile.holds(check, hostile.damaged(good_study.read_bytes()), n_examples)


def read(folder: Path, name: str, row_format: str, data: bytes) -> int:
    """Read a source, which may be refused; return the number of its rows."""
    (folder / name).write_bytes(data)
    try:
        source = read_source("s", SourceSpec(path=name, format=row_format), folder)
    except DataError as error:
        text = str(error)
        assert text.startswith(str(folder / name))
        assert text.isprintable()
        assert ";" in text, f"no remedy: {text}"
        assert len(text) < 1000
        return 0
    json.dumps(source.rows, allow_nan=False, ensure_ascii=False).encode()
    for row in source.rows:
        assert set(FIELDS[row_format]) <= set(row)
    return len(source.rows)


def test_the_good_rows_are_read(tmp_path: Path) -> None:
    for row_format, row in ROWS.items():
        assert read(tmp_path, "a.jsonl", row_format, json.dumps(row).encode()) == 1


@hostile.sizes(100, 5000)
def test_a_row_changed_at_any_place_is_read_or_refused_in_one_line(
    tmp_path: Path, n_examples: int
) -> None:
    kinds = st.sampled_from(sorted(ROWS))
    rows = kinds.flatmap(
        lambda kind: st.tuples(st.just(kind), hostile.changed({"row": ROWS[kind]}, 3))
    )

    def claim(drawn: Any) -> None:
        data = json.dumps(drawn[1].get("row", drawn[1])).encode()
        read(tmp_path, "a.jsonl", drawn[0], data)

    hostile.holds(claim, rows, n_examples)


def written(kind: str, row_format: str, folder: Path) -> bytes:
    row = ROWS[row_format]
    if kind == "jsonl":
        return b"\n".join([json.dumps(row).encode()] * 3)
    if kind == "json":
        return json.dumps([row] * 3, indent=1).encode()
    pq.write_table(pa.Table.from_pylist([row] * 3), folder / "good", compression=kind)
    return (folder / "good").read_bytes()


@hostile.sizes(40, 3000)
@pytest.mark.parametrize("kind", ["jsonl", "json", "zstd", "snappy"])
def test_a_data_file_with_damaged_bytes_is_read_or_refused_in_one_line(
    tmp_path: Path, kind: str, n_examples: int
) -> None:
    name = f"a.{kind}" if kind.startswith("json") else "a.parquet"
    good = {row_format: written(kind, row_format, tmp_path) for row_format in ROWS}
    assert all(read(tmp_path, name, row_format, data) == 3 for row_format, data in good.items())
    files = st.sampled_from(sorted(ROWS)).flatmap(
        lambda row_format: st.tuples(st.just(row_format), hostile.damaged(good[row_format]))
    )
    hostile.holds(lambda drawn: read(tmp_path, name, *drawn), files, n_examples)
