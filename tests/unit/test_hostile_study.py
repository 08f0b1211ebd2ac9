"""A study from a stranger: base, names, paths, tasks and outputs that would run code or lead elsewhere do nothing.

Each trap writes a file called `caught` if it is sprung. What a study may do by design, such as importing an evaluator
of one's own, is in .github/SECURITY.md.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2.exceptions import SecurityError
from safetensors.torch import load_file, save_file
from tiny import write_model

from search.cli.main import main
from search.errors import SpecError
from search.spec import BaseSpec
from search.stages.base_model import ResidentBase

TOUCH = "import pathlib; pathlib.Path({caught!r}).touch()\n"
CODE = """{touch}
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Evil(LlamaForCausalLM): pass
class EvilConfig(LlamaConfig): model_type = "evil"
class EvilTokenizer(PreTrainedTokenizerFast): pass
"""


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, caught: Path) -> None:
        self.caught = caught

    def __reduce__(self) -> Any:
        return Path.touch, (self.caught,)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    write_model(folder)
    return folder


@pytest.fixture
def base(model: Path, tmp_path: Path) -> Path:
    shutil.copytree(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def caught(tmp_path: Path) -> Path:
    return tmp_path / "caught"


def load(base: Path) -> ResidentBase:
    return ResidentBase.load(BaseSpec(path=base.name), base.parent, "cpu", "float32", 1)


def change(path: Path, **fields: Any) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**data, **fields}))


def set_a_trap(base: Path, caught: Path, name: str) -> None:
    code = CODE.format(touch=TOUCH.format(caught=str(caught)))
    (base / "modeling_evil.py").write_text(code)
    maps = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.Evil"}
    trap = Trap(caught)
    if name == "code beside a known architecture":
        change(base / "config.json", auto_map=maps)
    elif name == "an architecture of its own":
        change(base / "config.json", auto_map=maps, model_type="evil")
    elif name == "a tokenizer of its own":
        auto_map = {"AutoTokenizer": [None, "modeling_evil.EvilTokenizer"]}
        change(base / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="EvilTokenizer")
    elif name == "a pickle beside the weights":
        (base / "pytorch_model.bin").write_bytes(pickle.dumps(trap))
    elif name == "a pickle as safetensors":
        (base / "model.safetensors").write_bytes(pickle.dumps(trap))
    elif name == "an index that names a pickle":
        weights = load_file(base / "model.safetensors")
        save_file(weights, base / "other.safetensors", metadata={"format": "pt"})
        (base / "model.safetensors").unlink()
        torch.save(trap, base / "shard.bin")
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "shard.bin")}
        (base / "model.safetensors.index.json").write_text(json.dumps(index))
    elif name == "an adapter that is a pickle":
        torch.save(trap, base / "adapter_model.bin")
        adapter = {
            "peft_type": "LORA",
            "base_model_name_or_path": str(base),
            "r": 2,
            "task_type": "CAUSAL_LM",
        }
        change(base / "adapter_config.json", **adapter, target_modules=["q_proj"])
    elif name == "a generation config with code":
        change(base / "generation_config.json", custom_generate="modeling_evil.py")


TRAPS = {
    "code beside a known architecture": True,
    "an architecture of its own": False,
    "a tokenizer of its own": None,
    "a pickle beside the weights": True,
    "a pickle as safetensors": False,
    "an index that names a pickle": False,
    "an adapter that is a pickle": False,
    "a generation config with code": True,
}
"""Trap to whether the base can be loaded all the same; None: either will do."""


@pytest.mark.parametrize("name", TRAPS)
def test_a_base_with_a_trap_is_loaded_without_springing_it_or_refused(
    name: str, base: Path, caught: Path
) -> None:
    set_a_trap(base, caught, name)
    is_loaded = True
    try:
        loaded = load(base)
        assert type(loaded.model).__name__ == "LlamaForCausalLM"
    except SpecError as error:
        is_loaded = False
        text = str(error)
    assert not caught.exists()
    assert TRAPS[name] in (None, is_loaded)
    assert is_loaded or (text.startswith(("base: ", "base.path: ")) and text.isprintable())


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "shard.bin"}}, "names 'shard.bin'"),
        ({"weight_map": {"a": "../model/model.safetensors"}}, "names '../model/model.safetensors'"),
        ({"weight_map": {"a": "missing.safetensors"}}, "names 'missing.safetensors'"),
        ({"weight_map": {"a": 1}}, "names 1"),
        ({"weight_map": []}, "is no index of weights"),
        ([], "is no index of weights"),
    ],
)
def test_an_index_of_weights_names_safetensors_beside_it(
    index: Any, said: str, good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("model/shard.bin").touch()
    Path("model/model.safetensors.index.json").write_text(json.dumps(index))
    assert main(["check", str(good_study)]) == 2
    assert f"model/model.safetensors.index.json {said}" in capsys.readouterr().err


def test_the_traps_work(caught: Path, tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(caught)))
    assert caught.exists()
    caught.unlink()
    exec(CODE.format(touch=TOUCH.format(caught=str(caught))), {})
    assert caught.exists()


def test_a_chat_template_cannot_reach_beyond_its_text(base: Path, caught: Path) -> None:
    template = f"{{{{ cycler.__init__.__globals__.os.system('touch {caught}') }}}}"
    change(base / "tokenizer_config.json", chat_template=template)
    (base / "chat_template.jinja").write_text(template)
    tokenizer = load(base).tokenizer
    with pytest.raises(SecurityError):
        tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert not caught.exists()


@pytest.mark.parametrize(
    "value", ["../../evil", "/tmp/evil", "a/../../evil", "..", ".", "a\\b", "~root", "-rf", "a b"]
)
@pytest.mark.parametrize(
    ("old", "place"),
    [
        ("name: demo", "name"),
        ("  prose: {", "sources"),
        ("  tone:\n", "influences"),
        ("  english:", "holdout"),
        ("name: gentle", "baselines[0].name"),
    ],
)
def test_a_name_that_could_be_a_path_is_refused(
    old: str, place: str, value: str, good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = good_study.read_text()
    name = old.strip(" {:\n").removeprefix("name: ")
    good_study.write_text(text.replace(old, old.replace(name, json.dumps(value)), 1))
    before = sorted(Path().rglob("*"))
    assert main(["check", str(good_study)]) == 2
    err = capsys.readouterr().err
    assert f": {place}" in err
    assert "is not allowed; use letters" in err
    assert sorted(Path().rglob("*")) == before
    assert not any(path.name in ("evil", "root") for path in Path("..").glob("*"))


def test_checking_tasks_of_a_folder_runs_none_of_its_code_and_says_that_a_run_will(
    good_study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, caught: Path
) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "evil.py").write_text(TOUCH.format(caught=str(caught)) + "def docs(d): return d\n")
    (tasks / "evil.yaml").write_text(
        "task: evil\ndataset_path: json\ndataset_kwargs: {data_files: x.jsonl}\ntest_split: train\n"
        "process_docs: !function evil.docs\ndoc_to_text: '{{text}}'\ndoc_to_target: '{{text}}'\n"
        "output_type: multiple_choice\nmetric_list: [{metric: acc}]\n"
    )
    good_study.write_text(
        good_study.read_text().replace(
            "  choice: {evaluator: preference, source: held}",
            "  choice: {evaluator: preference, source: held}\n"
            "  theirs: {evaluator: harness, tasks: [evil], include_path: tasks}",
        )
    )
    assert main(["check", str(good_study)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "evaluator   theirs: tasks of tasks, whose code a run executes" in out
    assert not caught.exists()
