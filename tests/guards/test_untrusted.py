"""No module unpickles or runs what others wrote: it is read as safetensors, JSON, and YAML without tags."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("search", "spaces", "evaluators")
READERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
"""Modules whose readers run what they read."""
CALLS = {
    "torch.load", "np.load", "numpy.load", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "os.system", "os.popen", "shutil.unpack_archive", "eval", "exec", "compile", "__import__",
}  # fmt: skip
FLAGS = {"trust_remote_code", "allow_pickle", "shell", "unsafe_code", "weights_only"}
"""Arguments that may be False alone (`weights_only` True, but there is nothing to load)."""
ALLOWED = {
    # A promise about evaluators: they go to workers. What is read was written in the line before.
    ("evaluators/contract/checks.py", "pickle"),
    # Knows no such flag: the model is there already, and the line before has looked at the adapter.
    (
        "search/stages/saved_model.py",
        "PeftModel.from_pretrained without trust_remote_code=False",
    ),
}


def found(path: Path, source: str) -> Iterator[tuple[str, str]]:
    """Yield file and finding of all that one module may not do."""
    name = path.relative_to(ROOT).as_posix() if path.is_absolute() else path.as_posix()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [(node.module or "").partition(".")[0]]
        else:
            modules = []
        yield from ((name, module) for module in modules if module in READERS)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS:
                yield name, called
            for keyword in node.keywords:
                is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in FLAGS and not is_off:
                    yield name, str(keyword.arg)
            if called.endswith(".from_pretrained") and "AutoConfig" not in called:
                flags = {keyword.arg for keyword in node.keywords}
                if "trust_remote_code" not in flags and None not in flags:
                    yield name, f"{called} without trust_remote_code=False"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_reads_what_could_run(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert len(paths) > 10
    findings = {each for path in paths for each in found(path, path.read_text())}
    assert findings - ALLOWED == set()


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "eval(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(words, shell=True)",
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=asked)",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_the_guard_sees(line: str) -> None:
    assert list(found(Path("x.py"), line))


def test_the_guard_lets_safe_readers_pass() -> None:
    fine = (
        "model.eval()\nAutoModel.from_pretrained(x, trust_remote_code=False)\nyaml.safe_load(text)"
    )
    assert list(found(Path("x.py"), fine)) == []
