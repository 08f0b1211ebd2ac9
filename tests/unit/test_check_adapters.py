"""Claims about what `check` says of adapters: one line with the place, the value and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from search.check_adapters import adapter_findings, bound_findings, cannot_be_continued
from spaces.adapter_spec import AdapterSpec

SPEC: TypeAdapter[Any] = TypeAdapter(AdapterSpec)
CONFIG = {"num_hidden_layers": 4, "tie_word_embeddings": True}
LORA: dict[str, Any] = {"kind": "lora"}
ADA: dict[str, Any] = {"kind": "adalora"}
FULL: dict[str, Any] = {"kind": "full"}


def found(**values: Any) -> list[str]:
    adapter = SPEC.validate_python(values)
    findings = [*bound_findings(adapter, ("a",)), *adapter_findings(adapter, ("a",), CONFIG)]
    return [f"{'.'.join(map(str, finding.place))}: {finding.text}" for finding in findings]


@pytest.mark.parametrize(
    "values",
    [
        LORA,
        ADA,
        FULL,
        {**LORA, "layers": "0,2-3"},
        {**LORA, "layers": {"above": {"low": 0.25, "high": 0.75}}, "targets": "mlp,q_proj"},
        {**LORA, "init": {"choice": ("default", "olora")}, "ranks": {"mlp": {"low": 1, "high": 4}}},
        {**FULL, "targets": "embeddings,head,norms,biases"},
        {**ADA, "init_rank": {"low": 9, "high": 12}},
    ],
)
def test_what_can_be_trained_is_not_complained_about(values: dict[str, Any]) -> None:
    assert found(**values) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({**LORA, "init": "pisa"}, "a.init: 'pisa' is no init; did you mean 'pissa'?"),
        ({**LORA, "init": "pissa", "dora": True}, "a.init: pissa and dora exclude each other"),
        ({**LORA, "ranks": {"mlp": 0}}, "a.ranks.mlp: 0 is not possible; write a whole number"),
        (
            {**LORA, "alphas": {"mlp": {"choice": (1.0, -1.0)}}},
            "a.alphas.mlp.choice.1: -1.0 is not possible",
        ),
        (
            {**LORA, "alphas": {"atention": 2.0}},
            "a.alphas.atention: atention is no module of Llama-like models; did you mean 'attention'?",
        ),
        ({**LORA, "lr_ratio": {"low": 0.0, "high": 4.0}}, "a.lr_ratio.low: 0.0 is not possible"),
        ({**LORA, "layers": "0-1,3-2"}, "a.layers: '3-2' selects no layers"),
        ({**LORA, "layers": "0-1;3"}, "a.layers: '0-1;3' is not a layer range"),
        ({**LORA, "layers": "0,4"}, "a.layers: '0,4' does not fit the base; its layers are 0-3"),
        (
            {**LORA, "layers": {"above": {"low": 0.5, "high": 0.95}}},
            "a.layers.above: '95%-100%' does not fit the base",
        ),
        ({**LORA, "targets": "mlp,head"}, "a.targets: head is for full adapters"),
        ({**FULL, "targets": "mlp,everything"}, "a.targets: everything stands alone"),
        (
            {**ADA, "target_rank": {"low": 2, "high": 12}},
            "a.target_rank: 12 is not below init_rank",
        ),
        (
            {**ADA, "warmup_share": {"choice": (0.1, 0.7)}},
            "a.final_share: 0.3 and a warmup_share of 0.7",
        ),
        ({**ADA, "orthogonality": -1.0}, "a.orthogonality: -1.0 is not possible"),
    ],
)
def test_what_cannot_be_trained_is_named_with_a_remedy(values: dict[str, Any], text: str) -> None:
    (only,) = found(**values)
    assert only.startswith(text)


def test_adapters_that_end_as_something_else_cannot_be_continued() -> None:
    assert cannot_be_continued(SPEC.validate_python(LORA)) is None
    assert "budget" in str(cannot_be_continued(SPEC.validate_python(ADA)))
    searched = {**LORA, "init": {"choice": ("default", "pissa")}}
    assert "init pissa" in str(cannot_be_continued(SPEC.validate_python(searched)))
