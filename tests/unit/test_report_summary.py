"""Every sentence of the answer follows the data: other data, another sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from answers import BASE, analysis_of, confirmed, law, study, table, trial
from planted import recipe

from evaluators.scores import Score
from search.report.analysis import Analysis
from search.report.answer import holds as holds_module
from search.report.answer.decided import decided
from search.report.answer.holds import holds
from search.report.answer.order import order
from search.report.answer.reached import reached
from search.report.kinds import KindRow
from search.report.routes import another_way, routes_sentence
from search.report.summary import summary
from search.report.warnings import EMPTY, Hack

A, B, C, AB, BA = recipe("a"), recipe("b"), recipe("c"), recipe("a", "b"), recipe("b", "a")


# Reached


def test_without_a_finished_trial_there_is_no_answer_yet(tmp_path: Path) -> None:
    assert reached(analysis_of(tmp_path, [])).startswith("No trial has finished yet")


def test_a_gain_beyond_noise_is_a_gain_and_its_reverse_is_none(tmp_path: Path) -> None:
    text = reached(study(tmp_path / "up", law({"a": 0.4}), A))
    assert text.startswith(
        "The untouched base itself is nearest to the front's best values; of what was"
    )
    assert "trial 1 (a) comes nearest and reaches form 0.500 ± 0.020" in text
    assert "(base 0.100 ± 0.020)" in text
    assert "it gains on the base in form (before correcting for having picked it)" in text
    text = reached(study(tmp_path / "down", law({"a": -0.05}), A))
    assert text == (
        "Of 2 feasible trials none with stages is on the front: the untouched base is at least as good in every "
        "objective (form 0.100 ± 0.020, drift 0.000 ± 0.020)."
    )


def test_a_knee_is_called_so(tmp_path: Path) -> None:
    rows = {(): (0.1, 0.0), ("a",): (0.5, 0.02), ("b",): (0.6, 0.3)}
    text = reached(study(tmp_path, table(rows), A, B))
    assert text.startswith("Trial 1 (a), the knee of the front, reaches form 0.500 ± 0.020")


def test_a_knee_that_fresh_seeds_moved_is_told_from_the_one_that_is_drawn(tmp_path: Path) -> None:
    seen = table({(): (0.1, 0.0), ("a",): (0.5, 0.02), ("b",): (0.6, 0.3), ("c",): (0.5, 0.1)})
    later = table({(): (0.1, 0.0), ("a",): (0.0, 0.02), ("b",): (0.6, 0.3), ("c",): (0.6, 0.0)})
    found = study(tmp_path, seen, A, B, C)
    assert reached(found).startswith("Trial 1 (a), the knee of the front, reaches")
    for number, listed in ((1, A), (3, C)):
        folder = found.view.files.replicate(number, 101)
        folder.path.mkdir(parents=True)
        folder.write_record(trial(number, listed, later, 0.01, seed=101))
    text = reached(Analysis(found.view))
    assert text.startswith("Trial 3 (c), the knee of the front where all seeds count, reaches")


def test_a_loss_is_told_beside_the_gain(tmp_path: Path) -> None:
    assert "it loses in drift" in reached(study(tmp_path / "1", law({"a": 0.4}, 0.1), A))
    text = reached(study(tmp_path / "2", law({"a": 0.4}, 0.02), A))
    assert "loses" not in text
    assert "no difference is shown in drift" in text


def test_where_the_recommended_trial_does_not_gain_the_one_that_does_is_named(
    tmp_path: Path,
) -> None:
    def text(folder: str, form: float) -> str:
        rows = {
            ("a",): {"form": 0.1, "taste": 0.9, "drift": 0.02},
            ("b",): {"form": form, "taste": 0.6, "drift": 0.6},
            (): {"form": 0.1, "taste": 0.1, "drift": 0.0},
        }
        listed = [BASE, A, B]
        records = [
            trial(at, each, lambda names: rows[tuple(names)]) for at, each in enumerate(listed)
        ]
        made = analysis_of(tmp_path / folder, records, with_holdout=False, with_taste=True)
        return reached(made)

    both = text("apart", 0.8)
    assert both.startswith("Trial 1 (a), nearest to the front's best values")
    assert "trial 2 (b) gains in form: form 0.800 ± 0.020" in both
    assert "gains in form:" not in text("alike", 0.11)


def test_a_difference_within_noise_is_no_gain_and_says_what_it_takes(tmp_path: Path) -> None:
    text = reached(study(tmp_path, law({"a": 0.03}, 0.0), A, stderr=0.03))
    assert "no gain over the base is shown" in text
    # (1.96 * sqrt(2) * 0.03 / 0.03) ** 2 = 7.68
    assert "the nearest, form +0.03 (-0.05..+0.11), would take about 7.7 times the items" in text


def test_without_standard_errors_no_gain_is_claimed(tmp_path: Path) -> None:
    text = reached(study(tmp_path, law({"a": 0.4}, 0.0), A, stderr=None))
    assert "no gain over the base is shown" in text
    assert "times the items" not in text


def test_without_a_base_what_is_gain_is_unknown(tmp_path: Path) -> None:
    found = analysis_of(tmp_path, [trial(0, A, law({"a": 0.4}))])
    assert "the base was not scored, so how much of it is gain is unknown" in reached(found)


def test_where_no_trial_keeps_the_constraints_the_nearest_is_named(tmp_path: Path) -> None:
    records = [trial(0, A, law({}, 0.5)), trial(1, B, law({}, 0.3))]
    found = analysis_of(tmp_path, records, at_most=0.1)
    assert reached(found) == (
        "None of 2 complete trials keeps every constraint; nearest is trial 1, outside by 0.2 in drift (at 0.3)."
    )


def test_fresh_seeds_overrule_what_the_search_saw(tmp_path: Path) -> None:
    found = study(tmp_path, law({"a": 0.4}), A)
    text = reached(confirmed(found, 1, form=0.42, is_gain=True))
    assert "form 0.42 (0.4 to 0.44)" in text
    assert "gains on the base in form (with fresh seeds)" in text
    text = reached(confirmed(found, 1, 0.1, is_gain=False))
    assert "fresh seeds alone, corrected over all that was confirmed, show no gain" in text


# Decided


def test_the_stage_that_gives_most_decides_and_its_cost_is_told(tmp_path: Path) -> None:
    # c has the best form at a high price, which makes a > b the knee.
    gives, drifts = {"a": 0.5, "b": 0.1, "c": 0.65}, {"a": 0.1, "b": 0.0, "c": 0.5}
    found = study(tmp_path / "a", law(gives, drifts), A, B, AB, C)
    assert decided(found) == (
        "The stage a, one of 2 stages of trial 3, changes form by +0.50 (+0.48..+0.52) over all orders in which its "
        "stages may join; it costs drift +0.10 (+0.08..+0.12) and 1.0k training tokens."
    )
    other = study(tmp_path / "b", law({"a": 0.1, "b": 0.5}, 0.0), A, B, AB)
    assert decided(other).startswith("The stage b, one of 2 stages of trial 3, changes form by")
    assert "it costs 1.0k training tokens; no loss in another score is shown" in decided(other)


def test_where_subsets_are_missing_the_sentence_says_how_it_was_measured(tmp_path: Path) -> None:
    found = study(tmp_path / "last", law({"a": 0.1, "b": 0.5}, 0.0), AB)
    assert "changes form by +0.50 (+0.47..+0.53) against the recipe without it" in decided(found)
    found = study(tmp_path / "first", law({"a": 0.5, "b": 0.0}, 0.0), AB)
    text = decided(found)
    assert text.startswith("The stage a, one of 2 stages of trial 1, changes form by +0.50")
    assert "from before it to after it" in text
    assert "what it gives elsewhere, `apportion explain results/study 1 --train` tells" in text


def test_stages_within_noise_decide_nothing_and_the_nearest_is_named(tmp_path: Path) -> None:
    text = decided(study(tmp_path, law({"a": 0.03}, 0.0), A, stderr=0.03))
    assert text.startswith("No stage of trial 1 is shown to improve an objective beyond noise")
    assert "the nearest is form at a" in text
    assert "7.7 times the items" in text


def test_the_base_has_nothing_to_attribute(tmp_path: Path) -> None:
    assert "nothing to attribute" in decided(study(tmp_path, law({"a": -0.2}), A))


def test_from_one_seed_nothing_is_claimed_of_a_stage_or_an_order(tmp_path: Path) -> None:
    found = study(tmp_path, table({**FORWARD, ("b", "a"): (0.3, 0.04)}), AB, BA)
    found.__dict__["outside"] = []
    assert "is shown to improve an objective beyond noise: the nearest is form" in decided(found)
    assert "no recipe was trained with two seeds" in decided(found)
    assert "no recipe was trained with two seeds, so nothing is claimed" in order(found)


def test_fresh_seeds_of_confirmed_trials_tell_the_noise_of_training(tmp_path: Path) -> None:
    made = table({**FORWARD, ("b", "a"): (0.3, 0.04)})
    found = study(tmp_path, made, AB, BA)
    found.__dict__["outside"] = []  # Nothing was trained for an explanation.
    for number, listed in ((1, AB), (2, BA)):
        for seed in (101, 102):
            folder = found.view.files.replicate(number, seed)
            folder.path.mkdir(parents=True)
            folder.write_record(trial(number, listed, made, 0.01, seed=seed))
    text = order(found)
    assert text.startswith("Order matters: b first instead of last in trial 1 worsens form by -0.2")
    assert "where all seeds count" not in reached(found)
    (tmp_path / "study/confirmation/0001/101/trial.json").write_text("{")  # Damaged: left out.
    assert len(found.view.files.replicate_records()) == 3


# Order

FORWARD = {(): (0.1, 0.0), ("a",): (0.3, 0.02), ("b",): (0.3, 0.02), ("a", "b"): (0.5, 0.04)}


def both_orders(folder: Path, form: float, stderr: float = 0.01) -> Analysis:
    """Trial 1 is a > b with a form of .5; trial 2 is b > a with the given one."""
    return study(folder, table({**FORWARD, ("b", "a"): (form, 0.04)}), AB, BA, stderr=stderr)


def test_a_better_order_improves_and_a_worse_one_worsens(tmp_path: Path) -> None:
    text = order(both_orders(tmp_path / "worse", 0.3))
    assert text.startswith(
        "Order matters: b first instead of last in trial 1 worsens form by -0.20"
    )
    text = order(both_orders(tmp_path / "better", 0.8))
    # The better order is the recommended one, so that the other is held against it.
    assert text.startswith(
        "Order matters: a first instead of last in trial 2 worsens form by -0.30"
    )


def test_an_equal_order_is_only_called_equal_where_noise_is_small(tmp_path: Path) -> None:
    text = order(both_orders(tmp_path / "small", 0.5, stderr=0.005))
    assert text.startswith("Order is shown not to matter here: in 1 comparison")
    text = order(both_orders(tmp_path / "large", 0.48, stderr=0.05))
    assert text.startswith("Order is not shown to matter, nor not to: of 1 comparison")


def test_an_order_that_nobody_tried_is_unknown_and_has_a_price(tmp_path: Path) -> None:
    text = order(study(tmp_path, law({"a": 0.2, "b": 0.2}), AB))
    assert text.startswith("Whether order matters is not known")
    # b > a (2,000 tokens), a > b > a and a > b > b (3,000 each)
    assert (
        "`apportion explain results/study 1 --train --order` takes 3 trainings, at most 8,000"
        in text
    )


def test_repeating_is_told_apart_from_order(tmp_path: Path) -> None:
    twice = recipe("a", "a")
    text = order(study(tmp_path / "up", law({"a": 0.2}, 0.0), A, twice))
    assert "Repeating: a once more at the end" in text
    assert "improves form by +0.20" in text
    text = order(
        study(
            tmp_path / "flat",
            table({(): (0.1, 0.0), ("a",): (0.5, 0.0), ("a", "a"): (0.5, 0.0)}),
            A,
            twice,
        )
    )
    assert "Repeating a stage is not shown to change a score (1 comparison)" in text


# Holds


def held(folder: Path, base: float, own: float) -> Analysis:
    made = law({"a": 0.4})
    return analysis_of(folder, [trial(0, BASE, made, holdout=base), trial(1, A, made, holdout=own)])


def test_the_holdout_decides_whether_a_gain_holds(tmp_path: Path) -> None:
    up = holds(held(tmp_path / "up", 0.1, 0.4))
    assert "On the holdout it gains on the base in form_new +0.30 (+0.27..+0.33)." in up
    down = holds(held(tmp_path / "down", 0.4, 0.1))
    assert "On the holdout it loses in form_new -0.30 (-0.33..-0.27)." in down
    same = holds(held(tmp_path / "same", 0.4, 0.41))
    assert "On the holdout no difference from the base is shown in 1 score." in same
    none = holds(study(tmp_path / "none", law({"a": 0.4}), A))
    assert "The study has no holdout" in none


def test_confirmation_is_told_or_asked_for(tmp_path: Path) -> None:
    found = study(tmp_path, law({"a": 0.4}), A)
    asked = "Not trained again with fresh seeds: `apportion confirm results/study` does."
    assert asked in holds(found)
    gain = holds(confirmed(found, 1, 0.4, is_gain=True, ties=(0, 7)))
    assert "3 fresh seeds confirm a gain on the base in form; trial 1 ties with trial 7." in gain
    none = holds(confirmed(found, 1, 0.1, is_gain=False))
    assert "3 fresh seeds confirm no gain over the base." in none


@pytest.mark.parametrize(
    ("imitates", "said"),
    [(True, "In form_new it imitates"), (False, "not shown to do worse than on seen ones")],
)
def test_imitation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imitates: bool, said: str
) -> None:
    found = study(tmp_path, law({"a": 0.4}), A)
    seen = Score(name="form_new", value=0.5, n=9, unit="share", direction="maximise")
    row = KindRow(found.by_number[1], seen, seen, None, None, imitates)
    monkeypatch.setattr(holds_module, "kind_rows", lambda view: [row])
    assert said in holds(found)


def test_a_suspected_hack_is_told_of_the_recommended_trial_alone(tmp_path: Path) -> None:
    def with_hack(folder: Path, number: int) -> Analysis:
        found = study(folder, law({"a": 0.4}), A)
        found.__dict__["hacks"] = [Hack(number, "form", False, EMPTY, 9, 12, 0, ("form",))]
        return found

    assert "Read its replies first: 9 of 12 replies to form are empty." in holds(
        with_hack(tmp_path / "1", 1)
    )
    assert "Read its replies" not in holds(with_hack(tmp_path / "7", 7))


# Another way


def test_another_way_is_named_only_where_it_is_shown_to_score_alike(tmp_path: Path) -> None:
    alike = table({(): (0.1, 0.0), ("a",): (0.5, 0.02), ("b",): (0.5, 0.021)})
    found = study(tmp_path / "alike", alike, A, B, stderr=0.0003)
    assert another_way(found) == (
        "Trial 2 (b) is shown to score like trial 1 and is made differently: 1.0k tokens against 1.0k."
    )
    assert [each.title for each in summary(found)][-1] == "Another way"
    apart = table({(): (0.1, 0.0), ("a",): (0.5, 0.02), ("b",): (0.3, 0.021)})
    found = study(tmp_path / "apart", apart, A, B, stderr=0.0003)
    assert another_way(found) == ""
    assert routes_sentence(found).startswith("No other trial is shown to score like trial 1")
    noisy = study(tmp_path / "noisy", alike, A, B, stderr=0.05)
    assert "1 trial differs by less, but noise may hide more" in routes_sentence(noisy)


def test_the_answer_has_five_parts(tmp_path: Path) -> None:
    titles: Sequence[str] = [each.title for each in summary(analysis_of(tmp_path, []))]
    assert titles == ["Reached", "Decided by", "Order", "Degree", "Holds"]
