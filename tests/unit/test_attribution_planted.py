"""Explanations of worlds whose truth is known: found in at least 19 of 20, and nothing claimed where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from planted import (
    MARGIN,
    Law,
    World,
    dose_law,
    dosed_recipes,
    flat,
    growing,
    harm_after,
    nothing,
    one_useless,
    order_matters,
    recipe,
    saturating,
    turning,
    two_redundant,
)

from search.attribution.dose import DoseResponse, dose_responses
from search.attribution.explanation import explain
from search.attribution.lattice import Lattice
from search.attribution.order import OrderEffects, designed, order_effects, order_sentence
from search.attribution.verdicts import Verdict, verdicts

SEEDS = range(20)
ABC, AB = recipe("a", "b", "c"), recipe("a", "b")
SCORES = {"form": "maximise", "drift": "minimise"}
MARGINS = dict.fromkeys(SCORES, MARGIN)


def claims(law: Law, seed: int, seeds: Sequence[int] = (0,), spread: float = 0.0) -> list[Verdict]:
    lattice = Lattice(ABC)
    subsets = [lattice.subset(subset) for subset in lattice.subsets()]
    world = World(law, seed, seed_spread=spread)
    known = world.known([each for each in subsets if each is not None], seeds)
    return verdicts(explain(known, 0, ABC, SCORES, MARGINS))


def said(law: Law, seed: int, kind: str) -> set[tuple[tuple[str, ...], str | None]]:
    return {(claim.units, claim.score) for claim in claims(law, seed) if claim.kind == kind}


def test_a_useless_stage_is_found_and_no_other_is_called_so() -> None:
    assert sum(said(one_useless, s, "useless") == {(("c",), None)} for s in SEEDS) >= 19


def test_a_stage_that_harms_after_another_is_found_with_the_other() -> None:
    assert sum(said(harm_after, s, "harmful") == {(("b", "a"), "form")} for s in SEEDS) >= 19


def test_two_stages_that_stand_in_for_each_other_are_found() -> None:
    assert sum(said(two_redundant, s, "redundant") == {(("a", "b"), "form")} for s in SEEDS) >= 19


def test_where_nothing_does_anything_nothing_is_claimed() -> None:
    wrong = [s for s in SEEDS if any(c.kind != "useless" for c in claims(nothing, s))]
    assert len(wrong) <= 1


def test_training_noise_is_no_effect_once_seeds_tell_how_large_it_is() -> None:
    def n_wrong(seeds: Sequence[int]) -> int:
        found = (claims(nothing, s, seeds, spread=0.03) for s in SEEDS)
        return sum(any(c.kind != "useless" for c in each) for each in found)

    assert n_wrong((0, 1, 2)) <= 1
    assert n_wrong((0,)) > 5, "one seed cannot know, which is why explanations say so"


def orders(law: Law, seed: int) -> OrderEffects:
    recipes = [AB, *(other for _, other in designed(AB) if other is not None)]
    return order_effects(World(law, seed).known(recipes), AB, SCORES)


def shown(effects: OrderEffects) -> set[tuple[str, str]]:
    return {
        (comparison.what, name)
        for comparison in effects.comparisons
        for name, effect in comparison.effects.items()
        if effect.is_shown
    }


def test_the_better_order_is_found_and_repeats_that_do_nothing_are_not() -> None:
    truth = {("b first instead of last", "form")}
    assert sum(shown(orders(order_matters, s)) == truth for s in SEEDS) >= 19
    assert sum(bool(shown(orders(nothing, s))) for s in SEEDS) <= 1


def test_the_sentence_on_order_follows_the_data() -> None:
    effects = orders(order_matters, 3)
    better = next(c for c in effects.comparisons if c.what == "b first instead of last")
    assert order_sentence(better).startswith("b first instead of last: form +0.1")
    assert "drift" in order_sentence(better)
    assert order_sentence(better).endswith("(n.s.)")

    def turned(stages: object) -> dict[str, float]:
        values = order_matters(stages)  # type: ignore[arg-type]
        return {**values, "form": -values["form"]}

    worse = next(c for c in orders(turned, 3).comparisons if c.what == better.what)
    assert order_sentence(worse).startswith("b first instead of last: form -0.1")
    none = next(c for c in orders(nothing, 3).comparisons if c.what == better.what)
    assert order_sentence(none).count("(n.s.)") == 2


def test_the_sentences_on_stages_follow_the_data() -> None:
    (found,) = [c for c in claims(harm_after, 2) if c.kind == "harmful"]
    assert found.text.startswith("Without b the recipe's form would be better: b changes it by -0.")
    assert "after a, and by +0." in found.text

    def mended(stages: object) -> dict[str, float]:
        values = harm_after(stages)  # type: ignore[arg-type]
        return {**values, "form": -values["form"]}

    texts = [c.text for c in claims(mended, 2) if c.score == "form"]
    assert not any("Without b" in text for text in texts)
    assert any(text.startswith("b improves form: +") for text in texts)


def doses(response: Callable[[int], float], seed: int) -> dict[tuple[str, str], DoseResponse]:
    world = World(dose_law(response), seed, stderr=0.03)
    found = dose_responses(world.known(dosed_recipes(seed)), SCORES)
    return {(each.influence, each.score): each for each in found}


def test_a_dose_beyond_which_more_does_harm_is_found() -> None:
    found = [doses(turning, s)[("a", "form")].turns_at for s in SEEDS]
    assert sum(each is not None and each.low < 4000 < each.high for each in found) >= 18
    assert sum(each is not None for each in found) >= 19


def test_saturation_is_found_and_not_called_harm() -> None:
    found = [doses(saturating, s)[("a", "form")] for s in SEEDS]
    assert sum(each.saturates_at is not None for each in found) >= 19
    assert sum(each.turns_at is not None for each in found) <= 1


def test_a_dose_that_only_helps_has_no_point_of_harm_or_saturation() -> None:
    found = [doses(growing, s)[("a", "form")] for s in SEEDS]
    assert all(each.is_shown for each in found)
    assert sum(each.turns_at is not None or each.saturates_at is not None for each in found) <= 1


def test_of_doses_that_do_not_matter_nothing_is_claimed() -> None:
    wrong = [s for s in SEEDS if any(each.is_shown for each in doses(flat, s).values())]
    assert len(wrong) <= 1


@pytest.mark.parametrize(("n", "reason"), [(3, "boundaries; 8 are needed")])
def test_a_few_points_make_no_curve(n: int, reason: str) -> None:
    world = World(dose_law(growing), 0)
    found = dose_responses(world.known(dosed_recipes(0, n)), SCORES)
    assert all(each.shape is None and reason in (each.reason or "") for each in found)
