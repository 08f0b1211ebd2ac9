"""What a machine lacks is found before a trial runs on it, and named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tiny import STUDY, write_data

from search.sight import Marks, code_hash, has_written, leave_marks, look, remove_marks
from search.spec import StudySpec
from search.yaml_file import load_study


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    write_data(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/tokenizer.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_text("")
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "results").mkdir()
    return load_study(tmp_path / "study.yaml")


def looked(spec: StudySpec, root: Path, marks: Marks, results: Path | None = None) -> list[str]:
    return look(spec, root, results or root / "results", marks, "node1")


def test_machine_that_sees_all_has_no_problem_and_is_seen(spec: StudySpec, tmp_path: Path) -> None:
    results = tmp_path / "results"
    marks = leave_marks(spec, tmp_path, results)
    assert not has_written(results, marks, "node1")
    assert looked(spec, tmp_path, marks) == []
    assert has_written(results, marks, "node1")
    remove_marks(spec, tmp_path, results, marks)
    assert not (results / ".probe").exists()


def test_folder_that_only_has_the_same_name_is_not_the_drivers(
    spec: StudySpec, tmp_path: Path
) -> None:
    marks = leave_marks(spec, tmp_path, tmp_path / "results")
    other = tmp_path / "other"
    other.mkdir()
    (said, store) = looked(spec, tmp_path, marks, other)
    assert "cannot use the results in" in said
    assert "mount it there under this path" in said
    assert "sees another stage store" in store  # it is in the results


def test_other_code_and_other_packages_are_named(spec: StudySpec, tmp_path: Path) -> None:
    marks = leave_marks(spec, tmp_path, tmp_path / "results")
    assert marks.code == code_hash()
    older = dataclasses.replace(marks, code="0", versions={**marks.versions, "torch": "2.0.0"})
    code, torch = looked(spec, tmp_path, older)
    assert "another version of apportion" in code
    assert "the driver 2.0.0: scores would not be comparable" in torch


def test_missing_data_and_base_are_named(spec: StudySpec, tmp_path: Path) -> None:
    marks = leave_marks(spec, tmp_path, tmp_path / "results")
    bare = tmp_path / "bare"
    bare.mkdir()
    base, sources = looked(spec, bare, marks, tmp_path / "results")
    assert "cannot read the base" in base
    assert "chat.jsonl (source chat, 6 of 6 in all)" in sources
    assert "apportion submit" in sources


def test_store_that_is_another_folder_there_is_noticed(tmp_path: Path, spec: StudySpec) -> None:
    shared = spec.model_copy(
        update={"store": spec.store.model_copy(update={"path": str(tmp_path / "s")})}
    )
    marks = leave_marks(shared, tmp_path, tmp_path / "results")
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    (said,) = looked(shared, tmp_path, marks)
    assert "another stage store than the driver" in said
