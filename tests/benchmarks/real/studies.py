"""Studies that both sides search: where they come from, and the file that each side gets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from search.spec import BudgetSpec, SamplerSpec
from search.yaml_file import dump_yaml, load_study

HERE = Path(__file__).parent
TOP = HERE.parents[2]
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
}


def prepare_study(name: str) -> Path:
    """Return a study file with model and data beside it; `small` and `demo` are made where they are not there yet."""
    if name == "small":
        folder = TOP / ".demo" / "replay"
        if not (folder / "model").exists() or not (folder / "prose.jsonl").exists():
            code = "import build_table; build_table.prepare(build_table.WORK)"
            subprocess.run(
                [sys.executable, "-c", code],
                cwd=HERE.parent / "replay",
                env=ENVIRONMENT,
                check=True,
            )
        shutil.copyfile(HERE / "small.yaml", folder / "real_small.yaml")
        return folder / "real_small.yaml"
    if name == "demo":
        folder = TOP / ".demo" / "real_demo"
        if not folder.exists():
            subprocess.run([*apportion(), "init", str(folder)], env=ENVIRONMENT, check=True)
        return folder / "study.yaml"
    return Path(name).resolve()


def apportion() -> list[str]:
    """Return the command line of apportion."""
    return [sys.executable, "-m", "search.cli.main"]


def write_study(study: Path, sampler: str, seed: int, seconds: float | None) -> Path:
    """Write a study beside the original, and return it.

    Without its holdout, which only one side would measure.

    Args:
        study: The original.
        sampler: Who proposes; settings of the original's sampler stay if it is the same one.
        seed: Of proposals and trainings.
        seconds: Wall seconds to spend; None for the plain script, which counts trials.
    """
    spec = load_study(study)
    sampler_spec = SamplerSpec.model_validate({"name": sampler, "seed": seed})
    if sampler == spec.sampler.name:
        sampler_spec = spec.sampler.model_copy(update={"seed": seed})
    changed = spec.model_copy(
        update={
            "sampler": sampler_spec,
            "budget": BudgetSpec(trials=1) if seconds is None else BudgetSpec(wall_seconds=seconds),
            "holdout": {},
            "storage": None,
        }
    )
    path = study.with_name(f"{study.stem}-compared.yaml")
    path.write_text(dump_yaml(changed.model_dump(mode="json", exclude_none=True)))
    load_study(path)
    return path
