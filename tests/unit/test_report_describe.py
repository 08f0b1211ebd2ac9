"""Claims about how reports put influences and adapters into words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import study_data

from search.report.describe import adapter_text, influence_rows, where_text
from search.report.view import StudyView
from search.spec import StudySpec
from spaces.adapter import AdaLora, Full, Lora

LORA = {"kind": "lora", "rank": 8}


def row(**influence: Any) -> dict[str, str]:
    data = study_data()
    data["influences"]["taste"] = {
        "adapter": LORA,
        "dose_tokens": 2000,
        "learning_rate": 1e-4,
        **influence,
    }
    spec = StudySpec.model_validate_json(json.dumps(data))
    return influence_rows(cast(StudyView, SimpleNamespace(spec=spec)))[1]


@pytest.mark.parametrize(
    ("adapter", "text"),
    [
        (Full(), "full"),
        (Lora(rank=4, alpha=8.0), "lora rank 4, alpha 8"),
        (
            Lora(rank=4, alpha=8.0, init="pissa", lr_ratio=4.0, ranks={"mlp": 16}, rslora=True),
            "lora rank 4, alpha 8, rslora, init pissa, lr ratio 4, ranks mlp 16",
        ),
        (
            AdaLora(init_rank=12, target_rank=4, alpha=16.0),
            "adalora init rank 12, target rank 4, alpha 16",
        ),
    ],
)
def test_adapters_are_told_by_kind_and_what_is_not_the_default(adapter: Any, text: str) -> None:
    assert adapter_text(adapter) == text


def test_place_of_an_adapter_names_modules_and_layers() -> None:
    adapter = AdaLora(init_rank=2, target_rank=1, alpha=1.0, targets="mlp", layers="0,2-3")
    assert where_text(adapter) == "mlp, layers 0,2-3"


def test_joint_influence_is_told_with_weights_and_a_mix_for_each_loss() -> None:
    found = row(
        method="joint",
        terms={"sft": {"mix": {"chat": 1.0}}, "dpo": {"mix": {"pairs": 1.0}}},
        weights={"simplex": {"sft": {"low": 0.2}, "dpo": {}}},
        arbitration={"choice": ["sum", "pcgrad"]},
    )
    assert found["method"] == "joint sft 0.2 to 1 + dpo 0 to 1 (one of sum, pcgrad)"
    assert found["mix"] == "sft: chat 1; dpo: pairs 1"


def test_joint_weights_that_move_are_told_from_start_to_end() -> None:
    terms = {
        "sft": {"weight": 1.0, "mix": {"chat": 1.0}},
        "kl": {"weight": {"start": 0.0, "end": {"low": 0.1, "high": 0.5}}},
    }
    assert row(method="joint", terms=terms)["method"] == "joint sft 1 + kl from 0 to 0.1 to 0.5"


def test_settings_of_a_loss_stand_with_the_method_and_beta_apart() -> None:
    found = row(method="simpo", mix={"pairs": 1.0}, beta=2.0, gamma=0.5, max_passes=3.0)
    assert (found["method"], found["beta"]) == ("simpo, gamma 0.5, max passes 3", "2")


def test_searched_adapters_are_told_with_split_and_ranks() -> None:
    found = row(
        method="sft",
        mix={"start": {"chat": 0.8, "plain": 0.2}, "end": {"chat": 1.0}},
        adapter={
            "kind": "lora",
            "layers": {"above": {"low": 0.25, "high": 0.75}},
            "ranks": {"mlp": {"low": 2, "high": 8}},
        },
    )
    assert found["adapter"] == "lora rank 8, alpha 16, ranks mlp 2 to 8"
    assert found["where"] == "all, layers above 0.25 to 0.75 of the depth"
    assert found["mix"] == "from chat 0.8, plain 0.2 to chat 1"


def test_adalora_and_a_mix_by_size_are_told_too() -> None:
    found = row(
        method="sft",
        mix={"temperature": 2.0, "sources": ["chat", "plain"]},
        adapter={"kind": "adalora", "target_rank": {"choice": [2, 4]}},
    )
    assert found["adapter"] == "adalora init rank 12, target rank one of 2, 4, alpha 16"
    assert found["mix"] == "chat, plain by size, temperature 2"
