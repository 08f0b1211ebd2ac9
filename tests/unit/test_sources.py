"""Sources: what is read, what hashes alike, and where base models are found."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from search.base_files import BaseFilesError, resolve_base
from search.errors import DataError
from search.sources import Source, read_source
from search.spec import BaseSpec, SourceSpec

ROWS = [
    {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green.", "kind": "short"},
    {"prompt": "Sea?", "chosen": "Salty.", "rejected": "Sweet."},
]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(root: Path, file: str, row_format: str = "preference", **rest: Any) -> Source:
    return read_source("pairs", SourceSpec(path=file, format=row_format, **rest), root)


def test_equal_rows_hash_alike_in_every_kind_of_file(tmp_path: Path) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.json").write_text(
        json.dumps([dict(reversed(row.items())) for row in ROWS], indent=3)
    )
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "dict"))
    found = [read(tmp_path, name) for name in ("a.jsonl", "a.json", "a.parquet", "one", "dict")]
    assert [source.rows for source in found] == [ROWS] * 5
    assert len({source.content_hash for source in found}) == 1


def test_content_hash_changes_with_a_letter_the_order_and_the_format(tmp_path: Path) -> None:
    changed = [ROWS[0], {**ROWS[1], "chosen": "salty."}]
    for name, rows in (("a", ROWS), ("b", changed), ("c", ROWS[::-1])):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    hashes = {read(tmp_path, f"{name}.jsonl").content_hash for name in "abc"}
    hashes.add(read(tmp_path, "a.jsonl", "prompt").content_hash)
    assert len(hashes) == 4


def test_blank_lines_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    text = "\ufeff" + "\r\n\r\n".join(json.dumps(row) for row in ROWS)
    (tmp_path / "a.jsonl").write_bytes(text.encode())
    assert read(tmp_path, "a.jsonl").rows == ROWS


def test_limit_takes_the_first_rows_and_reads_no_further(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\nnot JSON\n")
    assert read(tmp_path, "a.jsonl", limit=1).rows == ROWS[:1]


def test_common_beginning_of_two_conversations_becomes_the_prompt(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Sea?"}
    good, bad = ({"role": "assistant", "content": text} for text in ("Salty.", "Sweet."))
    write_jsonl(tmp_path / "a.jsonl", [{"chosen": [user, good], "rejected": [user, bad]}])
    assert read(tmp_path, "a.jsonl").rows == [
        {"prompt": [user], "chosen": [good], "rejected": [bad]}
    ]


def test_pairs_of_equal_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Sea?"}
    same = [user, {"role": "assistant", "content": "Salty."}]
    equal = [{"prompt": "a", "chosen": "b", "rejected": "b"}, {"chosen": same, "rejected": same}]
    write_jsonl(tmp_path / "a.jsonl", [equal[0], ROWS[0], equal[1]])
    source = read(tmp_path, "a.jsonl")
    assert (source.rows, source.n_skipped) == (ROWS[:1], 2)


def test_columns_that_json_does_not_know_are_left_out(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": ["a"], "raw": [b"\x00"], "number": [float("nan")], "n": [3]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path, "a.parquet", "text").rows == [{"text": "a", "n": 3}]


def test_row_of_a_parquet_file_is_named_by_its_number(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", "b", " "]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: row 3: text: is empty"):
        read(tmp_path, "a.parquet", "text")


def test_folder_with_several_splits_needs_one_named(tmp_path: Path) -> None:
    import datasets

    one, two = (datasets.Dataset.from_list([row]) for row in ROWS)
    datasets.DatasetDict({"train": one, "test": two}).save_to_disk(str(tmp_path / "dict"))
    assert read(tmp_path, "dict", split="test").rows == ROWS[1:]
    with pytest.raises(
        DataError, match=r"several splits; set sources\.pairs\.split to train or test"
    ):
        read(tmp_path, "dict")
    with pytest.raises(DataError, match="no split 'dev'; set"):
        read(tmp_path, "dict", split="dev")


def test_hub_dataset_is_loaded_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # datasets takes a folder where it takes an id: the code path of the hub without a network.
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [dict(row, kind="x") for row in ROWS])
    spec = SourceSpec(hub=str(folder), format="preference", split="train", limit=1)
    assert read_source("pairs", spec, tmp_path).rows == [dict(ROWS[0], kind="x")]


def test_hub_dataset_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError) as caught:
        read_source("pairs", SourceSpec(hub="a/b", format="text"), tmp_path)
    assert str(caught.value) == (
        "a/b: cannot be loaded from the hub (ConnectionError: no route to the hub); "
        "check sources.pairs (hub, subset, split, revision) and the network"
    )


def test_missing_file_names_the_key_to_correct(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"a.jsonl: there is no such file; correct sources.pairs.path"
    ):
        read(tmp_path, "a.jsonl")


def test_base_in_a_folder_needs_configuration_and_safetensors(tmp_path: Path) -> None:
    spec, model = BaseSpec(path="m"), tmp_path / "m"
    with pytest.raises(BaseFilesError, match="does not exist; name the folder"):
        resolve_base(spec, tmp_path)
    model.mkdir()
    with pytest.raises(BaseFilesError, match=r"holds no config\.json"):
        resolve_base(spec, tmp_path)
    (model / "config.json").touch()
    with pytest.raises(BaseFilesError, match=r"holds no \.safetensors"):
        resolve_base(spec, tmp_path)
    (model / "model.safetensors").touch()
    assert resolve_base(spec, tmp_path).location == str(model)


def test_base_in_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tiny_model_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "m.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = resolve_base(BaseSpec(package="tiny_model_package", gguf_file="m.gguf"), Path())
    assert (found.kind, found.folder, found.gguf_file) == ("package", package, "m.gguf")
    with pytest.raises(BaseFilesError, match=r"GGUF files there: m\.gguf"):
        resolve_base(BaseSpec(package="tiny_model_package", gguf_file="n.gguf"), Path())


def test_gguf_file_cannot_leave_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BaseFilesError, match="is a path; write the file name"):
        resolve_base(BaseSpec(path=".", gguf_file="../secret.gguf"), tmp_path)


def test_base_on_the_hub_is_not_looked_up() -> None:
    found = resolve_base(BaseSpec(hub="owner/name", revision="main"), Path())
    assert (found.location, found.folder, found.revision) == ("owner/name", None, "main")
    with pytest.raises(BaseFilesError, match="write owner/name"):
        resolve_base(BaseSpec(hub="../../etc"), Path())


def test_error_about_the_base_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BaseFilesError("path", "is missing")))
    assert str(error) == "base.path: is missing"
