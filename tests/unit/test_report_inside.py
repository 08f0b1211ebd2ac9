"""Claims about the small tables of single stages: cosines between losses, and ranks by module."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import KNEE, write_study
from test_report_html import Page
from test_report_markdown import outside_fences

from search.cli.main import main
from search.folders import StudyFile, StudyFolder
from search.records import StageRecord
from search.report.html import report_html
from search.report.inside import NO_COSINE, grids
from search.report.markdown import report_markdown
from search.report.view import load_view
from search.spec import BudgetSpec

HOSTILE = "<img src=x onerror=1>|[red]*b*"
CONFLICTS = {12: {"sft/dpo": 0.25, "sft/kl": -0.125}, 1: {"sft/dpo": -0.5}}
RANKS = {
    **{f"model.layers.{layer}.self_attn.q_proj": 4 for layer in (0, 1, 10)},
    "model.layers.2.self_attn.q_proj": 0,
    "model.layers.1.mlp.up_proj": 3,
    "lm_head": 2,
}


def written(folder: Path, **inside: object) -> tuple[StudyFolder, StageRecord]:
    """Write a study whose knee, a trial on the front, has this in its second stage."""
    files = write_study(folder)
    record = files.trial(KNEE).read_record()
    assert record is not None
    stage = record.stages[1].model_copy(update=inside)
    files.trial(KNEE).write_record(record.model_copy(update={"stages": (record.stages[0], stage)}))
    return files, stage


def test_cosines_stand_by_pair_and_step_and_a_missing_one_says_why(tmp_path: Path) -> None:
    _, stage = written(tmp_path / "study", conflict_by_step=CONFLICTS)
    (grid,) = grids(stage)
    assert grid.head == ["losses", "step 1 of 12", "step 12 of 12"]
    assert grid.rows == [["sft/dpo", "-0.5", "0.25"], ["sft/kl", NO_COSINE, "-0.125"]]


def test_equal_ranks_of_neighbouring_layers_stand_as_one_run(tmp_path: Path) -> None:
    _, stage = written(tmp_path / "study", adapter_ranks=RANKS)
    (grid,) = grids(stage)
    assert grid.rows == [
        ["q_proj", "3", "4 (0-1), 0 (2), 4 (10)"],
        ["up_proj", "3", "3 (1)"],
        ["lm_head", "2", "2"],
    ]


def test_tables_of_branches_name_branch_and_influence(tmp_path: Path) -> None:
    _, part = written(tmp_path / "study", adapter_ranks=RANKS)
    whole = part.model_copy(update={"adapter_ranks": {}, "branches": {"left": (part,)}})
    (grid,) = grids(whole)
    assert grid.title == "branch left, tone: Ranks that AdaLoRA left"


def test_a_stage_without_either_has_no_table(tmp_path: Path) -> None:
    assert grids(written(tmp_path / "study")[1]) == []


def test_page_and_markdown_have_the_tables_and_their_text_stays_text(tmp_path: Path) -> None:
    ranks = {f"model.layers.0.{HOSTILE}": 4}
    files, stage = written(tmp_path / "study", conflict_by_step=CONFLICTS, adapter_ranks=ranks)
    view = load_view(files.path)
    page = Page(report_html(view))
    assert "img" not in {tag for tag, _ in page.elements}
    first, second = page.data["trials"][KNEE]["stages"]
    assert first["tables"] == []
    assert second["tables"] == [vars(grid) for grid in grids(stage)]
    assert second["tables"][1]["rows"] == [[HOSTILE, "4", "4 (0)"]]
    text = outside_fences(report_markdown(view))
    section = text.split("## Inside stages of the front\n")[1].split("\n## ")[0]
    assert f"### Trial {KNEE}, stage 2, tone: Cosine between gradients" in section
    assert "| sft/kl | zero gradient | -0.125 |" in section
    assert r"| \<img src=x onerror=1\>\|\[red\]\*b\* | 4 | 4 (0) |" in section


def test_show_prints_the_tables_and_reads_no_markup_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    ranks = {"model.layers.0.[red]q_proj": 4}
    files, _ = written(tmp_path / "study", conflict_by_step=CONFLICTS, adapter_ranks=ranks)
    file = StudyFile(root="", created_at="", study_hash="", budget=BudgetSpec(trials=16))
    files.write_file(file)
    assert main(["show", str(files.path), str(KNEE), "--samples", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-7:] == [
        "stage 2, tone: Cosine between gradients (below 0 the losses pull apart)",
        "losses   step 1 of 12   step 12 of 12",
        "sft/dpo  -0.5           0.25         ",
        "sft/kl   zero gradient  -0.125       ",
        "stage 2, tone: Ranks that AdaLoRA left",
        "module       mean rank  rank (layers from 0)",
        "[red]q_proj  4          4 (0)               ",
    ]
