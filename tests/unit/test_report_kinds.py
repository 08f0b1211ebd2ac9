"""Seen and unseen kinds in the report: gaps worked out by hand, and a planted imitator that is marked."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import HOSTILE, study_data, write_scored, write_two_objectives

from evaluators.scores import Item, Score
from search.folders import StudyFolder, write_whole
from search.report.html import report_html
from search.report.kinds import Gap, gap, is_larger, kind_rows, kinds_sentence
from search.report.markdown import report_markdown
from search.report.view import load_view
from search.yaml_file import dump_yaml
from spaces.recipe import Recipe

BASE, IMITATOR, LEARNER = 0, 1, 2
PASSED = {BASE: (30, 30), IMITATOR: (40, 10), LEARNER: (38, 37)}
"""Of 40 items each: passed on seen kinds and on unseen ones."""


def share(name: str, value: float, n: int) -> Score:
    return Score(name=name, value=value, stderr=0.1, n=n, unit="share", direction="maximise")


def study(
    tmp_path: Path, more: dict[str, Any] | None = None, unseen: str = "riddle"
) -> StudyFolder:
    files = write_two_objectives(tmp_path / "study")
    data = study_data(1, kl_at_most=0.5)
    data["objectives"].append({"score": "retention.kl", "reference": 1.0})
    data |= {"generalisation": {"unseen": [unseen]}} if more is None else more
    write_whole(files.study_yaml, dump_yaml(data))
    # Neither trained trial dominates the other, so both are on the front.
    for number, tone, kl in ((BASE, 0.1, 0.0), (IMITATOR, 0.9, 0.2), (LEARNER, 0.8, 0.1)):
        write_scored(files, number, (tone, 0.01), (kl, 0.01), n_stages=max(number, 1))
        passed = PASSED[number]
        items = [
            Item(
                evaluator="tone_unseen",
                index=at,
                kind=("trivia", unseen)[at // 40],
                prompt="Why?",
                output=HOSTILE,
                values={"passed": float(at % 40 < passed[at // 40])},
            )
            for at in range(80)
        ]
        files.trial(number).write_items(max(number, 1), True, items)
        trial = files.trial(number).read_record()
        assert trial is not None
        held = share("tone_unseen", sum(passed) / 80, 80)
        last = trial.boundaries[-1].model_copy(update={"holdout": (held,)})
        files.trial(number).write_record(trial.model_copy(update={"boundaries": (last,)}))
    record = files.trial(BASE).read_record()
    assert record is not None
    boundary = record.boundaries[0].model_copy(update={"n_stages": 0})
    bare = {"recipe": Recipe(stages=()), "boundaries": (boundary,)}
    files.trial(BASE).write_record(record.model_copy(update=bare))
    (files.trial(BASE).path / "boundaries" / "1").rename(
        files.trial(BASE).path / "boundaries" / "0"
    )
    return files


def test_recipe_that_shines_on_seen_kinds_alone_is_marked_and_the_other_is_not(
    tmp_path: Path,
) -> None:
    view = load_view(study(tmp_path).path)
    rows = {row.trial.number: row for row in kind_rows(view)}
    assert {number: row.imitates for number, row in rows.items()} == {
        IMITATOR: True,
        LEARNER: False,
        BASE: False,
    }
    row = rows[IMITATOR]
    assert (row.seen.value, row.unseen.value) == (1.0, 0.25)
    assert row.gap is not None
    assert row.gap.value == pytest.approx(0.75)
    # Agresti and Coull: 42 of 44 and 12 of 44.
    parts = [42 / 44 * 2 / 44 / 44, 12 / 44 * 32 / 44 / 44]
    assert row.gap.stderr == pytest.approx(math.sqrt(sum(parts)))
    assert row.base_gap is not None
    assert row.base_gap.value == 0
    assert kinds_sentence(view, [*rows.values()]).endswith("So it is with trial 1.")


def test_both_reports_show_the_table_and_no_markup_of_a_kind(tmp_path: Path) -> None:
    view = load_view(study(tmp_path, unseen=HOSTILE).path)
    text, page = report_markdown(view), report_html(view)
    assert "## Seen and unseen kinds" in text
    line = next(line for line in text.splitlines() if line.startswith("| 1 | tone\\_unseen"))
    assert (
        "1.000 ± 0.062 (n 40) | 0.25 ± 0.13 (n 40) | 0.75 ± 0.15 | 0.00 ± 0.19 | imitates |" in line
    )
    assert 'id="kinds"' in page
    assert "0.75 ± 0.15" in page
    assert HOSTILE not in page
    assert "window.pwned" not in text.split("## What they wrote")[0]


def test_study_without_kinds_has_no_such_table(tmp_path: Path) -> None:
    view = load_view(study(tmp_path, more={}).path)
    assert kind_rows(view) == []
    assert "unseen kinds" not in report_markdown(view)
    assert 'id="kinds"' not in report_html(view)


def test_allowed_leaks_are_told_at_the_top(tmp_path: Path) -> None:
    view = load_view(study(tmp_path, more={"allow_leaks": [["chat", "questions"]]}).path)
    for text in (report_markdown(view), report_html(view)):
        assert "shared rows between chat and questions" in text


def test_gap_points_the_way_in_which_unseen_kinds_are_worse() -> None:
    def bits(value: float) -> Score:
        return Score(name="p", value=value, stderr=0.3, n=9, unit="bits/byte", direction="minimise")

    assert gap(bits(1.0), bits(1.5)) == Gap(0.5, pytest.approx(0.3 * math.sqrt(2)))
    assert gap(bits(1.0), bits(1.5).model_copy(update={"value": None})) is None


def test_gap_counts_as_larger_only_beyond_the_noise_of_both() -> None:
    # sqrt(0.03**2 + 0.04**2) = 0.05, times 1.96 = 0.098.
    assert is_larger(Gap(0.35, 0.03), Gap(0.25, 0.04))
    assert not is_larger(Gap(0.345, 0.03), Gap(0.25, 0.04))
    assert not is_larger(Gap(0.0, 0.03), Gap(0.25, 0.04))
    assert not is_larger(Gap(0.35, None), Gap(0.25, 0.04))
    assert not is_larger(Gap(0.35, 0.03), None)


def test_score_that_its_items_do_not_give_back_is_missing_and_marks_nobody(tmp_path: Path) -> None:
    files = study(tmp_path)
    trial = files.trial(IMITATOR).read_record()
    assert trial is not None
    other = trial.boundaries[-1].model_copy(update={"holdout": (share("tone_unseen", 0.3, 80),)})
    files.trial(IMITATOR).write_record(trial.model_copy(update={"boundaries": (other,)}))
    (row,) = [row for row in kind_rows(load_view(files.path)) if row.trial.number == IMITATOR]
    assert row.seen.reason == "its items do not give its value back"
    assert (row.gap, row.imitates) == (None, False)


def test_bits_per_byte_of_a_kind_weigh_rows_by_their_length(tmp_path: Path) -> None:
    files = study(tmp_path)
    nats, n_bytes = (1.0, 3.0, 8.0, 2.0), (1, 3, 2, 1)
    items = [
        Item(
            evaluator="tone_unseen",
            index=at,
            kind=("trivia", "riddle")[at // 2],
            prompt=str(at),
            values={"nats": nats[at] * math.log(2), "bytes": n_bytes[at]},
        )
        for at in range(4)
    ]
    files.trial(LEARNER).write_items(LEARNER, True, items)
    trial = files.trial(LEARNER).read_record()
    assert trial is not None
    bits = Score(name="tone_unseen", value=2.0, n=4, unit="bits/byte", direction="minimise")
    last = trial.boundaries[-1].model_copy(update={"holdout": (bits,)})
    files.trial(LEARNER).write_record(trial.model_copy(update={"boundaries": (last,)}))
    (row,) = [row for row in kind_rows(load_view(files.path)) if row.trial.number == LEARNER]
    # (1 + 3) / (1 + 3) on seen kinds, (8 + 2) / (2 + 1) on the unseen one.
    assert (row.seen.value, row.unseen.value) == (pytest.approx(1.0), pytest.approx(10 / 3))
    assert row.gap is not None
    assert row.gap.value == pytest.approx(7 / 3)
