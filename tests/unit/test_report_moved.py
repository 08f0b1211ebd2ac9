"""The report's section on where trials moved the model: there where it was measured, as numbers and as colour."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import KNEE, write_study

from search.explanations import ExplanationFolder
from search.folders import StudyFolder
from search.moved.records import Activations, Cell, Moved, PairCell, StageMoved, pair_of
from search.report.html import report_html
from search.report.markdown import report_markdown
from search.report.view import load_view

N_LAYERS = 3


def stage(number: int, influence: str, label: str, squares: list[float]) -> StageMoved:
    cells = [
        Cell(
            layer=at,
            kind="q",
            n_weights=10,
            base_square=100.0,
            square=square,
            effective_rank=2.0 if square else None,
            stable_rank=1.5 if square else None,
        )
        for at, square in enumerate(squares)
    ]
    still = Cell(
        layer=None,
        kind="embeddings",
        n_weights=10,
        base_square=100.0,
        square=0.0,
        effective_rank=None,
        stable_rank=None,
    )
    states = Activations(from_before=(0.0, 0.1, 0.2, 0.4), from_base=(0.0, 0.1, 0.2, 0.4))
    return StageMoved(
        number=number,
        influence=influence,
        label=label,
        digest="0" * 64,
        cells=(*cells, still),
        activations=states,
    )


def write_moved(folder: StudyFolder, number: int, label: str | None = None) -> None:
    record = folder.trial(number).read_record()
    assert record is not None
    squares = [[4.0, 0.0, 0.0], [1.0, 1.0, 4.0]]
    stages = [
        stage(at, done.stage.influence, label or done.stage.label, squares[at - 1])
        for at, done in enumerate(record.stages, 1)
    ]
    shared = PairCell(
        layer=0,
        kind="q",
        product=-1.0,
        first_square=4.0,
        second_square=1.0,
        chance_square=0.01,
        n_matrices=1,
        left=0.5,
        right=0.25,
        left_chance=0.1,
        right_chance=0.1,
        left_sd=0.01,
        right_sd=0.01,
    )
    moved = Moved(
        trial=number,
        recipe=record.recipe.label(),
        n_layers=N_LAYERS,
        dtype="float32",
        stages=tuple(stages),
        pairs=(pair_of(stages[0], stages[1], [shared]),),
        n_prompts=4,
        n_tokens=80,
        prompts_from="source <b>ask</b>",
        seconds=1.0,
    )
    ExplanationFolder(folder).write_moved(moved)


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return write_study(tmp_path / "study")


def test_section_is_there_only_where_it_was_measured(study: StudyFolder) -> None:
    assert "Where it moved" not in report_html(load_view(study.path))
    write_moved(study, KNEE)
    page = report_html(load_view(study.path))
    (section,) = re.findall(r'<section id="moved".*?</section>', page, flags=re.S)
    assert '<a href="#moved">Where it moved</a>' in page
    # The largest field of a stage, sqrt(4 / 100), has the full colour; others moved half as far.
    assert section.count('style="--heat: 60%">20.0<') == 4
    assert '<td class="number" style="--heat: 30%">10.0</td>' in section
    assert '<td class="number" style="--heat: 0%">.</td>' in section
    assert "takes back 25 % of what" in section
    assert "0.25 (0.10)" in section
    # What names were given is text, and so safe; a scrolling table can be reached with the keyboard.
    assert "<b>" not in section
    assert section.count('tabindex="0" role="region" aria-label=') == 4


def test_measurement_of_another_recipe_under_that_number_is_left_out(study: StudyFolder) -> None:
    write_moved(study, KNEE, label="another")
    assert "Where it moved" not in report_html(load_view(study.path))


def test_markdown_says_the_same_in_sentences(study: StudyFolder) -> None:
    assert "## Where it moved" not in report_markdown(load_view(study.path))
    write_moved(study, KNEE)
    text = report_markdown(load_view(study.path))
    assert "## Where it moved" in text
    assert "100 % of the change (squared) lies in layer 0 of 3" in text
    assert "| 2 on 1 | -0.204±" in text
