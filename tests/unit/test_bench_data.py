"""The data of the benchmark studies: what is trained on and measured is what their study files allow."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from benchmarks.replay import table

from search.check_data import leak_findings
from search.sources import read_source
from search.spec import StudySpec
from search.yaml_file import load_study

FOLDER = Path(table.__file__).parents[1]
STUDIES = ("replay/study.yaml", "real/small.yaml", "methods/study.yaml", "handoffs/study.yaml")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    importlib.import_module("benchmarks.replay.texts").write_sources(folder)
    for name in ("warm", "thoughts"):  # as handoffs/run.py writes them
        rows = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
        answers = [json.dumps({"text": row["messages"][-1]["content"]}) for row in rows]
        (folder / f"{name}_answers.jsonl").write_text("\n".join(answers))
    return folder


def study(path: str, folder: Path) -> StudySpec:
    text = (FOLDER / path).read_text().replace("DONOR", "0" * 64)
    (folder / "study.yaml").write_text(text)
    return load_study(folder / "study.yaml")


@pytest.mark.parametrize("path", STUDIES)
def test_benchmark_study_allows_the_leaks_that_its_data_has_and_no_others(
    path: str, data: Path
) -> None:
    spec = study(path, data)
    sources = {name: read_source(name, source, data) for name, source in spec.sources.items()}
    found = list(leak_findings(spec, sources))
    assert len(found) == len(spec.allow_leaks) == 2
    assert all(each.text.endswith("; allowed by allow_leaks") for each in found)
