"""Lab: what processes share through the store is measured once, and is what each would measure itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import STUDY, write_data, write_model

from evaluators.suite import Suite
from search.lab import Lab
from search.spec import StudySpec
from search.store import StageStore
from search.yaml_file import load_study
from spaces.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab")
    write_model(path / "model")
    write_data(path)
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Versions of the suites whose evaluators looked at the base, in order."""
    versions: list[str] = []
    original = Suite.reference

    def noted(suite: Suite, *given: object) -> object:
        versions.append(suite.version)
        return original(suite, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Suite, "reference", noted)
    return versions


def spec(folder: Path, old: str = "", new: str = "") -> StudySpec:
    assert old in STUDY
    (folder / "study.yaml").write_text(STUDY.replace(old, new) if old else STUDY)
    return load_study(folder / "study.yaml")


def scores(lab: Lab) -> list[tuple[str, float | None]]:
    prefixes, digests = lab.prefixes(Recipe(stages=()), "trainer")
    result = lab.measure(lab.exam, prefixes, 0, digests[0])
    return [(score.name, score.value) for score in result.scores]


def test_second_process_and_a_study_with_another_seed_measure_nothing_of_the_base(
    folder: Path, measured: list[str], tmp_path: Path
) -> None:
    first = Lab.load(spec(folder), folder, StageStore(tmp_path))
    # The holdout's evaluator needs nothing of the base, so it is not kept.
    assert measured == [first.exam.suite.version, first.holdout.suite.version]
    measured.clear()
    Lab.load(spec(folder), folder, StageStore(tmp_path))
    Lab.load(spec(folder, "{seed: 5, cost: tokens}", "{seed: 6}"), folder, StageStore(tmp_path))
    assert measured == [first.holdout.suite.version] * 2


def test_other_precision_or_data_is_measured_anew(
    folder: Path, measured: list[str], tmp_path: Path
) -> None:
    needing = Lab.load(spec(folder), folder, StageStore(tmp_path)).exam.suite.version
    measured.clear()
    finer = spec(folder, "max_length: 64}", "max_length: 64, precision: bfloat16}")
    Lab.load(finer, folder, StageStore(tmp_path))
    assert needing in measured
    measured.clear()
    other = Lab.load(
        spec(folder, "source: prose, max_tokens: 32", "source: prose, max_tokens: 16"),
        folder,
        StageStore(tmp_path),
    )
    assert other.exam.suite.version in measured


def test_base_has_the_same_scores_with_and_without_a_store(folder: Path, tmp_path: Path) -> None:
    alone = scores(Lab.load(spec(folder), folder, None))
    Lab.load(spec(folder), folder, StageStore(tmp_path))
    shared = scores(Lab.load(spec(folder), folder, StageStore(tmp_path)))
    assert shared == alone
    assert all(value is not None for _, value in alone)
