"""Explanations of worlds whose truth is known: found in at least 19 of 20, and nothing claimed where nothing is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import (
    Law,
    World,
    explained_claims,
    explained_doses,
    explained_orders,
    flat,
    growing,
    harm_after,
    nothing,
    one_useless,
    order_matters,
    recipe,
    saturating,
    shown_orders,
    turning,
    two_redundant,
)
from played import trained

from search.attribution.dose import DoseResponse, dose_response, dose_rows
from search.attribution.known import Known
from search.attribution.order import order_sentence
from search.records import Proposal

SEEDS = range(20)


def said(law: Law, seed: int, kind: str) -> set[tuple[tuple[str, ...], str | None]]:
    return {
        (claim.units, claim.score) for claim in explained_claims(law, seed) if claim.kind == kind
    }


def test_a_useless_stage_is_found_and_no_other_is_called_so() -> None:
    assert sum(said(one_useless, s, "useless") == {(("c",), None)} for s in SEEDS) >= 19


def test_a_stage_that_harms_after_another_is_found_with_the_other() -> None:
    assert sum(said(harm_after, s, "harmful") == {(("b", "a"), "form")} for s in SEEDS) >= 19


def test_two_stages_that_stand_in_for_each_other_are_found() -> None:
    assert sum(said(two_redundant, s, "redundant") == {(("a", "b"), "form")} for s in SEEDS) >= 19


def test_where_nothing_does_anything_nothing_is_claimed() -> None:
    wrong = [s for s in SEEDS if any(c.kind != "useless" for c in explained_claims(nothing, s))]
    assert len(wrong) <= 1


def test_training_noise_is_no_effect_once_seeds_tell_how_large_it_is() -> None:
    def n_wrong(seeds: Sequence[int]) -> int:
        found = (explained_claims(nothing, s, seeds, spread=0.03) for s in SEEDS)
        return sum(any(c.kind != "useless" for c in each) for each in found)

    assert n_wrong((0, 1, 2)) <= 1
    assert n_wrong((0,)) == 0, "one seed cannot know, and claims nothing"


def test_the_better_order_is_found_and_repeats_that_do_nothing_are_not() -> None:
    truth = ("b first instead of last", "form")
    found = [shown_orders(explained_orders(order_matters, seed)) for seed in range(200)]
    assert all(truth in shown for shown in found)
    # Of worlds, 5 % may claim more than is there: 10 of 200, with a standard deviation of 3.1.
    assert sum(shown != {truth} for shown in found) <= 19
    assert sum(bool(shown_orders(explained_orders(nothing, seed))) for seed in range(200)) <= 19


def test_the_sentence_on_order_follows_the_data() -> None:
    effects = explained_orders(order_matters, 3)
    better = next(c for c in effects.comparisons if c.what == "b first instead of last")
    assert order_sentence(better).startswith("b first instead of last: form +0.1")
    assert "drift" in order_sentence(better)
    assert order_sentence(better).endswith("(n.s.)")

    def turned(stages: object) -> dict[str, float]:
        values = order_matters(stages)  # type: ignore[arg-type]
        return {**values, "form": -values["form"]}

    worse = next(c for c in explained_orders(turned, 3).comparisons if c.what == better.what)
    assert order_sentence(worse).startswith("b first instead of last: form -0.1")
    none = next(c for c in explained_orders(nothing, 3).comparisons if c.what == better.what)
    assert order_sentence(none).count("(n.s.)") == 2


def test_the_sentences_on_stages_follow_the_data() -> None:
    (found,) = [c for c in explained_claims(harm_after, 2) if c.kind == "harmful"]
    assert found.text.startswith("Without b the recipe's form would be better: b changes it by -0.")
    assert "after a, and by +0." in found.text

    def mended(stages: object) -> dict[str, float]:
        values = harm_after(stages)  # type: ignore[arg-type]
        return {**values, "form": -values["form"]}

    texts = [c.text for c in explained_claims(mended, 2) if c.score == "form"]
    assert not any("Without b" in text for text in texts)
    assert any(text.startswith("b improves form: +") for text in texts)


def test_a_dose_beyond_which_more_does_harm_is_found() -> None:
    found = [explained_doses(turning, s)[("a", "form")].turns_at for s in SEEDS]
    assert sum(each is not None and each.low < 4000 < each.high for each in found) >= 18
    assert sum(each is not None for each in found) >= 19


def test_saturation_is_found_and_not_called_harm() -> None:
    found = [explained_doses(saturating, s)[("a", "form")] for s in SEEDS]
    assert sum(each.saturates_at is not None for each in found) >= 19
    assert sum(each.turns_at is not None for each in found) <= 1


def test_a_dose_that_only_helps_has_no_point_of_harm_or_saturation() -> None:
    found = [explained_doses(growing, s)[("a", "form")] for s in SEEDS]
    assert all(each.is_shown for each in found)
    assert sum(each.turns_at is not None or each.saturates_at is not None for each in found) <= 1


def test_of_doses_that_do_not_matter_nothing_is_claimed() -> None:
    wrong = [s for s in SEEDS if any(each.is_shown for each in explained_doses(flat, s).values())]
    assert len(wrong) <= 1


def test_a_nearly_straight_parabola_that_turns_beyond_all_doses_claims_no_harm() -> None:
    # Its turning point, as an exponent, was once too large for a number.
    assert explained_doses(growing, 1092, n=16)[("a", "form")].turns_at is None


def test_a_few_points_make_no_curve() -> None:
    found = explained_doses(growing, 0, n=3).values()
    assert all(each.shape is None for each in found)
    assert all("boundaries; 8 are needed" in (each.reason or "") for each in found)


def test_a_dose_that_moves_a_score_by_less_than_its_items_do_is_not_claimed() -> None:
    # A curve of 0.1 from end to end, without any scatter; 1.96 times the root of 2 times 0.03 is 0.083, of 0.04 0.11.
    found = dose_response("a", "form", "maximise", line_rows(rise=0.1)).model_copy(
        update={"holm": 1e-9}
    )
    assert found.swing == pytest.approx(0.1, abs=1e-3)
    assert found.shape == "line"
    assert found.model_copy(update={"item_stderr": 0.03}).is_shown
    assert not found.model_copy(update={"item_stderr": 0.04}).is_shown


def test_the_noise_of_items_counts_for_all_that_a_curve_and_its_neighbours_could_have_shown() -> (
    None
):
    found = dose_response("a", "form", "maximise", line_rows(rise=0.1)).model_copy(
        update={"holm": 1e-9, "item_stderr": 0.03}
    )
    # Five curves: 2.58 times the root of 2 times 0.03 is 0.109.
    assert not found.model_copy(update={"n_curves": 5}).is_shown
    # A parabola passes through three points freely, with three differences: 2.39 in place of 1.96, so 0.102.
    assert not found.model_copy(update={"shape": "parabola"}).is_shown


def test_doses_that_are_the_same_steps_on_the_same_rows_are_one_point() -> None:
    def n_points(*asked_trained_seed: tuple[int, int, int]) -> int:
        records = []
        for number, (asked, n_tokens, seed) in enumerate(asked_trained_seed):
            made = recipe(("a", asked))
            stage = trained(Proposal(number, {}, made, None), n_tokens)
            stages = (stage.model_copy(update={"seed": seed}),)
            record = World(nothing, 0).record(made, number)
            records.append(record.model_copy(update={"stages": stages}))
        return len(dose_rows(Known.of(records), ["form"])["a", "form"])

    assert n_points((500, 512, 7), (510, 512, 7), (600, 640, 7)) == 2
    assert n_points((500, 512, 7), (510, 512, 8), (600, 640, 7)) == 3


def line_rows(rise: float) -> np.ndarray:
    """Ten doses from 100 to 10,000, the score before, the learning rate, and a change that grows with the logarithm."""
    doses = np.geomspace(100, 10_000, 10)
    change = rise * np.log(doses / 100) / np.log(100) + 1e-5 * np.cos(np.arange(10))
    return np.column_stack([doses, np.full(10, 0.3), np.full(10, 1e-4), change])


def test_a_dose_beyond_which_the_score_falls_has_not_saturated() -> None:
    # Steeper at first than a parabola, and a fall that is small beside the rise: of all shapes saturation fits best.
    doses = np.geomspace(200, 7000, 24)
    rise = 0.4 * (1 - np.exp(-doses / 300))
    fall = 0.02 * np.log(np.maximum(doses / 1800, 1))
    wobble = np.array([0.001 * ((at * 7) % 5 - 2) for at in range(24)])

    def found(change: NDArray[np.float64]) -> DoseResponse:
        rows = np.column_stack([doses, np.zeros(24), np.full(24, 1e-3), change + wobble])
        return dose_response("a", "form", "maximise", rows)

    falling, level = found(rise - fall), found(rise)
    assert falling.shape == level.shape == "saturating"
    assert level.saturates_at is not None
    assert falling.saturates_at is None
