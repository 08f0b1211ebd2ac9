"""The table of methods forgets none, its figures come from files or counts, and shares equal what really trains."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import spaces.loss
from search.check_methods import METHOD_FORMATS
from search.cli.main import main
from search.methods_table import (
    ADAPTER_MOVES,
    COMBINING,
    JOINT_ONLY,
    MEASURED,
    METHOD_WORDS,
    adapter_kinds,
    adapter_rows,
    counted_cost,
    default_adapter,
    method_rows,
    shared_settings,
    token_cost,
)
from search.parameter_share import base_shapes, n_parameters, n_trained, trained_range
from spaces.adapter import AdaLora, Full, Lora, handoff_conflict, stack_conflict
from spaces.adapter_spec import FullSpec, LoraSpec
from spaces.influence import InfluenceSpec
from spaces.loss import LOSS_SETTINGS, SETTINGS, LossName
from spaces.recipe import Handoff, Method

ROOT = Path(__file__).resolve().parents[2]
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 20,
    "tie_word_embeddings": True,
}


def test_every_method_loss_and_kind_of_adapter_has_its_words() -> None:
    assert set(METHOD_WORDS) == set(get_args(Method)) | set(get_args(LossName)) | set(COMBINING)
    assert all(words.does for words in METHOD_WORDS.values())
    assert set(ADAPTER_MOVES) == set(adapter_kinds()) == {"full", "lora", "adalora"}


def test_every_method_has_a_row_with_the_formats_and_settings_that_training_uses() -> None:
    rows = {row.name: row for row in method_rows()}
    assert set(rows) == set(get_args(Method)) | {"kl", "parallel", "merge"}
    for name, formats in METHOD_FORMATS.items():
        assert rows[name].formats == formats
        assert set(rows[name].settings) == set(LOSS_SETTINGS[name])
    assert rows["simpo"].settings == {"beta": "2", "gamma": "1"}


def test_papers_are_those_of_the_losses() -> None:
    told = dict(re.findall(r"^(\w+) .*arXiv ([\d.]+\d)", spaces.loss.__doc__ or "", re.M))
    assert len(told) >= 5
    for name, number in told.items():
        assert METHOD_WORDS[name].paper.endswith(f"arXiv {number}")


def test_every_setting_of_an_influence_is_somewhere_in_the_table() -> None:
    shown = {*shared_settings(), *SETTINGS, *JOINT_ONLY, "method", "adapter"}
    assert shown == set(InfluenceSpec.model_fields)


def test_what_is_said_to_belong_to_joint_is_refused_elsewhere() -> None:
    given = {
        "method": "sft",
        "adapter": {"kind": "full"},
        "mix": {"chat": 1.0},
        "dose_tokens": 10,
        "learning_rate": 1e-3,
    }
    values = {
        "terms": {"sft": {"weight": 1.0, "mix": {"chat": 1.0}}},
        "weights": {"simplex": {"sft": {}, "dpo": {}}},
        "arbitration": "pcgrad",
    }
    InfluenceSpec.model_validate(given)
    for name in JOINT_ONLY:
        with pytest.raises(ValueError, match=f"{name} belongs to joint"):
            InfluenceSpec.model_validate(given | {name: values[name]})


def test_handoffs_are_those_that_training_allows() -> None:
    rows = {row.name: row for row in adapter_rows()}
    assert rows["full"].handoffs == ("merge",)
    assert rows["lora"].handoffs == ("merge", "stack", "detach", "continue")
    for name in ("adalora", "lora pissa", "lora olora"):
        assert rows[name].handoffs == ("merge", "stack", "detach")
    assert set(rows) == {
        *("full", "lora", "lora dora", "lora rslora", "lora gaussian", "lora pissa"),
        *("lora olora", "adalora"),
    }
    for handoff in get_args(Handoff):
        is_legal = handoff_conflict(default_adapter("full"), handoff) is None
        assert (
            (handoff in rows["full"].handoffs) == is_legal == (handoff not in rows["full"].refused)
        )


def test_only_full_weights_train_over_a_stacked_dora() -> None:
    rows = {row.name: row for row in adapter_rows()}
    assert rows["lora dora"].stacked_under == ("full",)
    assert rows["full"].stacked_under == ()
    assert "lora dora" not in rows["lora"].stacked_under
    assert "adalora" in rows["lora"].stacked_under
    assert stack_conflict(default_adapter("adalora"), [Lora(rank=8, alpha=16.0)]) is None


def test_nothing_merges_into_a_quantised_base() -> None:
    rows = {row.name: row for row in adapter_rows(is_quantised=True)}
    assert rows["lora"].handoffs == ("stack", "detach", "continue")
    assert rows["full"].handoffs == ()


def test_papers_of_adapters_are_found_beside_their_settings() -> None:
    papers = {row.name: row.papers for row in adapter_rows()}
    assert papers["lora"][0] == "Hu et al. 2021, arXiv 2106.09685"
    assert papers["lora dora"] == ("Liu et al. 2024, arXiv 2402.09353",)
    assert papers["lora pissa"] == ("Meng et al. 2024, arXiv 2404.02948",)
    assert papers["adalora"] == ("Zhang et al. 2023, arXiv 2303.10512",)


def test_costs_measured_on_the_large_model_are_those_of_the_notes() -> None:
    notes = (ROOT / "results" / "notes_trainer.md").read_text()
    found = re.findall(
        r"\| (SFT|DPO) (LoRA|full) \|.*\n\| \| TRL on our batches \|[^|]*\| ([\d.]+) s", notes
    )
    seconds = {(method.lower(), kind.lower()): float(loop) for method, kind, loop in found}
    per_token = {key: loop / {"sft": 974, "dpo": 2044}[key[0]] for key, loop in seconds.items()}
    ratios = {key: value / per_token["sft", "full"] for key, value in per_token.items()}
    told = {(m.method, m.adapter): m.ratio for m in MEASURED if "notes_trainer" in m.source}
    assert set(told) == set(ratios) - {("sft", "full")}
    for key, ratio in told.items():
        assert ratio == pytest.approx(ratios[key], abs=0.005)


def test_costs_measured_on_the_small_model_are_those_of_the_replay_table() -> None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(ROOT / "results" / "replay" / "table.parquet").to_pylist()
    tokens = {"structure": 0.0, "tone": 0.0, "taste": 0.0}
    seconds = dict(tokens)
    for row in table:
        if row["depth"]:
            last = row[f"influence_{row['depth']}"]
            tokens[last] += row["tokens"]
            seconds[last] += row["stage_cpu"]
    full = seconds["structure"] / tokens["structure"]
    told = {m.method: m.ratio for m in MEASURED if "replay" in m.source}
    assert told["sft"] == pytest.approx(seconds["tone"] / tokens["tone"] / full, abs=0.005)
    assert told["dpo"] == pytest.approx(seconds["taste"] / tokens["taste"] / full, abs=0.005)


def test_what_was_not_measured_is_counted_in_passes_and_says_so() -> None:
    assert token_cost("sft", "full").origin == "unit"
    assert token_cost("dpo", "lora").origin == "measured"
    assert (token_cost("simpo", "full").origin, token_cost("simpo", "full").ratio) == ("counted", 1)
    # Low-rank: forward, backward of activations; one forward pass for the reference.
    assert counted_cost("ipo", "lora").ratio == 1.0
    # Own and neighbours' reference, the neighbours' policy, then forward and two backward passes.
    assert counted_cost("kto", "full").ratio == 2.0


def test_parameters_are_counted_from_the_configuration_by_hand() -> None:
    shapes = base_shapes(LLAMA)
    layer = 8 * 8 * 2 + 4 * 8 * 2 + 3 * 8 * 12 + 2 * 8  # q and o, k and v, mlp, two norms
    assert n_parameters(shapes) == 20 * 8 + 4 * layer + 8
    assert n_trained(Full(), shapes) == n_parameters(shapes)
    assert n_trained(Full(layers="50%-100%"), shapes) == 2 * layer
    assert n_trained(Full(targets="norms"), shapes) == 4 * 2 * 8 + 8
    assert n_trained(Full(targets="head"), shapes) == 20 * 8
    one = Lora(rank=2, alpha=4.0, targets="q_proj", layers="0", dora=True)
    assert n_trained(one, shapes) == 2 * (8 + 8) + 8
    own = Lora(rank=2, alpha=4.0, targets="q_proj,k_proj", layers="0", ranks={"k_proj": 3})
    assert n_trained(own, shapes) == 2 * (8 + 8) + 3 * (8 + 4)
    adaptive = AdaLora(init_rank=3, target_rank=2, alpha=4.0, targets="q_proj", layers="0")
    assert n_trained(adaptive, shapes) == 3 * (8 + 8 + 1)


def test_range_of_a_searched_adapter_spans_its_smallest_and_largest_setting() -> None:
    shapes = base_shapes(LLAMA)
    spec = LoraSpec.model_validate(
        {"kind": "lora", "rank": {"low": 2, "high": 4}, "targets": "q_proj", "layers": "0"}
    )
    assert trained_range(spec, shapes) == (2 * 16, 4 * 16)
    assert trained_range(FullSpec(kind="full"), shapes) == (n_parameters(shapes),) * 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
        {"model_type": "mistral", "head_dim": 4, "tie_word_embeddings": False},
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "head_dim": 6, "attention_bias": True},
        {"model_type": "smollm3"},
    ],
)
def test_names_and_shapes_are_those_of_transformers(changes: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    data = LLAMA | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | changes
    config = AutoConfig.for_model(**data)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert base_shapes(data) == {name: tuple(one.shape) for name, one in model.named_parameters()}


def test_unknown_family_and_missing_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="model_type 'mamba' is not one of llama"):
        base_shapes({"model_type": "mamba"})
    with pytest.raises(ValueError, match="hidden_size"):
        base_shapes({"model_type": "llama"})


def write_study(folder: Path, base: dict[str, Any]) -> Path:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(LLAMA))
    (folder / "model" / "model.safetensors").touch()
    influence = {
        "method": "sft",
        "adapter": {"kind": "lora", "rank": {"choice": [2, 4]}, "targets": "q_proj"},
        "mix": {"chat": 1.0},
        "dose_tokens": 100,
        "learning_rate": 1e-3,
    }
    study = {
        "name": "tiny",
        "base": base,
        "sources": {"chat": {"path": "chat.jsonl", "format": "messages"}},
        "influences": {"tone": influence},
        "suite": {"retention": {"evaluator": "retention"}},
        "objectives": [{"score": "retention.kl", "reference": 1.0}],
        "budget": {"trials": 2},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def test_study_adds_shares_of_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path, {"path": "model"})
    assert main(["methods", "--study", str(study), "--json"]) == 0
    shares = json.loads(capsys.readouterr().out)["shares"]
    assert shares["n_base"] == n_parameters(base_shapes(LLAMA)) == shares["adapters"]["full"]
    assert shares["influences"] == {"tone": [4 * 2 * 16, 4 * 4 * 16]}
    assert main(["methods", "--study", str(study)]) == 0
    # 128 and 256 of 2,152 parameters.
    assert "influence tone: lora trains 128 (5.9 %) to 256 (12 %)" in capsys.readouterr().out


def test_base_that_is_not_here_has_no_shares_and_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, {"hub": "example/tiny"})
    assert main(["methods", "--study", str(study), "--json"]) == 0
    shares = json.loads(capsys.readouterr().out)["shares"]
    assert shares["n_base"] is None
    assert "on the hub" in shares["reason"]


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_lines_fit_its_width(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    begun = {line.split("  ")[0] for line in lines}
    assert {*get_args(Method), *(row.name for row in adapter_rows())} <= begun


def test_both_commands_start_without_torch_ray_and_optuna() -> None:
    code = (
        "import sys, search.cli.methods, search.cli.graph, search.graph.picture;"
        "print({'torch', 'transformers', 'ray', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "set()"
