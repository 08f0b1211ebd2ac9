"""The stage-wise sampler under plain Optuna, on spaces of several kinds and on a problem with a known answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import optuna
import pytest

from search.front import hypervolume
from search.sampling.stagewise import StagewiseSampler
from search.sampling.stagewise.past import Reader, as_boundary
from search.sampling.stagewise.tree import Node, Tree
from spaces.influence import InfluenceSpec
from spaces.order import OrderSpec
from spaces.params import Params
from spaces.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)
INFLUENCE = {
    "method": "sft",
    "adapter": {"kind": "lora", "rank": 4},
    "mix": {"chat": 1.0},
    "dose_tokens": {"low": 100, "high": 900},
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}
Score = Callable[[Node, Tree], tuple[float, float]]


def space_of(**order: object) -> Space:
    influences = {name: InfluenceSpec.model_validate(INFLUENCE) for name in ("a", "b", "c")}
    return Space(influences, OrderSpec.model_validate(order))


def new_study(space: Space, seed: int = 0, **options: object) -> optuna.Study:
    sampler = StagewiseSampler(space, [0.0, 0.0], seed=seed, **options)  # type: ignore[arg-type]
    return optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)


def scored(node: Node, tree: Tree) -> tuple[float, float]:
    """`a` lifts the first score by its dose, `b` the second, each takes a third of the other's; `c` ruins both."""
    first = second = 0.0
    for step in node:
        dose = tree.dose_tokens(step) / 900
        if step.influence == "a":
            first, second = first + dose, second * (1 - dose / 3)
        elif step.influence == "b":
            first, second = first * (1 - dose / 3), second + dose
        else:
            first, second = first / 4, second / 4
    return first, second


def ask_and_tell(study: optuna.Study, space: Space, score: Score = scored) -> Params:
    trial = study.ask()
    params = space.suggest(trial, conditional=True)
    tree = Tree(space)
    node = tree.node(params)
    found = [as_boundary(n, score(node[:n], tree), {}) for n in range(len(node) + 1)]
    trial.set_user_attr("boundaries", found)
    study.tell(trial, found[-1]["values"])
    return params


def test_the_base_comes_first_and_then_the_middle_of_every_influence() -> None:
    space = space_of()
    study = new_study(space)
    asked = [ask_and_tell(study, space) for _ in range(4)]
    assert [space.sequence(params) for params in asked] == [(), ("a",), ("b",), ("c",)]
    assert asked[1]["a.dose_tokens"] == 500
    assert asked[1]["a.learning_rate"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"per_position": True},
        {"encoding": "keys"},
        {"max_repeats": 2, "max_stages": 4},
        {"max_repeats": 2, "max_stages": 3, "per_position": True},
        {"min_stages": 2},
        {"min_stages": 3, "before": (("a", "b"),)},
    ],
)
def test_every_proposal_is_legal_and_new(order: dict[str, object]) -> None:
    space = space_of(**order)
    study = new_study(space)
    asked = [ask_and_tell(study, space) for _ in range(25)]
    for params in asked:
        space.decode(params)
    assert len({Tree(space).node(params) for params in asked}) == 25


def test_after_the_start_a_proposal_adds_one_stage_to_a_model_that_was_scored() -> None:
    space = space_of()
    study = new_study(space)
    known: set[Node] = set()
    for number in range(30):
        node = Tree(space).node(ask_and_tell(study, space))
        assert number == 0 or node[:-1] in known
        known.add(node)


def test_a_proposal_depends_on_the_history_and_the_number_alone() -> None:
    space = space_of(per_position=True)
    undisturbed, resumed = new_study(space), new_study(space)
    asked = [ask_and_tell(undisturbed, space) for _ in range(16)]
    again = [ask_and_tell(resumed, space) for _ in range(9)]
    resumed.sampler = StagewiseSampler(space, [0.0, 0.0])
    again += [ask_and_tell(resumed, space) for _ in range(7)]
    assert again == asked
    other = new_study(space, seed=1)
    assert [ask_and_tell(other, space) for _ in range(16)] != asked


def test_recipes_in_training_are_not_proposed_again() -> None:
    space = space_of()
    study = new_study(space)
    for _ in range(8):
        ask_and_tell(study, space)
    side_by_side = [space.suggest(study.ask(), conditional=True) for _ in range(6)]
    assert len({Tree(space).node(params) for params in side_by_side}) == 6


def test_it_finds_more_than_random_proposals_for_the_same_tokens() -> None:
    space = space_of(per_position=True)

    def spent_and_had(sampler: Callable[[int], optuna.samplers.BaseSampler], seed: int) -> float:
        study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler(seed))
        tree, seen, tokens = Tree(space), set[Node](), 0.0
        losses = [[0.0, 0.0]]
        while tokens < 12_000:
            node = tree.node(ask_and_tell(study, space))
            for n in range(1, len(node) + 1):
                if node[:n] not in seen:
                    seen.add(node[:n])
                    tokens += tree.dose_tokens(node[n - 1])
                    losses.append([-value for value in scored(node[:n], tree)])
        return hypervolume(np.array(losses), np.zeros(2))

    ours = [spent_and_had(lambda s: StagewiseSampler(space, [0.0, 0.0], s), s) for s in range(4)]
    random = [spent_and_had(lambda s: optuna.samplers.RandomSampler(s), s) for s in range(4)]
    assert np.mean(ours) > 1.1 * np.mean(random)


