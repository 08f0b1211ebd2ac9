"""What the answer says of doses follows the data: other data, another sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from answers import BASE, analysis_of, law, study, trial
from planted import recipe

from search.records import TrialRecord
from search.report.analysis import Analysis
from search.report.answer.degree import degree
from spaces.recipe import Recipe

A, B, C, AB = recipe("a"), recipe("b"), recipe("c"), recipe("a", "b")

DOSES = [round(500 * 32 ** (at / 23)) for at in range(24)]


def dosed(folder: Path, response: Mapping[int, float], chosen: int) -> Analysis:
    """Trials of one stage of `a` with many doses; the one with the chosen dose drifts less and is the knee."""
    records: list[TrialRecord] = [trial(0, BASE, law({}))]
    for at, (dose, form) in enumerate(response.items(), start=1):
        drift = 0.2 if dose == chosen else 0.4
        records.append(trial(at, recipe(("a", dose)), law({"a": form}, drift), stderr=0.002))
    return analysis_of(folder, records, with_holdout=False)


def wobble(at: int) -> float:
    """A little noise that repeats itself."""
    return 0.01 * ((at * 7) % 5 - 2)


def test_a_dose_that_turns_is_told_with_where_the_recommended_trial_stands(tmp_path: Path) -> None:
    turning = {
        dose: 0.4 - 0.2 * math.log(dose / 3000) ** 2 + wobble(at) for at, dose in enumerate(DOSES)
    }
    below = degree(dosed(tmp_path / "below", turning, DOSES[8]))
    assert below.startswith("More of a than ")
    assert "makes form worse again; trial 9 takes 1.7k, less." in below
    above = degree(dosed(tmp_path / "above", turning, DOSES[15]))
    assert "trial 16 takes 4.8k, more." in above


def test_a_dose_that_saturates_and_one_that_only_grows_read_differently(tmp_path: Path) -> None:
    saturating = {d: 0.4 * (1 - math.exp(-d / 1000)) + wobble(i) / 4 for i, d in enumerate(DOSES)}
    text = degree(dosed(tmp_path / "saturates", saturating, DOSES[20]))
    assert text.startswith("a has 95 % of its effect on form by ")
    assert "takes 10k, more." in text
    growing = {d: 0.1 * math.log(d / 400) + wobble(i) / 4 for i, d in enumerate(DOSES)}
    text = degree(dosed(tmp_path / "grows", growing, DOSES[20]))
    assert text.startswith("The dose of a matters for form over 500 to 16k tokens; no point of")


def test_doses_that_do_nothing_and_doses_that_nobody_varied_are_told_apart(tmp_path: Path) -> None:
    flat = {dose: 0.2 + wobble(at) for at, dose in enumerate(DOSES)}
    text = degree(dosed(tmp_path / "flat", flat, DOSES[3]))
    assert text.startswith("No dose is shown to play a part (")
    few = dict(list(flat.items())[:3])
    text = degree(dosed(tmp_path / "few", few, DOSES[0]))
    assert text.startswith("How doses act is not known: a was scored at 3 doses, a curve takes 8.")


def test_strength_is_the_share_of_the_largest_dose_allowed(tmp_path: Path) -> None:
    text = degree(study(tmp_path, law({"a": 0.3}), recipe(("a", 4000))))
    assert "Of the largest dose allowed, trial 1 takes a at 25 %; it does without b and c." in text


def test_a_stage_that_does_nothing_could_be_left_out_and_one_that_does_could_not(
    tmp_path: Path,
) -> None:
    def tried(name: str, gain: float, *recipes: Recipe) -> Analysis:
        made = law({"a": 0.5, "b": gain, "c": 0.75}, {"a": 0.02, "b": 0.0, "c": 0.5})
        return study(tmp_path / name, made, *recipes, C, stderr=0.002)

    idle = tried("idle", 0.001, A, B, AB)
    assert "b could be left out of trial 3: no score changes by more than its margin." in degree(
        idle
    )
    both = tried("both", 0.2, A, B, AB)
    assert "No stage of trial 3 is shown to be useless." in degree(both)
    untried = tried("untried", 0.2, AB)
    assert "Whether a could be left out was not tried." in degree(untried)
