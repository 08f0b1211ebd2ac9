"""Where stages stop in their sources, in series and in branches."""

from __future__ import annotations

from typing import Any

import pytest
from prefix_tools import bits, equal, prefixes, sft_stage, train_all
from stage_tools import lora, stage

from search.stages.going_on import Before, draws_again, places_after
from search.stages.mix import Place, Places
from spaces.parallel import Branch, Parallel
from spaces.recipe import Recipe
from spaces.stage import Stage

CHAT = ("sft", "chat/0")


def plan(one: Stage, seed: int, places: Places) -> Places:
    """A row a hundred tokens, of its one source."""
    key = (one.method, f"{next(iter(one.mix))}/0")
    before = places.get(key, Place(seed, 0))
    return {**places, key: Place(before.seed, before.n_rows + one.dose_tokens // 100)}


def before(n_rows: int, seed: int, **changes: Any) -> Before:
    return Before(stage(dose_tokens=100 * n_rows, **changes), seed)


def test_stages_in_series_go_on_in_the_order_that_the_first_began() -> None:
    places = places_after([before(2, 5), before(3, 6), before(4, 7, mix={"done": 1.0})], plan)
    assert places == {CHAT: Place(5, 5), ("sft", "done/0"): Place(7, 4)}


def test_behind_branches_a_source_stands_where_the_furthest_branch_left_it() -> None:
    fork = ((before(3, 6),), (before(1, 7), before(4, 8)), (before(5, 9, mix={"done": 1.0}),))
    assert places_after([before(2, 5), fork], plan) == {
        CHAT: Place(5, 2 + 5),
        ("sft", "done/0"): Place(9, 5),
    }
    # Branches that began an order of their own: the order of the furthest, of two equally far the first.
    assert places_after([fork], plan)[CHAT] == Place(7, 5)
    assert places_after([((before(3, 6),), (before(3, 7),))], plan)[CHAT] == Place(6, 3)


@pytest.mark.parametrize(
    ("changes", "is_again"),
    [({}, True), ({"mix": {"done": 1.0}}, False), ({"method": "dpo"}, False)],
)
def test_only_the_same_loss_on_the_same_source_draws_again(
    changes: dict[str, Any], is_again: bool
) -> None:
    fork = ((before(3, 6),), ())
    assert draws_again(stage(**changes), [fork], {}) == is_again


def parallel(*influences: str) -> Parallel:
    branches = {
        name: Branch(stages=(sft_stage(lora(), name, source),), weight=0.5)
        for name, source in zip(influences, ("chat", "done"), strict=True)
    }
    return Parallel(influence="apart", branches=branches)


def test_a_stage_behind_branches_is_named_and_trained_as_one_that_goes_on() -> None:
    fork, again = parallel("left", "right"), sft_stage(lora())
    recipe = Recipe(stages=(fork, again))
    assert [recipe.goes_on(at, {}) for at in (0, 1)] == [False, True]
    assert Recipe(stages=(again, fork)).goes_on(1, {})
    walk, found = train_all(recipe, None)
    assert equal(found, bits(prefixes(recipe, None).model(2).model))
    earlier = walk._earlier(2)
    branch = recipe.branch(1, "left")
    seeds = walk._naming.seeds(branch)
    assert earlier[0][0] == (Before(branch.stages[0], seeds[0]),)  # type: ignore[index]
