"""Parts of the stage-wise sampler: regression, cost, volume, tree and model."""

from __future__ import annotations

import numpy as np
import pytest

from search.front import hypervolume
from search.sampling.stagewise.cost import CostModel
from search.sampling.stagewise.gain import OpenVolume
from search.sampling.stagewise.gp import GaussianProcess
from search.sampling.stagewise.model import Observation, StageModel, counts_of
from search.sampling.stagewise.tree import Step, Tree
from spaces.influence import InfluenceSpec
from spaces.order import OrderSpec
from spaces.space import Space

LORA = {"kind": "lora", "rank": {"choice": (4, 16)}}


def influence(**changes: object) -> InfluenceSpec:
    given = {
        "method": "sft",
        "adapter": LORA,
        "mix": {"chat": 1.0},
        "dose_tokens": {"low": 100, "high": 900},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    }
    return InfluenceSpec.model_validate(given | changes)


def tree(**order: object) -> Tree:
    return Tree(Space({"a": influence(), "b": influence()}, OrderSpec.model_validate(order)))


def test_a_process_without_noise_goes_through_its_points_and_returns_to_the_mean_far_away() -> None:
    inputs_ND, outputs_N = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 2.0])
    process = GaussianProcess(1)
    process.log_parameters = np.array([0.0, -20.0])
    process.condition(inputs_ND, outputs_N)
    near_M, near_deviation_M = process.predict(inputs_ND)
    far_M, far_deviation_M = process.predict(np.array([[1000.0]]))
    assert near_M == pytest.approx(outputs_N, abs=1e-3)
    assert near_deviation_M.max() < 0.01 < 0.5 < far_deviation_M[0]
    assert far_M[0] == pytest.approx(6.0 / 4.0)  # the mean, as if one more output had been 0


def test_the_posterior_s_gradient_is_its_slope() -> None:
    rng = np.random.default_rng(0)
    inputs_ND, outputs_N = rng.random((9, 3)), rng.standard_normal(9)
    process = GaussianProcess(3)
    squares_NND = (inputs_ND[:, None] - inputs_ND[None]) ** 2
    at = np.array([0.3, -0.2, 0.8, -1.5])
    _, gradient = process._negative_log_posterior(at, squares_NND, outputs_N)
    for place in range(4):
        ahead, behind = at.copy(), at.copy()
        ahead[place] += 1e-5
        behind[place] -= 1e-5
        rise = (
            process._negative_log_posterior(ahead, squares_NND, outputs_N)[0]
            - process._negative_log_posterior(behind, squares_NND, outputs_N)[0]
        )
        assert gradient[place] == pytest.approx(rise / 2e-5, rel=1e-4, abs=1e-6)


def test_tuning_finds_which_input_matters() -> None:
    rng = np.random.default_rng(1)
    inputs_ND = rng.random((40, 2)) * 3
    process = GaussianProcess(2)
    process.tune(inputs_ND, np.sin(2 * inputs_ND[:, 0]))
    matters, does_not = process.log_parameters[:2]
    assert matters < 0.5 < does_not


def test_costs_are_a_fixed_part_and_a_part_per_token() -> None:
    cost = CostModel()
    for dose_tokens in (100, 200, 400):
        cost.add_stage("a", dose_tokens, 3.0 + 0.01 * dose_tokens)
    cost.add_stage("b", 100, None)
    cost.add_evaluation(2.0)
    cost.add_evaluation(4.0)
    assert cost.stage("a", 1000) == pytest.approx(13.0)
    assert cost.stage("b", 1000) == pytest.approx(13.0)  # not timed: as all others
    assert cost.evaluation() == 3.0


def test_without_timings_a_token_is_the_unit_of_cost() -> None:
    cost = CostModel()
    cost.add_stage("a", 100, None)
    assert (cost.stage("a", 500), cost.evaluation()) == (500.0, 10.0)


def test_open_volume_is_the_hypervolume_that_points_would_add() -> None:
    front_NK = np.array([[0.2, 0.6], [0.6, 0.2]])
    new_PSK = np.array([[[0.4, 0.4]], [[0.1, 0.1]], [[0.7, 0.7]]])
    volume = OpenVolume(front_NK, np.zeros(2), np.ones(2), 8192, seed=0)
    gains_P = volume.volume(volume.dominated(new_PSK))
    had = hypervolume(front_NK, np.ones(2))
    for gain, new_SK in zip(gains_P, new_PSK, strict=True):
        exact = hypervolume(np.vstack([front_NK, new_SK]), np.ones(2)) - had
        assert gain == pytest.approx(exact, abs=0.01)
    assert gains_P[2] == 0.0


