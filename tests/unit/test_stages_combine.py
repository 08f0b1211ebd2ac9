"""Claims about combining models that have one parent: by hand, and against mergekit where it is installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stage_tools import full, lora, resident, run, stage, weights

from search.errors import StageError
from search.stages import combine
from search.stages.combine import (
    Combination,
    changed_weights,
    combine_tensor,
    combined,
    dropped,
    largest,
    load_weights,
    slerp,
    truncated,
)

Q = "model.layers.0.self_attn.q_proj.weight"


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def tensor(settings: Combination, parent: torch.Tensor, *branches: torch.Tensor) -> torch.Tensor:
    return combine_tensor("w", parent, branches, settings)


def test_linear_is_the_parent_plus_the_weighted_deltas() -> None:
    found = tensor(Combination("linear", (0.5, -2.0)), t(1, 1, 1), t(3, 1, 1), t(1, 2, 0))
    assert found.tolist() == [2, -1, 3]
    doubled = Combination("linear", (0.5, -2.0), scale=2.0)
    assert tensor(doubled, t(1, 1, 1), t(3, 1, 1), t(1, 2, 0)).tolist() == [3, -3, 5]
    mean = Combination("linear", (1.0, 3.0), normalise=True)
    assert tensor(mean, t(0, 0), t(4, 0), t(0, 4)).tolist() == [1, 3]


def test_linear_equals_the_weighted_sum_of_random_deltas() -> None:
    parent, *branches = torch.randn(4, 40, 30, generator=torch.Generator().manual_seed(0))
    found = tensor(Combination("linear", (0.3, 0.9, -0.2)), parent, *branches)
    by_hand = parent.double()
    for weight, branch in zip((0.3, 0.9, -0.2), branches, strict=True):
        by_hand = by_hand + weight * (branch.double() - parent.double())
    torch.testing.assert_close(found.double(), by_hand, atol=1e-6, rtol=0)


@pytest.mark.parametrize("how", ["linear", "ties", "dare_linear", "dare_ties", "svd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_branch_with_weight_1_is_that_branch(how: Any, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    parent, branch = torch.randn(2, 20, 20, generator=generator).to(dtype)
    branch = branch * torch.logspace(-6, 6, 20).to(dtype)  # of every size beside the parent
    found = tensor(Combination(how, (1.0,), rank=20), parent, branch)
    assert found.dtype == dtype
    assert torch.equal(found, branch)


def test_ties_keeps_the_largest_elects_signs_and_divides_by_the_weights_that_take_part() -> None:
    # Deltas; density 0.5 of 6 keeps three of each.
    first, second = t(4, -3, 2, 0.1, 0.2, 0), t(-1, -5, 0.3, 6, 0.4, 0)
    # Kept: (4, -3, 2, 0, 0, 0) and (-1, -5, 0, 6, 0, 0), weighted 1 and 2: (4,-3,2,0) and (-2,-10,0,12).
    # Signs of the sums 2, -13, 2, 12: +, -, +, +. Left: 4 | -3, -10 | 2 | 12. Weights that take part: 1, 3, 1, 2.
    settings = Combination("ties", (1.0, 2.0), density=0.5)
    expected = [4, -13 / 3, 2, 6, 0, 0]
    assert tensor(settings, torch.zeros(6), first, second).tolist() == pytest.approx(expected)
    plain = Combination("ties", (1.0, 2.0), density=0.5, normalise=False)
    assert tensor(plain, torch.zeros(6), first, second).tolist() == [4, -13, 2, 12, 0, 0]


def test_a_tie_of_signs_counts_as_positive() -> None:
    assert tensor(Combination("ties", (1.0, 1.0)), t(0), t(2), t(-2)).tolist() == [2]


def test_density_rounds_down_and_keeps_at_least_one() -> None:
    assert largest(t(1, -4, 2, 3), 0.74).tolist() == [0, -4, 0, 3]
    assert largest(t(1, -4, 2, 3), 0.01).tolist() == [0, -4, 0, 0]


def test_dare_drops_at_random_and_keeps_the_sum_of_magnitudes() -> None:
    delta = torch.randn(100, 100, generator=torch.Generator().manual_seed(2)).double()
    found = dropped(delta, 0.3, torch.Generator().manual_seed(3))
    assert 0.28 < (found != 0).double().mean().item() < 0.32
    assert found.abs().sum().item() == pytest.approx(delta.abs().sum().item())
    ratio = (found / delta)[found != 0]
    assert ratio.min().item() == pytest.approx(ratio.max().item())
    assert ratio[0].item() == pytest.approx(1 / 0.3, rel=0.05)


def test_dare_masks_differ_by_branch_tensor_and_seed_and_repeat() -> None:
    parent, branch = torch.zeros(200), torch.ones(200)

    def found(name: str = "w", seed: int = 0) -> torch.Tensor:
        settings = Combination("dare_linear", (1.0, 1.0), density=0.5, seed=seed)
        return combine_tensor(name, parent, [branch, torch.zeros(200)], settings)

    assert torch.equal(found(), found())
    assert not torch.equal(found(), found("v"))
    assert not torch.equal(found(), found(seed=1))
    other = combine_tensor(
        "w", parent, [torch.zeros(200), branch], Combination("dare_linear", (1.0, 1.0), density=0.5)
    )
    assert not torch.equal(found(), other)


def test_dare_ties_elects_signs_and_does_not_divide() -> None:
    settings = Combination("dare_ties", (1.0, 1.0))
    assert tensor(settings, t(0, 0), t(3, 1), t(-1, 2)).tolist() == [3, 3]


def test_slerp_goes_along_the_arc_and_straight_between_nearly_parallel_models() -> None:
    half = 0.5**0.5
    found = slerp(t(1, 0).double(), t(0, 1).double(), 0.5)
    assert found.tolist() == pytest.approx([half, half])
    third = slerp(t(1, 0).double(), t(0, 1).double(), 1 / 3)
    assert third.tolist() == pytest.approx([3**0.5 / 2, 0.5])
    assert slerp(t(1, 0).double(), t(3, 0).double(), 0.5).tolist() == [2, 0]
    settings = Combination("slerp", (0.5, 0.5))
    assert tensor(settings, t(9, 9), t(1, 0), t(0, 1)).tolist() == pytest.approx([half, half])


def test_svd_cuts_the_change_of_a_matrix_to_its_rank_and_leaves_vectors() -> None:
    change = torch.diag(t(3, 2, 1))
    torch.testing.assert_close(truncated(change, 2), torch.diag(t(3, 2, 0)), atol=1e-6, rtol=0)
    assert truncated(t(3, 2, 1), 1).tolist() == [3, 2, 1]
    found = tensor(Combination("svd", (1.0,), rank=1), torch.eye(3), torch.eye(3) + change)
    torch.testing.assert_close(found, torch.diag(t(4, 1, 1)), atol=1e-6, rtol=0)


def test_a_weight_that_a_branch_lacks_is_the_parents_and_untouched_ones_are_not_yielded() -> None:
    parent = {"a": t(1.0), "b": t(2.0), "c": t(3.0)}
    found = dict(
        combined(parent, [{"a": t(5.0)}, {"b": t(0.0)}], Combination("linear", (0.5, 0.5)))
    )
    assert {name: value.item() for name, value in found.items()} == {"a": 3.0, "b": 1.0}


def test_one_tensor_is_read_at_a_time() -> None:
    read: list[str] = []

    class Lazy(dict[str, torch.Tensor]):
        def __getitem__(self, name: str) -> torch.Tensor:
            read.append(name)
            return t(1.0)

    parent = Lazy(a=t(0), b=t(0))
    stream = combined(parent, [{"a": t(2.0), "b": t(2.0)}], Combination("linear", (1.0,)))
    next(stream)
    assert set(read) == {"a"}


def test_branches_that_do_not_fit_are_named() -> None:
    linear = Combination("linear", (1.0,))
    with pytest.raises(StageError, match="2 branches have 1 weights"):
        list(combined({}, [{}, {}], linear))
    with pytest.raises(StageError, match="branch 1 has a weight 'b' that its parent lacks"):
        list(combined({"a": t(1)}, [{"b": t(1)}], linear))
    with pytest.raises(StageError, match=r"branch 1: a has shape \(2,\), its parent \(1,\)"):
        list(combined({"a": t(1)}, [{"a": t(1, 2)}], linear))
    with pytest.raises(StageError, match=r"torch.int64, which cannot be combined"):
        list(combined({"a": torch.tensor(1)}, [{"a": torch.tensor(2)}], linear))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"how": "average"}, "known: linear, ties"),
        ({"weights": ()}, "give one per branch"),
        ({"density": 0.0}, "above 0 and up to 1"),
        ({"how": "svd"}, "svd needs a rank"),
        ({"how": "slerp", "weights": (1.0,)}, "slerp takes two branches"),
        ({"how": "slerp", "weights": (1.0, 1.0)}, "sum to 1"),
    ],
)
def test_settings_without_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Combination(**{"how": "linear", "weights": (1.0,), **values})


def test_branches_of_one_parent_add_up_in_the_model() -> None:
    base = resident()
    branches = []
    for handoff, adapter in (("merge", full()), ("stack", lora())):
        ref = base.fresh()
        run(ref, stage(adapter=adapter, handoff=handoff))
        branches.append(changed_weights(ref))
    ref = base.fresh()
    parent = weights(ref.model)
    load_weights(
        ref, combined(dict(ref.model.named_parameters()), branches, Combination("linear", (0.5, 2)))
    )
    found = weights(ref.model)
    expected = (
        parent[Q].double()
        + 0.5 * (branches[0][Q].double() - parent[Q].double())
        + 2 * (branches[1][Q].double() - parent[Q].double())
    )
    assert (branches[1][Q] - parent[Q]).abs().max() > 1e-3
    torch.testing.assert_close(found[Q].double(), expected, atol=1e-6, rtol=0)
    assert ref.is_base_changed
    after = weights(base.fresh().model)
    assert all(torch.equal(after[name], parent[name]) for name in parent)


def test_loading_one_branch_gives_its_model_without_adapters() -> None:
    base = resident()
    ref = base.fresh()
    run(ref, stage(handoff="stack"))
    branch = changed_weights(ref)
    assert len(branch) == 14  # 7 linear modules in each of 2 layers
    load_weights(ref, branch.items())
    assert not ref.adapters
    assert all(torch.equal(weights(ref.model)[name], branch[name]) for name in branch)
    with pytest.raises(StageError, match="no parameter nothing"):
        load_weights(ref, [("nothing", t(1))])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["linear", "ties", "dare_linear", "dare_ties"])
@pytest.mark.parametrize("normalise", [None, True, False])
def test_arithmetic_is_mergekits(how: Any, normalise: bool | None, monkeypatch: Any) -> None:
    kit = pytest.importorskip("mergekit.merge_methods.registry")
    method = kit._METHODS["task_arithmetic" if how == "linear" else how]
    generator = torch.Generator().manual_seed(4)
    parent, *branches = torch.randn(4, 50, 30, generator=generator)
    settings = Combination(
        how, (0.7, 1.2, 0.4), density=0.37, scale=0.8, normalise=normalise, seed=5
    )
    numbers = iter(range(3))
    plain = torch.bernoulli

    def drawn(chances: torch.Tensor, **more: Any) -> torch.Tensor:
        own = more.get("generator")
        if own is None:
            own = torch.Generator().manual_seed(combine.mask_seed(5, "w", next(numbers)))
        return plain(chances, generator=own)

    monkeypatch.setattr(torch, "bernoulli", drawn)
    entries = [SimpleNamespace(id=at, tensor=branch) for at, branch in enumerate(branches)]
    default = {parameter.name: parameter.default for parameter in method.spec.parameters}
    theirs = method.merge_group(
        SimpleNamespace(base=SimpleNamespace(tensor=parent.clone()), non_base=entries),
        int8_mask=False,
        rescale=default["rescale"],
        normalize=default["normalize"] if normalise is None else normalise,
        weight=dict(enumerate(settings.weights)),
        density=dict.fromkeys(range(3), 0.37),
        **{"lambda": 0.8},
    )
    ours = combine_tensor("w", parent, branches, settings)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.slow
def test_slerp_is_mergekits() -> None:
    kit = pytest.importorskip("mergekit.merge_methods.slerp")
    first, second = torch.randn(2, 1, 50, generator=torch.Generator().manual_seed(6))
    for other in (second, first + 0.001 * second):
        theirs = kit.slerp(torch.tensor([0.3]), first, other)
        ours = slerp(first.double(), other.double(), 0.3)
        torch.testing.assert_close(ours.float(), theirs, atol=2e-6, rtol=1e-5)
