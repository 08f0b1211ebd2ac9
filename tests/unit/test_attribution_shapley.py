"""Shapley values, interactions and subsets: against games worked out by hand, and what is missing with its price."""

from __future__ import annotations

import pytest
from planted import World, nothing, recipe, stage

from search.attribution.dose import dose_responses
from search.attribution.explanation import explain, permutations_of
from search.attribution.known import Known, recipe_key
from search.attribution.lattice import Lattice, Subset
from search.attribution.missing import Budget, Pricing
from search.attribution.noise import Estimate
from search.attribution.routes import recipe_distance
from search.attribution.shapley import (
    chain,
    drawn_permutations,
    interaction_weights,
    sampled_shapley,
    shapley_weights,
    weighted,
)
from search.attribution.wishes import wanted_for
from search.errors import SpecError, StudyError
from search.plan import measured_speeds
from spaces.parallel import Branch
from spaces.recipe import Lora, Parallel, Recipe

ABC = recipe("a", "b", "c")
FORM = {"form": "maximise"}


def glove_game(subset: Subset) -> Estimate:
    """Unit 0 holds a left glove, 1 and 2 a right one each; a pair is worth 1."""
    return Estimate(float(0 in subset and bool(subset & {1, 2})), 0.0)


def additive_game(subset: Subset) -> Estimate:
    return Estimate(sum(unit + 1.0 for unit in subset), 0.01)


def test_shapley_values_of_the_glove_game_are_four_and_one_and_one_sixth() -> None:
    found = [weighted(shapley_weights(3, unit), glove_game) for unit in range(3)]
    assert [each.value for each in found if each] == pytest.approx([4 / 6, 1 / 6, 1 / 6])


def test_the_two_right_gloves_stand_in_for_each_other() -> None:
    # Only with the left one there do they interact, by 1 - 1 - 1 + 0; half of the sets without them hold it.
    found = weighted(interaction_weights(3, 1, 2), glove_game)
    assert found is not None
    assert found.value == pytest.approx(-0.5)
    one = weighted(interaction_weights(3, 0, 1), glove_game)
    assert one is not None
    assert one.value == pytest.approx(0.5)  # 1 without the other right glove, 0 with it


def test_noise_of_a_shapley_value_follows_from_that_of_its_subsets() -> None:
    found = weighted(shapley_weights(2, 0), additive_game)
    assert found is not None
    # Four subsets, each with weight one half: sqrt(4 * 0.25 * 0.01).
    assert (found.value, found.stderr) == pytest.approx((1.0, 0.1))


def test_a_value_from_some_permutations_tells_its_error_and_claims_nothing() -> None:
    drawn = drawn_permutations(3, seed=1)
    assert len(set(drawn)) == 6
    known = {subset for permutation in drawn[:2] for subset in chain(permutation)}

    def scored(subset: Subset) -> Estimate | None:
        return glove_game(subset) if subset in known else None

    first = [glove_game_gain(permutation, 0) for permutation in drawn[:2]]
    found = sampled_shapley(3, 0, drawn, scored)
    assert found is not None
    assert found.value == pytest.approx(sum(first) / 2)
    assert found.p is None
    # Two values that differ by 1 have a variance of 0.5; of six permutations, two are drawn.
    spread = abs(first[0] - first[1])
    assert found.stderr == pytest.approx(spread * (0.5 / 2 * (1 - 2 / 6)) ** 0.5)


def glove_game_gain(permutation: tuple[int, ...], unit: int) -> float:
    before = frozenset(permutation[: permutation.index(unit)])
    return glove_game(before | {unit}).value - glove_game(before).value


def test_permutations_after_an_incomplete_one_are_not_used() -> None:
    drawn = [(0, 1), (1, 0)]
    every = {frozenset(s) for s in ((), (0,), (0, 1))}
    assert sampled_shapley(2, 0, drawn, lambda s: additive_game(s) if s in every else None) is None


def test_a_stage_that_goes_on_with_an_adapter_is_one_unit_with_it() -> None:
    lora = stage("a").model_copy(update={"adapter": Lora(rank=2, alpha=4.0)})
    first = lora.model_copy(update={"handoff": "continue"})
    lattice = Lattice(Recipe(stages=(first, lora, stage("b"), stage("b"))))
    assert lattice.labels == ["a+a", "b@2", "b@3"]
    subset = lattice.subset(frozenset({0, 2}))
    assert subset is not None
    assert subset.order_label() == "a > a > b"