def test_a_constraint_turns_the_search_away_from_what_breaks_it() -> None:
    space = space_of(per_position=True)
    study = new_study(space)
    tree = Tree(space)
    broken = []
    for _ in range(40):
        trial = study.ask()
        node = tree.node(space.suggest(trial, conditional=True))
        values = scored(node, tree)
        harm = sum(tree.dose_tokens(step) for step in node) / 900 - 1.0
        trial.set_user_attr("boundaries", [as_boundary(len(node), values, {"harm": harm})])
        study.tell(trial, values)
        broken.append(harm > 0)
    assert sum(broken[25:]) <= 6


def test_a_recipe_that_failed_is_not_tried_again_and_its_kind_is_avoided() -> None:
    space = space_of(per_position=True)
    study = new_study(space)
    tree = Tree(space)
    failed: list[Node] = []
    for _ in range(40):
        trial = study.ask()
        node = tree.node(space.suggest(trial, conditional=True))
        assert node not in failed
        if any(float(step.values[1]) > 1.5e-3 for step in node):  # diverges
            failed.append(node)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, scored(node, tree))
    assert 0 < len(failed) < 20


@pytest.mark.parametrize("attribute", [{}, {"not_trained": "the recipe of trial 4 again"}])
def test_a_recipe_that_was_stopped_or_dropped_is_not_proposed_again(
    attribute: dict[str, str],
) -> None:
    space = space_of()
    study = new_study(space)
    tree = Tree(space)
    for _ in range(6):
        ask_and_tell(study, space)
    closed = []
    for number in range(8):
        trial = study.ask()
        closed.append(tree.node(space.suggest(trial, conditional=True)))
        for key, value in attribute.items():
            trial.set_user_attr(key, value)
        state = optuna.trial.TrialState.FAIL if attribute else optuna.trial.TrialState.PRUNED
        study.tell(trial, state=state)
        assert closed[-1] not in closed[:-1], number


def test_values_alone_are_enough_where_nobody_tells_boundaries() -> None:
    space = space_of()
    study = new_study(space, prefixes_are_stored=False)
    for _ in range(15):
        trial = study.ask()
        node = Tree(space).node(space.suggest(trial, conditional=True))
        study.tell(trial, scored(node, Tree(space)))
    assert all(math.isfinite(value) for trial in study.trials for value in trial.values)
    assert len({str(sorted(trial.params.items())) for trial in study.trials}) == 15


def test_a_cheap_stage_is_preferred_to_a_dear_one_that_promises_as_much() -> None:
    influences = {
        "cheap": InfluenceSpec.model_validate(INFLUENCE | {"dose_tokens": 100}),
        "dear": InfluenceSpec.model_validate(INFLUENCE | {"dose_tokens": 100_000}),
    }
    space = Space(influences, OrderSpec.model_validate({"per_position": True}))

    def shares(cost_exponent: float) -> float:
        study = new_study(space, cost_exponent=cost_exponent)
        chosen = [Tree(space).node(ask_and_tell(study, space, by_rate))[-1:] for _ in range(20)]
        return sum(step.influence == "cheap" for node in chosen[3:] for step in node) / 17

    assert shares(1.0) > shares(0.0)


def by_rate(node: Node, tree: Tree) -> tuple[float, float]:
    """Return scores that depend on learning rates alone."""
    rates = [float(step.values[0]) for step in node]
    return sum(rates), sum(1e-2 - rate for rate in rates)


def test_a_recipe_whose_worker_died_may_be_tried_once_more_and_teaches_nothing() -> None:
    space = space_of()
    study = new_study(space)
    tree = Tree(space)
    for _ in range(6):
        ask_and_tell(study, space)
    tried = []
    for _ in range(4):
        trial = study.ask()
        tried.append(tree.node(space.suggest(trial, conditional=True)))
        trial.set_user_attr("reason", "the worker process died")
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert max(tried.count(node) for node in tried) <= 2
    reader = Reader(tree)
    n_before = len(reader.past(study, asked=-1).observations)
    assert n_before == 5  # of the base's five followers, none of the dead


def test_without_seconds_proposals_do_not_depend_on_time() -> None:
    space = space_of(per_position=True)

    def asked(seconds: float | None) -> list[Params]:
        study, rng, found = new_study(space), np.random.default_rng(0), []
        for _ in range(14):
            trial = study.ask()
            params = space.suggest(trial, conditional=True)
            node = Tree(space).node(params)
            took = None if seconds is None else seconds * float(rng.random())
            entry = as_boundary(len(node), scored(node, Tree(space)), {}, took, took)
            trial.set_user_attr("boundaries", [entry])
            study.tell(trial, entry["values"])
            found.append(params)
        return found

    assert asked(None) == asked(None)
    assert asked(1.0) != asked(None)
