"""What every evaluator promises, whatever it measures. A new one adds its spec to `SPECS`."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluator_kinds import ROWS, SPECS, judge_at_hand, load, suite_of, write_all
from pydantic import TypeAdapter
from tiny import ANIMALS

from evaluators.behaviours.cost import PARTS
from evaluators.facts import StageFacts
from evaluators.models import LoadedModel
from evaluators.scores import Measurement
from evaluators.spec import EvaluatorSpec
from evaluators.stats import (
    Estimate,
    jackknife_ratio,
    mean_estimate,
    ratio_estimate,
    share_estimate,
)
from evaluators.suite import EVALUATORS, Suite

LN2 = math.log(2)


def _column(found: Measurement, formula: Callable[[dict[str, float]], float]) -> list[float]:
    return [formula(item.values) for item in found.items]


def _share_above_0(column: list[float]) -> list[float]:
    return [0.5 if each == 0 else float(each > 0) for each in column]


def _harness(column: list[float]) -> Estimate:
    return share_estimate(column) if len(set(column)) == 1 else mean_estimate(column)


def _margin(v: dict[str, float]) -> float:
    return v["chosen_nats"] / v["chosen_tokens"] - v["rejected_nats"] / v["rejected_tokens"]


def _gain(v: dict[str, float]) -> float:
    chosen = v["chosen_nats"] - v["base_chosen_nats"]
    return chosen - (v["rejected_nats"] - v["base_rejected_nats"])


def _preference(found: Measurement) -> list[Estimate]:
    margins, gains = _column(found, _margin), _column(found, _gain)
    return [
        share_estimate(_share_above_0(margins)),
        mean_estimate(margins),
        mean_estimate(gains),
        share_estimate(_share_above_0(gains)),
    ]


def _retention(found: Measurement) -> list[Estimate]:
    change = _column(found, lambda v: (v["nats"] - v["base_nats"]) / LN2)
    kl = _column(found, lambda v: v["kl_nats"])
    return [
        ratio_estimate(change, _column(found, lambda v: v["bytes"])),
        ratio_estimate(kl, _column(found, lambda v: v["tokens"])),
    ]


def _distinct(found: Measurement, order: int) -> Estimate:
    new, own, total = (
        _column(found, lambda v: v[f"{what}_{order}"])  # noqa: B023 - called at once
        for what in ("new_ngrams", "own_ngrams", "ngrams")
    )
    return jackknife_ratio(sum(new), sum(total), own, total)


def _diversity(found: Measurement) -> list[Estimate]:
    means = [_column(found, lambda v: v[key]) for key in ("self_bleu", "repetition")]  # noqa: B023
    equal, empty, cut = (
        share_estimate(_column(found, lambda v: v[key]))  # noqa: B023
        for key in ("equal", "empty", "cut")
    )
    bleu, repetition = map(mean_estimate, means)
    return [_distinct(found, 1), _distinct(found, 2), bleu, equal, repetition, empty, cut]


def _consistency(found: Measurement) -> list[Estimate]:
    groups: dict[float, list[float]] = {}
    for each in found.items:
        groups.setdefault(each.values["group"], []).append(each.values["agree"])
    means = [sum(group) / len(group) for group in groups.values()]
    return [share_estimate(means), share_estimate(_column(found, lambda v: v["answered"]))]


def _refusal(found: Measurement) -> list[Estimate]:
    return [
        share_estimate(
            [each.values["refused"] for each in found.items if each.values["harmful"] == harmful]
        )
        for harmful in (1, 0)
    ]


def _multiple_choice(found: Measurement) -> list[Estimate]:
    def hit(v: dict[str, float], per_character: bool) -> float:
        worth = [v[f"nats_{at}"] / (v[f"characters_{at}"] if per_character else 1) for at in (0, 1)]
        return float(worth.index(max(worth)) == v["answer"])

    return [
        share_estimate(_column(found, lambda v: hit(v, per_character)))  # noqa: B023
        for per_character in (False, True)
    ]


def _cost(found: Measurement) -> list[Estimate]:
    columns = [_column(found, lambda v: v[part]) for part in PARTS]  # noqa: B023
    return [
        Estimate(combine(column), None)
        for column, combine in zip(columns, (sum, sum, max, sum, max), strict=True)
    ]


RECOMPUTED: dict[str, Callable[[Measurement], list[Estimate]]] = {
    "pattern": lambda found: [share_estimate(_column(found, lambda v: v["passed"]))],
    "diversity": _diversity,
    "consistency": _consistency,
    "refusal": _refusal,
    "style": lambda found: [mean_estimate(_column(found, lambda v: v["probability"]))],
    "reward_model": lambda found: [mean_estimate(_column(found, lambda v: v["reward"]))],
    "judge": lambda found: [mean_estimate(_column(found, lambda v: v["points"]))],
    "preference": _preference,
    "multiple_choice": _multiple_choice,
    "likelihood": lambda found: [
        ratio_estimate(
            _column(found, lambda v: v["nats"] / LN2), _column(found, lambda v: v["bytes"])
        )
    ],
    "retention": _retention,
    "cost": _cost,
    "harness": lambda found: [_harness(_column(found, lambda v: v["acc"]))],
}
"""Each score's value and standard error from the items, as the evaluator's card says."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("contract")
    write_all(root)
    with judge_at_hand(tmp_path_factory.mktemp("cache")):
        yield root


FACTS = tuple(
    StageFacts(
        tokens=100 + n,
        seconds=n / 2,
        trainable_parameters=8 * n,
        stored_parameters=n,
        peak_memory=2**n,
    )
    for n in range(6)
)


