"""What fresh seeds say: the searched value never enters, ties are ties, a lost replicate is missing with its reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from confirmation_fixture import write_confirmed_study, write_replicates, write_trial

from search.confirmation.analysis import analyse
from search.confirmation.records import Confirmation, read_confirmation, write_confirmation
from search.confirmation.replicates import fresh_seeds, missing_replicates
from search.errors import StudyError
from search.folders import StudyFolder
from search.report.view import load_view

OBJECTIVES = ["tone", "retention.kl"]


def analysed(files: StudyFolder) -> Confirmation:
    trials = files.records()
    found = analyse(files, trials, trials[0], OBJECTIVES)
    assert found is not None
    return found


def test_confirmed_value_is_the_mean_of_fresh_seeds_alone(tmp_path: Path) -> None:
    found = analysed(write_confirmed_study(tmp_path))
    trial = found.trial(1)
    assert trial is not None
    tone = trial.score("tone")
    assert tone is not None
    assert tone.value == pytest.approx((19 + 18 + 19) / 60)
    assert (tone.searched, tone.n_seeds, tone.n_items) == (1.0, 3, 20)
    assert tone.gap == pytest.approx(1 - 56 / 60)
    assert tone.low is not None
    assert tone.high is not None
    assert tone.low < 56 / 60 < tone.high <= 1
    drift = trial.score("retention.kl")
    assert drift is not None
    assert drift.gap == pytest.approx(
        0.002
    )  # .1 searched, .102 fresh: lower is better, so it was flattered
    assert found.seeds == (101, 102, 103)


def test_noise_floor_is_the_pooled_spread_between_seeds(tmp_path: Path) -> None:
    found = analysed(write_confirmed_study(tmp_path))
    # In twentieths, three variances of 1/3 each: sd = sqrt(1/3) / 20. Of KL: .001 in all.
    assert found.noise_sd("tone") == pytest.approx((1 / 3) ** 0.5 / 20)
    assert found.noise_sd("retention.kl") == pytest.approx(0.001)
    assert [floor.df for floor in found.noise] == [6, 6]
    assert found.noise_sd("none such") is None


def test_trials_that_no_objective_tells_apart_tie(tmp_path: Path) -> None:
    files = write_confirmed_study(tmp_path)
    for number in (2, 3):  # of KL equal too
        for seed in (101, 102, 103):
            folder = files.replicate(number, seed)
            record = folder.read_record()
            assert record is not None
            tone, drift = record.boundaries[0].scores
            same = drift.model_copy(update={"value": 0.2 + 0.001 * (seed - 100)})
            at_end = record.boundaries[0].model_copy(update={"scores": (tone, same)})
            folder.write_record(record.model_copy(update={"boundaries": (at_end,)}))
    found = analysed(files)
    ties = {trial.number: trial.ties for trial in found.trials}
    assert ties == {0: (), 1: (), 2: (3,), 3: (2,)}
    (own,) = [e for e in found.comparisons if (e.first, e.second, e.score) == (1, 2, "tone")]
    assert own.is_distinguishable
    assert own.difference == pytest.approx((56 - 35) / 60)
    assert own.p_value < own.adjusted_p
    assert len(found.comparisons) == 6 * 2  # pairs of four models in two objectives


def test_lost_replicates_are_missing_with_their_reason_and_the_rest_is_reported(
    tmp_path: Path,
) -> None:
    files = write_confirmed_study(tmp_path)
    write_trial(files.trial(4), 4, 10, 0.2)
    write_replicates(files, 4, [10, 11, None])
    write_trial(files.replicate(4, 104), 4, 9, 0.2, 104, "FAIL", "StageError: loss is not finite")
    write_trial(files.replicate(4, 105), 4, 9, 0.2, 105, "RUNNING")
    found = analysed(files)
    trial = found.trial(4)
    assert trial is not None
    tone, drift = trial.score("tone"), trial.score("retention.kl")
    assert tone is not None
    assert drift is not None
    assert (tone.n_seeds, drift.n_seeds) == (2, 3)
    assert tone.value == pytest.approx(10.5 / 20)
    assert tone.missing == {
        103: "the value is nan: the model gave numbers that are not finite",
        104: "StageError: loss is not finite",
    }
    assert drift.missing == {104: "StageError: loss is not finite"}


def test_single_replicate_has_a_value_and_claims_nothing(tmp_path: Path) -> None:
    files = write_confirmed_study(tmp_path)
    write_trial(files.trial(4), 4, 10, 0.2)
    write_replicates(files, 4, [10])
    found = analysed(files)
    trial = found.trial(4)
    assert trial is not None
    tone = trial.score("tone")
    assert tone is not None
    assert (tone.value, tone.stderr, tone.low) == (0.5, None, None)
    assert trial.ties == ()
    assert all(4 not in (each.first, each.second) for each in found.comparisons)


def test_replicates_of_another_recipe_are_passed_over(tmp_path: Path) -> None:
    files = write_confirmed_study(tmp_path)
    folder = files.replicate(3, 106)
    write_trial(folder, 2, 1, 0.9, 106)  # the recipe that trial 2 has now
    record = folder.read_record()
    assert record is not None
    folder.write_record(record.model_copy(update={"number": 3}))
    trial = analysed(files).trial(3)
    assert trial is not None
    tone = trial.score("tone")
    assert tone is not None
    assert 106 not in tone.by_seed


def test_nothing_on_disk_is_no_confirmation(tmp_path: Path) -> None:
    files = write_confirmed_study(tmp_path)
    trials = files.records()
    for folder in files.replicate_folders():
        folder.record.unlink()
    assert analyse(files, trials, trials[0], OBJECTIVES) is None
    assert read_confirmation(files) is None


def test_confirmation_is_read_as_written_and_damage_is_named(tmp_path: Path) -> None:
    files = write_confirmed_study(tmp_path)
    found = analysed(files)
    write_confirmation(files, found)
    assert read_confirmation(files) == found
    assert load_view(tmp_path).confirmation == found
    files.confirmation_json.write_text("{}")
    with pytest.raises(StudyError, match=r"confirmation\.json: damaged.*remove it"):
        read_confirmation(files)


def test_fresh_seeds_stay_when_more_are_asked_for_and_are_not_the_study_s() -> None:
    three, five = fresh_seeds(7, 3), fresh_seeds(7, 5)
    assert five[:3] == three
    assert len({7, *five, *fresh_seeds(8, 5)}) == 11


def test_what_is_missing_comes_seed_by_seed_and_what_is_there_stays(tmp_path: Path) -> None:
    files = write_confirmed_study(tmp_path)
    trials = files.records()[2:]
    assert missing_replicates(files, trials, (101, 102)) == []
    files.replicate(3, 101).record.write_text("damaged")
    write_trial(files.replicate(2, 104), 2, 9, 0.2, 104, "FAIL", "the disk was full")
    wanted = missing_replicates(files, trials, (101, 104, 105))
    assert [(trial.number, seed) for trial, seed in wanted] == [
        (3, 101),
        (2, 104),
        (3, 104),
        (2, 105),
        (3, 105),
    ]
