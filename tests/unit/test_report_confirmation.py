"""The report marks ties and gains by fresh seeds, and shows what the search saw beside what they say."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from confirmation_fixture import (
    write_confirmed_study,
    write_replicates,
    write_selection,
    write_trial,
)
from report_fixture import write_scored, write_two_objectives

from search.confirmation.analysis import analyse
from search.confirmation.records import write_confirmation
from search.folders import StudyFolder
from search.report import describe
from search.report.confirmation import (
    confirmation_lines,
    confirmation_sentence,
    missing_rows,
    noise_rows,
    score_rows,
    tie_note,
)
from search.report.html import report_html
from search.report.markdown import report_markdown
from search.report.tables import front_csv
from search.report.view import StudyView, load_view

HOSTILE = "<img src=x onerror=alert(1)> | *loss*"


def confirmed(files: StudyFolder) -> StudyView:
    trials = files.records()
    found = analyse(files, trials, trials[0], ["tone", "retention.kl"])
    assert found is not None
    write_confirmation(files, found)
    return load_view(files.path)


def alike(path: Path) -> StudyFolder:
    """Write trials 1 and 2 whose replicates differ no more than seeds do, and which gain on the base."""
    files = write_two_objectives(path)
    write_trial(files.trial(0), 0, 4, 0.0)
    for number, fresh in ((1, (12, 11, 13)), (2, (12, 13, 11))):
        write_trial(files.trial(number), number, 16, 0.1)
        for at, n_passed in enumerate(fresh):
            write_trial(files.replicate(number, 101 + at), number, n_passed, 0.1, 101 + at)
    return files


def test_ties_and_gains_are_marked_in_all_forms(tmp_path: Path) -> None:
    view = confirmed(alike(tmp_path))
    assert tie_note(view, 1) == "ties with 2"
    assert view.confirmed_gains(1) == ("tone",)
    assert view.confirmed_gains(0) is None
    text, page = report_markdown(view), report_html(view)
    assert "ties with 2" in text.split("## Front")[1].split("## ")[0]
    assert "ties with 2" in page.split('id="trials"')[1].split('id="detail"')[0]
    assert "ties with 2" in "\n".join(confirmation_lines(view))
    assert "1 of 1 pair of them tie" in confirmation_sentence(view)
    assert "with fresh seeds, so corrected for selection" in describe.front_sentence(view)


def test_searched_value_stands_beside_the_confirmed_one_with_the_gap(tmp_path: Path) -> None:
    view = confirmed(alike(tmp_path))
    row = next(row for row in score_rows(view) if row[:2] == ("1", "tone"))
    # 16 of 20 searched; 12, 11 and 13 of 20 fresh
    assert (row[2], row[3], row[5], row[6], row[7]) == ("0.8", "0.6", "0.2", "3", "20")
    assert "Mean gap, above 0 where the search flattered them: tone 0.2" in confirmation_sentence(
        view
    )
    # sd 1/20 in both; two trainings differ by 1.96 sqrt(2) .05
    assert noise_rows(view)[0][::3] == ("tone", "0.139")
    assert noise_rows(view)[1] == ("retention.kl", "none seen", "", "")
    base = next(row for row in score_rows(view) if row[:2] == ("0", "tone"))
    assert (base[3], base[5], base[6]) == ("0.2", "", "untrained")


def test_reasons_of_missing_replicates_are_escaped(tmp_path: Path) -> None:
    files = alike(tmp_path)
    write_trial(files.replicate(1, 104), 1, 1, 0.1, 104, "FAIL", HOSTILE)
    view = confirmed(files)
    assert missing_rows(view) == [("1", "104", HOSTILE)]
    assert "<img" not in report_html(view).split('id="confirmation"')[1].split("</section>")[0]
    assert r"\<img src=x onerror=alert(1)\> \| \*loss\*" in report_markdown(view)


def test_front_that_was_confirmed_in_part_says_so(tmp_path: Path) -> None:
    files = alike(tmp_path)
    write_trial(files.trial(5), 5, 20, 0.4)
    view = confirmed(files)
    assert "Not confirmed: 5." in confirmation_sentence(view)
    assert "before correcting for selection" in describe.front_sentence(view)


def test_gain_that_fresh_seeds_do_not_show_is_none(tmp_path: Path) -> None:
    files = write_confirmed_study(tmp_path)
    write_trial(files.trial(4), 4, 20, 0.05)  # the search saw all items pass
    write_replicates(files, 4, [4, 5, 4])
    view = confirmed(files)
    trial = next(trial for trial in view.trials if trial.number == 4)
    assert view.confirmed_gains(4) == ()
    assert view.noise_note(trial) == "no gain over the base confirmed"


def test_noise_floor_widens_what_counts_as_noise_of_other_trials(tmp_path: Path) -> None:
    files = alike(tmp_path)
    # .2 against .35 with standard errors .05 each: .15 is more than 1.96 x .0707, and less with .05 between seeds.
    write_scored(files, 7, (0.35, 0.05), (0.3, 0.01), seconds=1.0)
    base = files.trial(0).read_record()
    assert base is not None
    tone, drift = base.boundaries[0].scores
    scores = (tone.model_copy(update={"stderr": 0.05}), drift)
    boundary = base.boundaries[0].model_copy(update={"scores": scores})
    files.trial(0).write_record(base.model_copy(update={"boundaries": (boundary,)}))
    before = load_view(tmp_path)
    (other,) = [trial for trial in before.trials if trial.number == 7]
    assert before.noise_note(other) is None
    assert confirmed(files).noise_note(other) == "no gain over the base beyond noise"


def test_fresh_items_take_the_place_of_those_of_the_search_where_all_were_asked(
    tmp_path: Path,
) -> None:
    files = alike(tmp_path)
    # On the items of the search 12, 11 and 13 of 20 pass; on fresh ones 8, 7 and 9: so much was luck with items.
    for number, fresh in ((1, (8, 7, 9)), (2, (8, 8, 7))):
        for at, n_passed in enumerate(fresh, 1):
            write_selection(files, number, 100 + at, n_passed)
    before = confirmed(files)
    assert before.confirmation is not None
    assert before.confirmation.has_fresh_items
    # The base was not asked: it would be compared on other items than the others are.
    rows = {row[:2]: row for row in score_rows(before)}
    assert rows["1", "tone (fresh items)"][2:4] == ("0.8", "0.4")
    assert rows["1", "tone"][3] == "0.6"
    base = [c for c in before.confirmation.comparisons if c.score == "tone" and c.first == 0]
    assert base[0].difference == pytest.approx(0.2 - 0.6)
    write_trial(files.replicate(0, 101), 0, 4, 0.0, seed=101)
    write_selection(files, 0, 101, 2)
    view = confirmed(files)
    assert view.confirmation is not None
    assert [trial.number for trial in view.confirmation.trials] == [0, 1, 2]
    assert view.confirmation.seeds == (101, 102, 103)
    base = [c for c in view.confirmation.comparisons if c.score == "tone" and c.first == 0]
    assert base[0].difference == pytest.approx(0.1 - 0.4)
    kl = [c for c in view.confirmation.comparisons if c.score == "retention.kl" and c.first == 0]
    assert kl[0].difference == pytest.approx(-0.1), "it has no fresh items"
    # Searched .8 and .8, fresh .4 and 23 of 60
    assert "tone 0.408" in confirmation_sentence(view)
    assert "luck with the items is gone too" in report_markdown(view)
    assert "luck with the items is gone too" in report_html(view)


def test_confirmation_without_fresh_items_says_that_luck_with_items_stays(tmp_path: Path) -> None:
    view = confirmed(alike(tmp_path))
    for text in (report_markdown(view), report_html(view), "\n".join(confirmation_lines(view))):
        assert "luck with the items of the search stays" in text


def test_study_without_confirmation_says_nothing_of_it(tmp_path: Path) -> None:
    view = load_view(write_two_objectives(tmp_path).path)
    assert (confirmation_sentence(view), score_rows(view), noise_rows(view)) == ("", [], [])
    assert (tie_note(view, 1), missing_rows(view)) == (None, [])
    assert "Confirmation" not in report_html(view)
    assert "## Confirmation" not in report_markdown(view)
    assert view.confirmed_gains(1) is None


def test_front_table_has_what_fresh_seeds_say_of_each_score(tmp_path: Path) -> None:
    view = confirmed(alike(tmp_path))
    text = front_csv(view)
    rows = {row["number"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}
    own = rows["1"]
    # 16 of 20 searched; 12, 11 and 13 of 20 fresh
    assert (float(own["tone"]), float(own["tone_confirmed"])) == (0.8, pytest.approx(0.6))
    assert float(own["tone_confirmed_low"]) < 0.6 < float(own["tone_confirmed_high"])
    assert own["tone_confirmed_n_seeds"] == "3"
    trial = view.confirmation.trial(1) if view.confirmation else None
    assert trial is not None
    assert own["ties"] == " ".join(map(str, trial.ties)) != ""
    write_trial(view.files.trial(9), 9, 20, 0.45)  # on the front now, and not confirmed
    later = {
        row["number"]: row
        for row in csv.DictReader(io.StringIO(front_csv(load_view(tmp_path)), newline=""))
    }
    assert (later["9"]["tone_confirmed"], later["9"]["ties"]) == ("", "")