def test_params_mean_a_node_and_back() -> None:
    for order in ({"per_position": True}, {"encoding": "keys"}, {"max_repeats": 2}):
        space = Space({"a": influence(), "b": influence()}, OrderSpec.model_validate(order))
        known = Tree(space)
        for seed in range(20):
            params = space.sample(seed)
            node = known.node(params)
            assert space.decode(known.params(node)) == space.decode(params)
            assert known.node(known.params(node)) == node


def test_features_are_positions_in_ranges() -> None:
    step = Step(
        "a", (16, 500, 1e-3)
    )  # rank among 4 and 16; dose 100 to 900; rate 1e-4 to 1e-2, log
    assert tree().features(step) == pytest.approx([1.0, 0.5, 0.5])
    assert tree().dose_tokens(step) == 500


def test_a_fixed_dose_is_known_and_a_choice_of_words_has_a_column_each() -> None:
    words = {"kind": "lora", "targets": {"choice": ("all", "mlp", "attention")}}
    space = Space({"a": influence(adapter=words, dose_tokens=700)}, OrderSpec())
    step = Step("a", ("mlp", 1e-4))
    assert Tree(space).features(step).tolist() == [0.0, 1.0, 0.0, 0.0]
    assert Tree(space).dose_tokens(step) == 700


def test_near_steps_are_legal_and_differ_in_some_value() -> None:
    known, rng = tree(), np.random.default_rng(0)
    step = known.random_step("a", rng)
    near = [known.near_step(step, rng) for _ in range(50)]
    assert all(known.is_legal((each,)) for each in near)
    assert sum(each != step for each in near) > 40


def test_values_that_hold_for_all_positions_are_repeated() -> None:
    step, other = Step("a", (4, 100, 1e-3)), Step("a", (16, 300, 1e-2))
    assert tree(max_repeats=2).fitted((step,), other) == step
    assert tree(max_repeats=2, per_position=True).fitted((step,), other) == other


def test_the_model_learns_what_a_stage_does_from_the_state_it_starts_in() -> None:
    # A stage of `a` halves what is left of the loss; `b` adds its dose.
    known, rng = tree(), np.random.default_rng(0)
    rows = []
    for _ in range(40):
        before = rng.random(1)
        for name in ("a", "b"):
            step = known.random_step(name, rng)
            after = before / 2 if name == "a" else before + known.dose_tokens(step) / 1000
            rows.append(Observation(before, np.zeros(2), step, after))
    model = StageModel(known)
    model.fit(rows)
    halved = model.mean_after(np.array([0.8]), np.zeros(2), known.middle_step("a"))
    added = model.mean_after(np.array([0.3]), np.zeros(2), known.middle_step("b"))
    assert halved[0] == pytest.approx(0.4, abs=0.03)
    assert added[0] == pytest.approx(0.8, abs=0.03)


def test_samples_start_from_a_certain_state_and_grow_uncertain() -> None:
    known, rng = tree(), np.random.default_rng(0)
    steps = [known.random_step("a", rng) for _ in range(8)]
    start = np.array([0.5])
    rows = [Observation(start, np.zeros(2), step, start - rng.random(1)) for step in steps]
    model = StageModel(known)
    model.fit(rows)
    state_PSF = np.full((1, 64, 1), 0.5)
    spread = []
    for _ in range(2):
        counts_PI = np.zeros((1, 2))
        state_PSF = model.sample_after(
            state_PSF, counts_PI, [known.middle_step("a")], rng.standard_normal((64, 1))
        )
        spread.append(float(state_PSF.std()))
    assert 0 < spread[0] < spread[1]


def test_what_was_tuned_does_not_depend_on_what_came_later() -> None:
    known, rng = tree(), np.random.default_rng(2)
    rows = []
    for _ in range(12):
        before, step = rng.random(1), known.random_step("a", rng)
        rows.append(Observation(before, np.zeros(2), step, before * rng.random()))
    one, other = StageModel(known), StageModel(known)
    for n in range(4, 13):
        one.fit(rows[:n])
    other.fit(rows)
    mine, theirs = one._processes["a"][0], other._processes["a"][0]
    assert mine.log_parameters.tolist() == theirs.log_parameters.tolist()


def test_counts_are_of_each_influence() -> None:
    steps = (Step("b", ()), Step("a", ()), Step("b", ()))
    assert counts_of(steps, ("a", "b")).tolist() == [1.0, 2.0]