def measured(suite: Suite, model: LoadedModel, reference: Any, **options: bool) -> Measurement:
    return {**suite.measure(model, reference, **options), **suite.account(FACTS)}["it"]


def test_every_evaluator_is_under_contract() -> None:
    assert set(SPECS) == set(RECOMPUTED) == set(EVALUATORS)


@pytest.fixture(params=sorted(EVALUATORS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scores_follow_from_the_items_by_the_formula_of_the_card(
    kind: str, precision: str, root: Path
) -> None:
    suite = suite_of(kind, root)
    reference = suite.reference(load(root, precision=precision))
    found = measured(suite, load(root, 0.05, precision), reference)
    assert [score.reason for score in found.scores] == [None] * len(suite.infos)
    n_items = 3 if kind == "refusal" else 6  # each of its scores is of one half
    for score, expected in zip(found.scores, RECOMPUTED[kind](found), strict=True):
        assert score.value == pytest.approx(expected.value)
        assert score.stderr == pytest.approx(expected.stderr)
        assert (score.stderr is None) == (kind == "cost")
        assert score.n == n_items
    assert len(found.items) == 6


def test_scores_are_those_that_were_announced(kind: str, root: Path) -> None:
    suite = suite_of(kind, root)
    found = measured(suite, load(root), suite.reference(load(root)))
    announced = [(info.name, info.unit, info.direction) for info in suite.infos]
    assert [(score.name, score.unit, score.direction) for score in found.scores] == announced
    assert all(name == "it" or name.startswith("it.") for name, _, _ in announced)


def test_measuring_again_and_after_another_model_gives_the_same(kind: str, root: Path) -> None:
    suite, model = suite_of(kind, root), load(root, 0.05)
    reference = suite.reference(load(root))
    first = measured(suite, model, reference)
    measured(suite, load(root, 0.2), reference)
    assert measured(suite, model, reference) == first


def test_records_survive_json_and_the_reference_a_pickle(kind: str, root: Path) -> None:
    suite = suite_of(kind, root)
    reference = pickle.loads(pickle.dumps(suite.reference(load(root))))
    found = measured(suite, load(root, 0.05), reference)
    assert Measurement.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kept_reference_gives_the_very_scores_of_the_measured_one(
    kind: str, precision: str, root: Path
) -> None:
    suite, base = suite_of(kind, root), load(root, precision=precision)
    reference = suite.reference(base)
    files = suite.reference_files(reference)
    assert files is not None
    assert set(files) == set(reference.parts)
    kept = suite.read_reference(files, load(root, precision=precision))
    other = load(root, 0.05, precision)
    assert suite.measure(other, kept) == suite.measure(other, reference)


def test_base_has_the_scores_that_measuring_it_like_any_model_gives(kind: str, root: Path) -> None:
    suite, base = suite_of(kind, root), load(root)
    reference = suite.reference(base)
    assert measured(suite, base, reference, is_base=True) == measured(suite, base, reference)


@pytest.mark.parametrize("kind", ["preference", "retention"])
@pytest.mark.parametrize("data", [b"", b"{}", b"[[[-1.0, 1], [NaN, 1]]]", b"\x80\x04N."])
def test_kept_reference_that_is_none_is_refused(kind: str, data: bytes, root: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        suite_of(kind, root).read_reference({"it": data}, load(root))


@pytest.mark.parametrize("kind", ["preference", "retention"])
def test_kept_reference_of_less_data_is_refused(kind: str, root: Path) -> None:
    spec = TypeAdapter(EvaluatorSpec).validate_python(
        {"evaluator": kind, **SPECS[kind], "limit": 5}
    )
    less, base = Suite({"it": spec}, ROWS, root), load(root)
    files = less.reference_files(less.reference(base))
    assert files is not None
    with pytest.raises(ValueError, match="reference"):
        suite_of(kind, root).read_reference(files, base)


def test_items_are_numbered_in_the_order_of_the_data(kind: str, root: Path) -> None:
    suite = suite_of(kind, root)
    found = measured(suite, load(root), suite.reference(load(root)))
    assert [item.index for item in found.items] == list(range(6))
    assert {item.evaluator for item in found.items} == {"it"}
    shown = [ANIMALS[item.index] in (item.prompt or "") for item in found.items]
    assert shown == [kind != "cost"] * 6


def test_weights_that_are_not_finite_give_missing_scores_and_no_number(
    kind: str, root: Path
) -> None:
    if kind == "cost":
        pytest.skip("it does not look at weights")
    suite, model = suite_of(kind, root), load(root)
    for parameter in model.model.parameters():
        parameter.data[:] = float("nan")
    scores = suite.measure(model, suite.reference(load(root)))["it"].scores
    assert [score.status for score in scores] == ["missing"] * len(scores)
    assert all(score.reason and "finite" in score.reason for score in scores)


def test_model_keeps_its_weights_mode_and_gradients_flags(kind: str, root: Path) -> None:
    suite, model = suite_of(kind, root), load(root, precision="bfloat16")
    model.model.train()
    model.model.lm_head.requires_grad_(False)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.model.parameters()]
    suite.measure(model, suite.reference(model))
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert all(module.training for module in model.model.modules())
    assert [parameter.requires_grad for parameter in model.model.parameters()] == flags


def test_class_has_a_version_and_its_module_a_card(kind: str) -> None:
    import importlib

    module_name, class_name = EVALUATORS[kind].split(":")
    module = importlib.import_module(module_name)
    assert getattr(module, class_name).version >= 1
    for heading in ("Claim ", "Data ", "Values ", "Version ", "Limits "):
        assert f"\n{heading}" in (module.__doc__ or "")