def test_branches_that_run_side_by_side_are_left_out_together() -> None:
    branches = {name: Branch(stages=(stage(name),), weight=0.5) for name in ("b", "c")}
    both = Parallel(influence="both", branches=branches)
    made = Recipe(stages=(stage("a"), both))
    assert Lattice(made).labels == ["a", "both"]
    known = World(nothing, 0).known([made])
    wanted = wanted_for(known, made, [0], False, Budget(), lambda: pricing(known))
    assert [(each.label, each.tokens) for each in wanted.missing] == [("both", 2000)]
    # One of the two influences is common.
    assert recipe_distance(made, recipe("a")).influences == pytest.approx(0.5)
    assert recipe_distance(made, made).total == 0
    assert {each.influence for each in dose_responses(known, FORM)} == {"a"}


def test_three_units_are_compared_in_all_orders_and_more_by_moves() -> None:
    assert len(Lattice(ABC).other_orders()) == 5
    four = Lattice(recipe("a", "b", "c", "d")).other_orders()
    assert len(set(four)) == len(four) == 7  # 3 swaps, 4 to the front or end that are no swaps
    assert (3, 0, 1, 2) in four


def pricing(known: Known, has_store: bool = True) -> Pricing:
    return Pricing(known, measured_speeds([]), lambda digest: True, has_store)


def test_missing_recipes_share_what_they_begin_with() -> None:
    known = World(nothing, 0).known([ABC])
    wanted = wanted_for(known, ABC, [0], False, Budget(), lambda: pricing(known))
    # base, a, a > b and the whole are boundaries; a > c starts from a, b > c from b, which is trained before.
    assert {each.label: each.tokens for each in wanted.missing} == {
        "b": 1000,
        "c": 1000,
        "a > c": 1000,
        "b > c": 1000,
    }
    assert wanted.missing == wanted.chosen
    plain = wanted_for(known, ABC, [0], False, Budget(), lambda: pricing(known, has_store=False))
    assert {each.label: each.tokens for each in plain.missing}["a > c"] == 2000


def test_a_budget_buys_whole_permutations_in_the_order_drawn() -> None:
    known = World(nothing, 0).known([ABC])
    had = {frozenset(), frozenset("a"), frozenset("ab"), frozenset("abc")}
    expected: set[frozenset[str]] = set()
    for permutation in permutations_of(ABC):
        needed = {frozenset("abc"[at] for at in subset) for subset in chain(permutation)} - had
        if len(expected | needed) > 2:
            break
        expected |= needed
    wanted = wanted_for(known, ABC, [0], False, Budget(tokens=2000), lambda: pricing(known))
    assert len(wanted.missing) == 4
    # Each missing one costs 1,000 tokens here, since what it begins with is stored or bought.
    assert {frozenset(each.label.split(" > ")) for each in wanted.chosen} == expected
    assert sum(each.tokens for each in wanted.chosen) <= 2000


def test_budget_is_tokens_or_trials_and_all_else_is_refused() -> None:
    assert Budget.read("20k") == Budget(tokens=20000)
    assert Budget.read("1.5M") == Budget(tokens=1500000)
    assert Budget.read("4trials") == Budget(trials=4)
    for text in ("soon", "-3", "2.5trials", ""):
        with pytest.raises(SpecError, match="such as 20000"):
            Budget.read(text)


def test_the_base_has_nothing_to_explain() -> None:
    with pytest.raises(StudyError, match="untouched base"):
        explain(World(nothing, 0).known([ABC]), 0, Recipe(), {}, {})


def test_boundaries_of_another_suite_do_not_count() -> None:
    world = World(nothing, 0)
    record = world.record(ABC)
    other = world.record(recipe("b"), number=1)
    boundaries = tuple(b.model_copy(update={"suite_version": "new"}) for b in other.boundaries)
    known = Known.of([record, other.model_copy(update={"boundaries": boundaries})])
    assert known.n_left_out == 2
    assert known.estimate(recipe_key(recipe("b")), "form") is None
