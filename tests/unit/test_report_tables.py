"""Claims about trials.csv, front.csv, numbers as text and the terminal's table."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import FORMULA, write_scored, write_study, write_two_objectives

from search.report.numbers import (
    duration_text,
    interval_text,
    number_text,
    tokens_text,
)
from search.report.tables import front_csv, trials_csv
from search.report.terminal import front_table
from search.report.view import load_view


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_missing_values_are_empty_cells_and_zero_is_zero(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, (0.0, 0.01), (0.0, None), n_stages=0)
    write_scored(files, 1, None, (0.25, 0.01))
    rows = rows_of(trials_csv(load_view(tmp_path)))
    assert (rows[0]["tone"], rows[0]["tone_stderr"]) == ("0.0", "0.01")
    assert (rows[0]["retention.kl"], rows[0]["retention.kl_stderr"]) == ("0.0", "")
    assert (rows[1]["tone"], rows[1]["tone_stderr"]) == ("", "")
    assert rows[1]["prose"] == ""
    assert (rows[0]["is_feasible"], rows[1]["is_feasible"]) == ("true", "false")


def test_table_has_a_row_per_trial_and_the_front_table_its_members(tmp_path: Path) -> None:
    view = load_view(write_study(tmp_path / "study").path)
    rows = rows_of(trials_csv(view))
    assert [int(row["number"]) for row in rows] == list(range(14))
    front = rows_of(front_csv(view))
    assert [int(row["number"]) for row in front] == [trial.number for trial in view.front_trials]
    assert {row["number"] for row in rows if row["on_front"] == "true"} == {
        row["number"] for row in front
    }
    assert list(front[0]) == [*rows[0], "warnings"]
    assert rows[13]["state"] == "RUNNING"
    assert (rows[13]["is_feasible"], rows[13]["finished_at"]) == ("", "")
    assert rows[11]["tone_unseen"] != ""
    assert rows[11]["taste_unseen.margin"] == ""
    assert rows[11]["params.tone.rank"] == "11"
    assert float(rows[11]["train_seconds"]) == 60.0


def test_text_that_a_spreadsheet_would_compute_is_quoted(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    for number, reason in enumerate((FORMULA, "-1+1", "@SUM(A1)", "+1", "\tx", "\rx", "plain")):
        write_scored(files, number, (-0.5, 0.1), (0.1, 0.01), state="FAIL", reason=reason)
    rows = rows_of(trials_csv(load_view(tmp_path)))
    assert rows[0]["reason"] == "'" + FORMULA
    assert [row["reason"][0] for row in rows] == ["'"] * 6 + ["p"]
    assert rows[0]["tone"] == "-0.5"  # a number is a number


def test_csv_follows_rfc_4180(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, None, None, state="FAIL", reason='says "no",\nthen leaves')
    text = trials_csv(load_view(tmp_path))
    assert '"says ""no"",\nthen leaves"' in text
    assert text.endswith("\r\n")
    assert text.count("\r\n") == 2


def test_table_of_an_empty_study_is_a_header(tmp_path: Path) -> None:
    write_two_objectives(tmp_path)
    assert trials_csv(load_view(tmp_path)) == "number\r\n"


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.62345, 0.03, "0.623 ± 0.059"),
        (12.3456, 1.0, "12.3 ± 2.0"),
        (1234.5, 100.0, "1234 ± 196"),
        (0.5, 0.0, "0.5 ± 0"),
        (0.54321, None, "0.543"),
        (0.0000712, 0.00000101, "0.0000712 ± 0.0000020"),
    ],
)
def test_interval_is_1_96_standard_errors_at_two_figures(
    value: float, stderr: float | None, text: str
) -> None:
    assert interval_text(value, stderr) == text


def test_numbers_durations_and_tokens_read_well() -> None:
    assert [number_text(v) for v in (0.0, 0.00001, 0.123456, 999.0, 12345.6)] == [
        "0",
        "1.0e-05",
        "0.123",
        "999",
        "12,346",
    ]
    assert [duration_text(s) for s in (0.0, 9.96, 45.2, 720.0, 11100.0)] == [
        "0.0 s",
        "10.0 s",
        "45 s",
        "12 min",
        "3 h 05 min",
    ]
    assert [tokens_text(n) for n in (0, 950, 2100, 36000, 1_200_000)] == [
        "0",
        "950",
        "2.1k",
        "36k",
        "1.2M",
    ]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("n_objectives", [1, 3, 5])
def test_terminal_table_fits_and_shows_every_front_member(
    tmp_path: Path, width: int, n_objectives: int
) -> None:
    view = load_view(write_study(tmp_path / "study", n_objectives=n_objectives).path)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(front_table(view, width))
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    shown = {int(word) for line in lines for word in line.split("│")[1:2] if word.strip().isdigit()}
    assert shown == view.front | {0}
    assert ("± " in "".join(lines)) == (width == 120 or n_objectives <= 3)


def test_terminal_table_works_without_trials_and_says_when_none_is_feasible(tmp_path: Path) -> None:
    write_two_objectives(tmp_path / "empty")
    empty = front_table(load_view(tmp_path / "empty"), 80)
    assert empty.row_count == 0
    view = load_view(write_study(tmp_path / "study", kl_at_most=-1.0).path)
    assert "no trial is feasible" in str(front_table(view, 80).caption)
