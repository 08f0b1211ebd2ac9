"""TRL's own scripts train an exported recipe to the trial's weights; what TRL cannot express is refused."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from export_tools import full, stage, trained_study, write_inputs
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from search.cli.main import main
from search.export.chain import peft_names
from search.export.huggingface import schedule_settings
from search.export.trl import readable_row
from search.spec import TrainingSpec
from search.stages.schedule import rate_share
from spaces.adapter import AdaLora
from spaces.recipe import Lora, Recipe

LORA = Lora(rank=2, alpha=4.0, layers="1-1", targets="q_proj,down_proj")
RECIPES = {
    0: Recipe(
        stages=(
            stage(adapter=full(), learning_rate=1e-3),
            stage("dpo", full(), learning_rate=1e-3, dose_tokens=600),
        )
    ),
    1: Recipe(stages=(stage(adapter=LORA), stage("ipo", Lora(rank=2, alpha=2.0), "stack"))),
}
REFUSED = {
    2: Recipe(stages=(stage(handoff="stack"), stage("dpo"))),
    3: Recipe(stages=(stage(handoff="continue"), stage(handoff="merge"))),
    4: Recipe(stages=(stage(adapter=AdaLora(init_rank=3, target_rank=2, alpha=3.0)),)),
    5: Recipe(stages=(stage(adapter=full(targets="norms")),)),
    6: Recipe(stages=(stage(adapter=Lora(rank=2, alpha=2.5)),)),
    7: Recipe(stages=(stage("simpo", beta=2.0, gamma=1.0),)),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    place = tmp_path_factory.mktemp("results") / "tiny"
    return trained_study(inputs, place, RECIPES, REFUSED)


@pytest.fixture
def _here(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def exported(results: Path, number: int, to: str = "trl") -> Path:
    out = f"{to}-{number}"
    assert main(["export", str(results), str(number), "--to", to, "--out", out]) == 0
    return Path(out)


def run_script(command: str, config: str) -> Any:
    """Train as `trl <command> --config <config>` does, in this process; return TRL's view of the configuration."""
    script = import_module(f"trl.scripts.{command}")
    words = ["--config", config, "--use_cpu", "true"]
    arguments = script.make_parser().parse_args_and_config(words, fail_with_unknown_args=True)
    script.main(*arguments)
    return arguments


@pytest.mark.usefixtures("_here")
def test_trls_own_scripts_train_the_export_to_the_trials_weights(results: Path) -> None:
    # Full weights: nothing is drawn at random, so the weights themselves must agree.
    folder = exported(results, 0)
    merged = exported(results, 0, "merged")
    assert stat.S_IMODE((folder / "run.sh").stat().st_mode) & 0o111
    os.chdir(folder)
    run_script("sft", "stage1.yaml")
    run_script("dpo", "stage2.yaml")
    trained, own = (
        load_file("out/stage2/model.safetensors"),
        load_file(f"../{merged}/model.safetensors"),
    )
    start = load_file("base/model.safetensors")
    assert trained.keys() == own.keys()
    moved = max((own[name] - start[name]).abs().max().item() for name in own)
    apart = max((own[name] - trained[name]).abs().max().item() for name in own)
    assert moved > 1e-3
    assert apart < moved / 200


