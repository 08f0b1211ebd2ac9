"""The stage-wise sampler on repeats with doses of their own, on rounds, and on doses that may be 0."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import optuna
import pytest

from search.sampling.samplers import CONDITIONAL, SAMPLERS, make_sampler
from search.sampling.stagewise import StagewiseSampler
from search.sampling.stagewise.past import as_boundary
from search.sampling.stagewise.tree import Node, Step, Tree
from search.spec import SamplerSpec
from spaces.influence import InfluenceSpec, ParallelSpec
from spaces.order import OrderSpec
from spaces.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)
FACTOR = {"low": 0.25, "high": 2.0, "log": True}


def space_of(order: dict[str, Any], **changes: dict[str, Any]) -> Space:
    given = {
        "method": "sft",
        "adapter": {"kind": "lora", "rank": 4},
        "mix": {"chat": 1.0},
        "dose_tokens": {"low": 100, "high": 900},
        "learning_rate": 1e-3,
    }
    influences = {
        name: InfluenceSpec.model_validate_json(json.dumps(given | changes.get(name, {})))
        for name in ("a", "b")
    }
    return Space(influences, OrderSpec.model_validate_json(json.dumps(order)))


REPEATED = space_of({"max_repeats": 3, "max_stages": 4}, a={"repeat": {"dose_factor": FACTOR}})
FIXED = space_of(
    {"max_repeats": 3, "max_stages": 4},
    a={"dose_tokens": 400, "repeat": {"dose_factor": FACTOR}},
    b={"repeat": {"dose_factor": 0.5}},
)
ROUNDS = space_of({"rounds": {"choice": [1, 2, 4]}})
TWO_ROUNDS = space_of({"rounds": 2, "per_position": True}, a={"dose_tokens": 600})
MAYBE = space_of(
    {},
    a={"dose_tokens": {"choice": [0, 300, 900]}},
    b={"dose_tokens": {"low": 0, "high": 900, "step": 300}},
)
APART = Space(
    {
        **ROUNDS.influences,
        "both": ParallelSpec.model_validate(
            {
                "method": "parallel",
                "branches": {
                    "one": {"stages": ("a",), "weight": 0.5},
                    "other": {"stages": ("b",), "weight": 0.5},
                },
            }
        ),
    },
    OrderSpec.model_validate({"rounds": {"choice": (1, 2)}, "influences": ("a", "both")}),
)
SPACES = {
    "apart": APART,
    "repeated": REPEATED,
    "fixed": FIXED,
    "rounds": ROUNDS,
    "two rounds": TWO_ROUNDS,
    "maybe": MAYBE,
}


def scored(node: Node, tree: Tree) -> tuple[float, float]:
    """Both scores rise with the dose of `a` and `b`, each run of `a` being worth half of the one before."""
    doses = {name: [tree.dose_tokens(s) for s in node if s.influence == name] for name in "ab"}
    first = sum(dose / 2**n for n, dose in enumerate(doses["a"]))
    return first / 900, sum(doses["b"]) / 900 - 0.2 * len(node)


def proposals(space: Space, n_trials: int, seed: int = 0) -> list[Node]:
    study = optuna.create_study(
        directions=["maximize", "maximize"], sampler=StagewiseSampler(space, [0.0, -2.0], seed)
    )
    tree, nodes = Tree(space), []
    for _ in range(n_trials):
        trial = study.ask()
        params = space.suggest(trial, conditional=True)
        space.decode(params)
        node = tree.node(params)
        found = [as_boundary(n, scored(node[:n], tree), {}) for n in range(len(node) + 1)]
        trial.set_user_attr("boundaries", found)
        study.tell(trial, found[-1]["values"])
        nodes.append(node)
    return nodes


@pytest.mark.parametrize("name", SPACES)
def test_every_proposal_is_a_new_recipe_of_the_space(name: str) -> None:
    # Of `maybe` there are 3 doses of b and 2 of a, alone and in both orders: 5 + 12 recipes and the base.
    nodes = proposals(SPACES[name], 18)
    assert len(set(nodes)) == 18
    tree = Tree(SPACES[name])
    assert all(tree.dose_tokens(step) > 0 for node in nodes for step in node)
    assert all(tree.is_legal(node) for node in nodes)


def test_repeats_are_proposed_one_stage_at_a_time_with_doses_above_and_below_the_first() -> None:
    nodes, tree = proposals(REPEATED, 30), Tree(REPEATED)
    assert all(node[:-1] in nodes for node in nodes[1:])
    doses = [[tree.dose_tokens(s) for s in node if s.influence == "a"] for node in nodes]
    ratios = {runs[1] / runs[0] for runs in doses if len(runs) > 1}
    assert min(ratios) < 0.8
    assert max(ratios) > 1.2
    for runs in doses:
        if len(runs) > 2:
            assert runs[2] == round(runs[0] * (runs[1] / runs[0]) ** 2)


@pytest.mark.parametrize("name", ["rounds", "apart"])
def test_more_rounds_go_on_from_a_round_that_was_trained(name: str) -> None:
    nodes = proposals(SPACES[name], 24)
    extended = [
        node
        for at, node in enumerate(nodes)
        if len(node) > 1
        and node[: len(node) // 2] * 2 == node
        and node[: len(node) // 2] in nodes[:at]
    ]
    assert extended


def test_features_show_the_dose_that_a_run_has() -> None:
    for space in (REPEATED, FIXED):
        tree = Tree(space)
        params = {"order": "a > b > a", "a.repeat.dose_factor": 0.5, "b.dose_tokens": 300}
        first, _, second = tree.node(params | {"a.dose_tokens": 400})
        assert (tree.dose_tokens(first), tree.dose_tokens(second)) == (400, 200)
        differ = tree.features(first) != tree.features(second)
        assert differ.sum() == 1
    # Of a, doses are 100 * 0.25 ** 2 = 6 (rounded down) to 900 * 2 ** 2 = 3600, in the logarithm.
    expected = np.log(400 / 6) / np.log(3600 / 6)
    first = Step("a", (400,))
    assert Tree(REPEATED).features(first)[0] == pytest.approx(expected)


def test_a_third_run_follows_from_the_first_two() -> None:
    tree = Tree(REPEATED)
    node = (Step("a", (400,)), Step("b", (100,)), Step("a", (100,)))
    assert tree.fitted(node, Step("a", (900,))) == Step("a", (25,))
    assert tree.is_legal((*node, Step("a", (25,))))
    assert not tree.is_legal((*node, Step("a", (26,))))
    assert not tree.is_legal((Step("a", (400,)), Step("a", (900,))))  # more than twice the first


@pytest.mark.parametrize(
    ("name", "space"),
    [("gp", "maybe"), *((name, s) for name in SAMPLERS if name != "gp" for s in SPACES)],
)
def test_optuna_s_samplers_propose_such_recipes(name: str, space: str) -> None:
    found = SPACES[space]
    study = optuna.create_study(directions=["maximize", "maximize"])
    tree, labels = Tree(found), set()
    spec = SamplerSpec(name=name, startup_trials=4, population=4)  # type: ignore[arg-type]
    n_trials = 6 if name == "gp" else 14
    for number in range(n_trials):
        study.sampler = make_sampler(spec, number)
        trial = study.ask()
        params = found.suggest(trial, conditional=name in CONDITIONAL)
        labels.add(found.decode(params).label())
        study.tell(trial, scored(tree.node(params), tree))
    assert len(labels) > n_trials // 3
