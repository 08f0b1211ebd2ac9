"""The first n items: their order, what a suite says of them, and that no item is asked twice."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from tiny import write_model

from evaluators.base import Row
from evaluators.models import LoadedModel
from evaluators.remembering import RememberingModel
from evaluators.reply_specs import PatternSpec
from evaluators.spec import LikelihoodSpec, PreferenceSpec, RetentionSpec
from evaluators.subset import first_rows_of, nested_order
from evaluators.suite import Suite

ROWS: list[Row] = [{"prompt": f"question {n}", "kind": "abc"[n % 3]} for n in range(30)]
PATTERN = {"evaluator": "pattern", "source": "ask", "max_new_tokens": 4}
SPECS = {
    "form": PatternSpec.model_validate(
        PATTERN | {"rules": ({"rule": "length", "unit": "words", "at_most": 2},)}
    ),
    "taste": PreferenceSpec(evaluator="preference", source="pairs"),
    "prose": LikelihoodSpec(evaluator="likelihood", source="texts", max_tokens=32),
    "retention": RetentionSpec(evaluator="retention", source="texts", max_tokens=32),
}
SOURCES: dict[str, list[Row]] = {
    "ask": [{"prompt": f"the cat says {n}"} for n in range(20)],
    "pairs": [
        {"prompt": f"the dog says {n}", "chosen": " hello to you", "rejected": " the cat"}
        for n in range(16)
    ],
    # Two equal texts, and one in several windows.
    "texts": [{"text": f"the cow says hello {n} to you. " * (1 + 9 * (n == 3))} for n in range(9)]
    + [{"text": "the cow says hello 0 to you. "}] * 2,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("fidelity") / "model"
    write_model(folder)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("seed", [0, 7])
def test_smaller_parts_lie_in_larger_ones_and_hold_each_kind_in_its_share(seed: int) -> None:
    shares = (0.3, 0.5, 0.8, 1.0)
    found = [set(first_rows_of(ROWS, share, seed)) for share in shares]
    assert [len(each) for each in found] == [9, 15, 24, 30]
    assert all(small < large for small, large in itertools.pairwise(found))
    for each, n_of_a_kind in zip(found, (3, 5, 8, 10), strict=True):
        assert [sum(n % 3 == kind for n in each) for kind in range(3)] == [n_of_a_kind] * 3


def test_another_seed_takes_other_rows_and_the_same_one_the_same() -> None:
    assert first_rows_of(ROWS, 0.5, 1) == first_rows_of(list(ROWS), 0.5, 1)
    assert first_rows_of(ROWS, 0.5, 1) != first_rows_of(ROWS, 0.5, 2)


def test_rows_added_later_change_the_order_of_no_two_others_of_their_kind() -> None:
    more: list[Row] = [
        *ROWS[:10],
        *({"prompt": f"new {n}", "kind": "a"} for n in range(9)),
        *ROWS[10:],
    ]
    before = [str(ROWS[at]["prompt"]) for at in nested_order(ROWS)]
    after = [str(more[at]["prompt"]) for at in nested_order(more)]
    for kind in "abc":
        own = {row["prompt"] for row in ROWS if row["kind"] == kind}
        assert [each for each in before if each in own] == [each for each in after if each in own]


def test_groups_and_equal_prompts_are_never_parted() -> None:
    grouped: list[Row] = [{"prompt": f"p {n}", "group": n // 4} for n in range(40)]
    twice: list[Row] = [{"prompt": f"p {n % 20}"} for n in range(40)]
    for rows, size in ((grouped, 4), (twice, 2)):
        for share in (0.25, 0.4, 0.55):
            chosen = first_rows_of(rows, share)
            names = [str(rows[at].get("group", rows[at]["prompt"])) for at in chosen]
            assert {names.count(name) for name in names} == {size}
            assert share * 40 <= len(chosen) < share * 40 + size


def test_few_rows_are_taken_whole_and_never_fewer_than_eight() -> None:
    assert len(first_rows_of(ROWS, 0.01)) == 8
    assert len(first_rows_of(ROWS[:5], 0.5)) == 5
    with pytest.raises(ValueError, match=r"lies in \(0, 1\], got 0"):
        first_rows_of(ROWS, 0.0)


def test_scores_of_a_part_say_its_share_and_items_keep_their_places(
    parts: tuple[object, object],
) -> None:
    model = LoadedModel(*parts)
    whole = Suite(SPECS, SOURCES, Path())
    some = Suite(SPECS, SOURCES, Path(), dict.fromkeys(SPECS, 0.5) | {"taste": 1.0})
    assert whole.version != some.version
    assert some.version != Suite(SPECS, SOURCES, Path(), dict.fromkeys(SPECS, 0.5)).version
    full = whole.measure(model, whole.reference(model))
    part = some.measure(model, some.reference(model))
    form, taste = part["form"].scores[0], part["taste"].scores[0]
    assert (form.n, form.fidelity) == (10, 0.5)
    assert (taste.n, taste.fidelity, taste) == (16, 1.0, full["taste"].scores[0])
    indices = [item.index for item in part["form"].items]
    assert indices == list(first_rows_of(SOURCES["ask"], 0.5))
    for name in ("form", "prose", "retention"):
        by_index = {item.index: item for item in full[name].items}
        for item in part[name].items:
            same = by_index[item.index]
            assert (item.prompt, item.output) == (same.prompt, same.output)
            assert item.values == pytest.approx(same.values, rel=1e-4, abs=1e-4)
    # By hand, from the items of the whole: 10 of 20 count.
    passed = [by.values["passed"] for by in full["form"].items if by.index in indices]
    assert form.value == pytest.approx(np.mean(passed))


def test_after_the_first_items_only_the_others_are_asked(
    parts: tuple[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[int]] = {}

    def counting(name: str) -> None:
        plain = getattr(LoadedModel, name)

        def counted(self: LoadedModel, each: list[object], *rest: object) -> object:
            asked.setdefault(name, []).append(len(each))
            return plain(self, each, *rest)

        monkeypatch.setattr(LoadedModel, name, counted)

    whole = Suite(SPECS, SOURCES, Path())
    some = Suite(SPECS, SOURCES, Path(), dict.fromkeys(SPECS, 0.5))
    plain = LoadedModel(*parts)
    references = some.reference(plain), whole.reference(plain)
    expected = whole.measure(plain, references[1])
    for name in ("generate", "completion_logps", "text_nats", "text_changes"):
        counting(name)
    model = RememberingModel(*parts)
    some.measure(model, references[0])
    found = whole.measure(model, references[1])
    # 20 prompts, 16 pairs; of 11 texts two repeat the first, and equal texts stay together.
    assert asked["generate"] == [10, 10]
    assert asked["completion_logps"] == [8, 8]
    assert sum(asked["text_nats"]) == sum(asked["text_changes"]) == 9
    assert len(asked["text_changes"]) == 2
    for name, measurement in expected.items():
        for score, again in zip(measurement.scores, found[name].scores, strict=True):
            assert again.fidelity == 1.0
            assert again.value == pytest.approx(score.value, rel=1e-4, abs=1e-5)


def test_retention_s_own_passages_are_taken_from_the_front() -> None:
    spec = {"retention": RetentionSpec(evaluator="retention")}
    suite = Suite(spec, {}, Path(), {"retention": 0.6})
    assert len(suite.evaluators[0].texts) == 10  # type: ignore[attr-defined]
    assert suite.parts["retention"].fidelity == 10 / 16
