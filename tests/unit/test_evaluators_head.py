"""A head in blocks gives what its whole logits give, whatever kind of head it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from evaluators.head import CPU_ROWS, head_blocks, most_likely, token_changes, token_logps

N, H, V = 7, 16, 2 * CPU_ROWS + 5


class Halved(nn.Linear):
    """A head that does more than its weight says."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden) / 2


def head(kind: str) -> nn.Linear:
    torch.manual_seed(1)
    return {"plain": nn.Linear, "other": Halved}[kind](H, V, bias=True)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    places = torch.tensor([0, CPU_ROWS - 1, CPU_ROWS, 2 * CPU_ROWS, V - 1, 3, V - 3])
    return torch.randn(N, H) * 3, places


@pytest.mark.parametrize(("kind", "n_blocks"), [("plain", 3), ("other", 1)])
def test_blocks_give_what_the_whole_head_gives(kind: str, n_blocks: int) -> None:
    one, base = head(kind), nn.Linear(H, V, bias=False)
    hidden_NH, targets_N = inputs()
    base_NH = hidden_NH.flip(0)
    with torch.inference_mode():
        assert len(list(head_blocks(one, hidden_NH))) == n_blocks
        logits_NV = one(hidden_NH).double()
        top_N, token_N = most_likely(one, hidden_NH)
        assert token_N.tolist() == logits_NV.argmax(dim=-1).tolist()
        assert top_N.tolist() == pytest.approx(logits_NV.max(dim=-1).values.tolist(), rel=1e-5)
        logp_NV = logits_NV.log_softmax(dim=-1)
        own_N = logp_NV.gather(1, targets_N[:, None])[:, 0]
        found_N = token_logps(one, hidden_NH, targets_N)
        assert found_N.tolist() == pytest.approx(own_N.tolist(), abs=1e-4)
        base_NV = base(base_NH).double().log_softmax(dim=-1)
        kl_N = (base_NV.exp() * (base_NV - logp_NV)).sum(dim=-1)
        expected = torch.stack([-own_N, -base_NV.gather(1, targets_N[:, None])[:, 0], kl_N], dim=1)
        changes = token_changes(one, hidden_NH, (base.weight, None), base_NH, targets_N)
    assert changes.flatten().tolist() == pytest.approx(expected.flatten().tolist(), abs=1e-4)


def test_a_logit_that_is_not_a_number_is_never_passed_over() -> None:
    one = head("plain")
    hidden_NH, targets_N = inputs()
    with torch.inference_mode():
        one.weight[CPU_ROWS + 1, 0] = math.nan
        assert most_likely(one, hidden_NH)[0].isnan().all()
        assert token_logps(one, hidden_NH, targets_N).isnan().all()
