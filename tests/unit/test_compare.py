"""Two models side by side: recipes aligned, scores paired, verdicts inside the noise; expectations by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from evaluators.scores import Item, Score
from evaluators.stats import share_estimate
from search.compare.compared import Compared, Cost, verdict
from search.compare.outputs import alike, output_differences
from search.compare.recipes import stage_differences
from search.compare.scores import ScoreDifference, Side, Spreads, score_differences
from spaces.recipe import Full, Lora, Recipe, Stage


def stage(influence: str = "tone", rank: int = 4, dose: int = 1000) -> Stage:
    return Stage(
        influence=influence,
        method="sft",
        adapter=Lora(rank=rank, alpha=8.0),
        mix={"chat": 1.0},
        dose_tokens=dose,
        learning_rate=1e-3,
    )


def test_stages_are_matched_in_order_and_only_what_differs_is_told() -> None:
    first = Recipe(stages=(stage(), stage("form"), stage("taste")))
    second = Recipe(stages=(stage(rank=8, dose=500), stage("taste"), stage("form")))
    found = stage_differences(first, second)
    assert [(each.influence, each.a, each.b) for each in found] == [
        ("tone", 1, 1),
        ("taste", None, 2),
        ("form", 2, 3),
        ("taste", 3, None),
    ]
    assert found[0].values == {"adapter.rank": (4, 8), "dose_tokens": (1000, 500)}
    assert found[2].values == {}
    full = Recipe(stages=(stage().model_copy(update={"adapter": Full()}),))
    (other,) = stage_differences(Recipe(stages=(stage(),)), full)
    assert other.values["adapter.kind"] == ("lora", "full")
    assert other.values["adapter.rank"] == (4, None)
    assert stage_differences(Recipe(), Recipe()) == ()


def share(passed: Sequence[float], name: str = "tone") -> Score:
    return Score(
        name=name,
        value=sum(passed) / len(passed),
        stderr=share_estimate(passed).stderr,
        n=len(passed),
        unit="share",
        direction="maximise",
    )


def side(
    passed: Sequence[float], prompts: Sequence[str] | None = None, trained: bool = True
) -> Side:
    texts = prompts or [f"prompt {at}" for at in range(len(passed))]
    items = [
        Item(evaluator="tone", index=at, prompt=text, values={"passed": value})
        for at, (value, text) in enumerate(zip(passed, texts, strict=True))
    ]
    return Side({("tone", False): share(passed)}, {False: items, True: []}, trained)


def compared(first: Side, second: Side, spreads: Spreads | None = None) -> ScoreDifference:
    (found,) = score_differences(first, second, {"tone": "maximise"}, {}, spreads or Spreads())
    return found


def test_difference_is_paired_over_the_items_both_were_asked() -> None:
    # Both fail the same 4 of 8 but one: differences 1, 0, ... 0; mean 1/8, sd sqrt(1/8), stderr 1/8.
    first, second = [1.0] * 4 + [0.0] * 4, [1.0] * 5 + [0.0] * 3
    found = compared(side(first), side(second))
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.125)
    assert found.difference.stderr == pytest.approx(0.125)
    assert found.n_items == 8
    # Student's quantile with 7 degrees of freedom.
    assert found.difference.high == pytest.approx(0.125 + 2.3646 * 0.125, abs=1e-4)
    assert found.verdict == "no difference seen"


def test_prompt_asked_twice_counts_once() -> None:
    prompts = [f"prompt {at // 2}" for at in range(8)]
    first, second = [0.0] * 8, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    found = compared(side(first, prompts), side(second, prompts))
    assert found.difference is not None
    # Cluster means 1, 0, 0, 0: mean 1/4, sd 1/2, stderr 1/4.
    assert (found.n_items, found.difference.stderr) == (4, pytest.approx(0.25))


def test_models_that_agree_on_every_item_are_not_shown_to_be_equal() -> None:
    all_pass = [1.0] * 8
    found = compared(side(all_pass), side(all_pass))
    assert found.difference is not None
    assert found.difference.value == 0
    # Each share has (8 + 2) / 12 with stderr sqrt(p (1 - p) / 12); the two are taken as unrelated.
    p = 10 / 12
    assert found.difference.stderr == pytest.approx(math.sqrt(2 * p * (1 - p) / 12))
    assert found.verdict == "no difference seen"


def test_other_items_are_not_paired() -> None:
    found = compared(side([1.0] * 8), side([0.0] * 8, [f"other {at}" for at in range(8)]))
    assert found.difference is not None
    assert found.n_items == 0
    assert found.verdict == "worse"


def test_spread_between_trainings_widens_the_interval_but_not_for_the_base() -> None:
    first, second = [1.0, 0.0] * 10, [1.0] * 15 + [0.0] * 5
    narrow = compared(side(first), side(second))
    spreads = Spreads({("tone", False): (0.04, 6)})
    wide = compared(side(first), side(second), spreads)
    half = compared(side(first, trained=False), side(second), spreads)
    errors = [each.difference.stderr for each in (narrow, wide, half) if each.difference]
    assert errors[1] == pytest.approx(math.sqrt((errors[0] or 0) ** 2 + 0.08))
    assert errors[2] == pytest.approx(math.sqrt((errors[0] or 0) ** 2 + 0.04))


def test_missing_score_is_not_compared_and_says_why() -> None:
    gone = Score(
        name="tone",
        value=None,
        stderr=None,
        n=0,
        unit="share",
        direction="maximise",
        status="missing",
        reason="the judge was silent",
    )
    found = compared(side([1.0] * 4), Side({("tone", False): gone}, {False: [], True: []}, True))
    assert (found.verdict, found.difference) == ("unknown", None)
    assert found.reason == "the second has no value: the judge was silent"


def test_correction_is_over_objectives_and_apart_over_all_else() -> None:
    passed = [1.0] * 14 + [0.0] * 6
    names = [f"other{at}" for at in range(4)]
    first, second = side([1.0, 0.0] * 10), side(passed)
    alone = compared(first, second)
    flat = {(name, False): share([1.0, 0.0] * 10, name) for name in names}
    many = score_differences(
        Side({**first.scores, **flat}, first.items, True),
        Side({**second.scores, **flat}, second.items, True),
        {"tone": "maximise", "other0": "maximise"},
        {},
        Spreads(),
    )
    assert [each.name for each in many[:2]] == ["tone", "other0"]
    assert alone.difference is not None
    assert many[0].difference is not None
    # Two objectives are corrected together; three other scores are another family.
    assert many[0].difference.holm == pytest.approx(min(1.0, 2 * (alone.difference.p or 0)))


COST = Cost(n_stages=1, trained_tokens=1, train_seconds=1.0, most_trainable=1, trial_seconds=1.0)


def both(*scores: ScoreDifference, knows_training: bool = True) -> list[str]:
    return verdict(
        Compared(
            a="trial 3",
            b="trial 7",
            a_recipe="",
            b_recipe="",
            stages=(),
            scores=scores,
            a_cost=COST,
            b_cost=COST,
            a_broken=(),
            b_broken=("retention.kl <= 0.2",),
            outputs=(),
            knows_training=knows_training,
            notes=(),
        )
    )


def test_verdict_says_better_only_for_what_is_shown() -> None:
    better = compared(side([0.0] * 12 + [1.0] * 8), side([1.0] * 20))
    worse = compared(side([1.0] * 20), side([0.0] * 12 + [1.0] * 8)).model_copy(
        update={"name": "form"}
    )
    same = compared(side([1.0, 0.0] * 10), side([0.0, 1.0] * 10)).model_copy(
        update={"name": "kind"}
    )
    assert (better.verdict, worse.verdict, same.verdict) == (
        "better",
        "worse",
        "no difference seen",
    )
    assert both(better, same)[0] == (
        "Trial 7 is better than trial 3 in tone. In one objective no difference is shown."
    )
    assert both(better, worse)[0] == (
        "Trial 7 and trial 3 trade: trial 7 is better in tone and worse in form."
    )
    # From one training each nothing is said of recipes.
    assert both(better, knows_training=False)[0] == (
        "As models, one training each: trial 7 is better than trial 3 in tone."
    )
    told = both(same)
    assert told[0] == (
        "Trial 7 and trial 3 cannot be told apart: no objective differs beyond the noise."
    )
    assert not any("better" in line for line in told)
    assert told[-1].startswith("Trial 7 does not keep retention.kl <= 0.2")


def test_score_that_falls_is_better_where_less_is_wanted() -> None:
    found = compared(side([1.0] * 20), side([0.0] * 20)).model_copy(
        update={"direction": "minimise"}
    )
    assert found.verdict == "better"


def item(index: int, output: str, passed: float | None = None, prompt: str = "") -> Item:
    values = {} if passed is None else {"passed": passed}
    return Item(
        evaluator="tone", index=index, prompt=prompt or f"p{index}", output=output, values=values
    )


def test_replies_that_count_differently_come_first_and_equal_ones_not_at_all() -> None:
    first = [item(0, "a b c d", 1.0), item(1, "a b", 1.0), item(2, "same", 0.0), item(3, "x", 1.0)]
    second = [
        item(0, "e f g h", 1.0),
        item(1, "a c", 0.0),
        item(2, "same", 0.0),
        item(3, "y", 1.0, "q"),
    ]
    base = [item(1, "base")]
    found = output_differences(
        *[[(False, each) for each in items] for items in (first, second, base)], n=5
    )
    # Prompt 3 is another one for the second model, prompt 2 was answered alike.
    assert [each.index for each in found] == [1, 0]
    assert (found[0].base, found[1].base) == ("base", None)
    assert found[0].alike == 0.5


def test_words_in_order_make_texts_alike() -> None:
    assert alike("", "") == 1.0
    assert alike("one two three", "one two four") == pytest.approx(4 / 6)
    assert alike("one two", "two one") == 0.5