@pytest.mark.usefixtures("_here")
def test_lora_stages_name_modules_layers_reference_and_how_they_are_handed_on(
    results: Path,
) -> None:
    folder = exported(results, 1)
    first, second = (
        yaml.safe_load((folder / f"stage{number}.yaml").read_text()) for number in (1, 2)
    )
    assert first["lora_target_modules"] == [
        "model.layers.1.mlp.down_proj",
        "model.layers.1.self_attn.q_proj",
    ]
    assert (first["lora_r"], first["lora_alpha"], first["lora_dropout"]) == (2, 4, 0.0)
    assert first["model_name_or_path"] == "base"
    assert second["model_name_or_path"] == "out/stage1-merged"
    assert (second["loss_type"], second["beta"]) == ("ipo", 0.1)
    assert "q_proj" in second["lora_target_modules"]
    lines = [line for line in (folder / "run.sh").read_text().splitlines() if line]
    assert lines[-4:] == [
        'trl sft --config stage1.yaml --num_processes 1 "$@"',
        "python merge_adapter.py base main out/stage1 out/stage1-merged float32",
        'trl dpo --config stage2.yaml --num_processes 1 "$@"',
        'echo "model: out/stage2"',
    ]
    assert "trl==1.16" in (folder / "requirements.txt").read_text()
    record = json.loads((results / "trials/0001/trial.json").read_text())
    rows = [json.loads(line) for line in (folder / "data/stage1.jsonl").read_text().splitlines()]
    assert len(rows) == record["stages"][0]["n_rows"]
    assert set(rows[0]) == {"prompt", "completion"}
    # One pass over the rows, in order, is the dose.
    assert len(rows) == first["per_device_train_batch_size"] * record["stages"][0]["n_steps"]
    assert first["train_sampling_strategy"] == "sequential"


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("number", "place", "remedy"),
    [
        (2, "stages[0].handoff: stack", "hand off with merge"),
        (3, "stages[0].handoff: continue", "--to recipe"),
        (4, "stages[0].adapter.kind: adalora", "or LoRA"),
        (5, "stages[0].adapter.targets: norms, layers: all", "everything on all layers"),
        (6, "stages[0].adapter.alpha: 2.5", "a whole alpha"),
        (7, "stages[0].method: simpo", "--to recipe"),
    ],
)
def test_what_trl_cannot_express_is_refused_with_place_and_remedy(
    results: Path, capsys: pytest.CaptureFixture[str], number: int, place: str, remedy: str
) -> None:
    capsys.readouterr()
    assert main(["export", str(results), str(number), "--to", "trl", "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: trial {number}: {place}: ")
    assert remedy in line
    assert not Path("out").exists()


@pytest.mark.usefixtures("_here")
def test_sources_that_changed_since_the_trial_are_not_exported_in_its_name(
    results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chat = Path(json.loads((results / "study.json").read_text())["root"]) / "chat.jsonl"
    before = chat.read_text()
    chat.write_text(before.replace("hello", "hello hello to you"))
    try:
        capsys.readouterr()
        assert main(["export", str(results), "1", "--to", "trl"]) == 2
        assert "restore the data it trained on" in capsys.readouterr().err
    finally:
        chat.write_text(before)


@pytest.mark.parametrize(
    ("schedule", "warmup"),
    [("constant", 0), ("constant", 1), ("constant", 5), ("linear", 0), ("cosine", 0)],
)
def test_transformers_schedules_give_the_rates_of_ours_at_every_step(
    schedule: str, warmup: int
) -> None:
    settings = schedule_settings(TrainingSpec(schedule=schedule, warmup_steps=warmup))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs: LambdaLR = get_scheduler(
        settings["lr_scheduler_type"],
        optimizer,
        settings["warmup_steps"],
        12,
        settings.get("lr_scheduler_kwargs"),
    )
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates == pytest.approx([rate_share(step, 12, warmup, schedule) for step in range(12)])


def test_a_falling_schedule_after_warm_up_is_no_schedule_of_transformers() -> None:
    # What `tool.checked_chain` refuses, and why: their first step has rate 0, where ours has a share of the peak.
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    get_scheduler("cosine", optimizer, 2, 12)
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert rate_share(0, 12, 2, "cosine") == pytest.approx(1 / 3)


def test_rows_are_readable_only_where_trl_would_read_our_tokens_and_loss_mask() -> None:
    ask, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    one = {"messages": [ask, answer]}
    assert readable_row(one, "messages", "completion") == {"prompt": [ask], "completion": [answer]}
    assert readable_row(one, "messages", "all") == one
    assert readable_row({"messages": [ask, answer, ask, answer]}, "messages", "completion") is None
    assert readable_row({"messages": [ask, answer, ask]}, "messages", "completion") is None
    named = {"messages": [ask, {**answer, "name": "x"}]}
    assert readable_row(named, "messages", "completion") is None
    assert readable_row({"text": "a", "kind": "b"}, "text", "completion") == {"text": "a"}


def test_modules_are_named_shortly_only_where_that_means_no_others() -> None:
    modules = ["m.0.q", "m.0.k", "m.1.q", "m.1.k"]
    assert peft_names({"m.0.q", "m.0.k", "m.1.q", "m.1.k"}, modules) == ("k", "q")
    assert peft_names({"m.1.q", "m.1.k"}, modules) == ("m.1.k", "m.1.q")
    # A single name is read as a pattern for whole paths.
    assert peft_names({"m.0.q", "m.1.q"}, modules) == ("m.0.q", "m.1.q")
