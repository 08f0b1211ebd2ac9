"""Train exported trials with the other tools themselves and compare scores with ours.

    APPORTION_TRL=/venvs/trl/bin/python APPORTION_LLAMAFACTORY=... APPORTION_AXOLOTL=... APPORTION_MERGEKIT=... \\
        python tests/benchmarks/exports/compare.py STUDY WORK --seeds 6 --out exports.json

STUDY is a folder with study.yaml, sources and model, such as tests/benchmarks/replay makes. Each variable names the
interpreter of an environment into which the requirements.txt of such an export was installed; a tool without one is
left out, and said to be. WORK keeps trials and exports.

Of each recipe: scores of the trial, of trainings with fresh seeds (their spread is the noise floor), and of the model
that the tool trained from the export. Recipes without random numbers of their own (full weights) are compared weight by
weight, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from export_tools import trained_study

from evaluators.models import LoadedModel
from search.cli.main import main as apportion
from search.lab import Lab, recipe_prefixes
from search.store import StageStore
from search.yaml_file import load_study
from spaces.combine import Combination
from spaces.recipe import Branch, Full, Lora, Parallel, Recipe, Stage

TOOLS = ("trl", "llamafactory", "axolotl", "mergekit")
OVERRIDES = {
    "trl": ["--use_cpu", "true"],
    "llamafactory": ["use_cpu=true"],
    "axolotl": ["--use-cpu"],
}


def tone(handoff: str = "merge", **more: Any) -> Stage:
    """Supervised LoRA."""
    given = {
        "influence": "tone",
        "method": "sft",
        "adapter": Lora(rank=8, alpha=16.0),
        "mix": {"warm": 1.0},
        "dose_tokens": 10_000,
        "learning_rate": 3e-3,
        "handoff": handoff,
    }
    return Stage.model_validate(given | more)


def structure(**more: Any) -> Stage:
    """Supervised, all weights."""
    return tone(
        influence="structure",
        adapter=Full(),
        mix={"thoughts": 1.0},
        dose_tokens=12_000,
        **{"learning_rate": 8e-4} | more,
    )


def taste(handoff: str = "stack", **more: Any) -> Stage:
    """Preference pairs, LoRA."""
    given = {
        "influence": "taste",
        "method": "dpo",
        "adapter": Lora(rank=4, alpha=16.0),
        "mix": {"pairs": 1.0},
        "dose_tokens": 6000,
        "learning_rate": 1e-3,
        "beta": 0.1,
        "handoff": handoff,
    }
    return Stage.model_validate(given | more)


APART = Parallel(
    influence="apart",
    branches={
        "warm": Branch(stages=(tone(),), weight=0.7),
        "thoughtful": Branch(stages=(structure(),), weight=0.6),
    },
    combination=Combination(how="ties", density=0.5),
)
RECIPES = {
    1: Recipe(stages=(tone(), taste())),
    2: Recipe(stages=(structure(), taste(adapter=Full(), handoff="merge", learning_rate=1e-4))),
    3: Recipe(stages=(tone(), structure())),
    4: Recipe(stages=(APART,)),
}
ASKED = {
    1: ("trl", "llamafactory"),
    2: ("trl", "llamafactory"),
    3: ("trl", "llamafactory", "axolotl"),
    4: ("mergekit",),
}
"""Trial to the tools that can express it."""


def scores_of(lab: Lab, folder: Path) -> dict[str, float]:
    """Return the suite's scores of a model, or of an adapter on its base, in a folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (folder / "adapter_config.json").is_file():
        from peft import PeftModel

        base = (
            folder.parent.parent
            / json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        )
        model = AutoModelForCausalLM.from_pretrained(base)
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = LoadedModel(model.eval(), tokenizer, "cpu", lab.spec.training.precision)
    found = lab.exam.suite.measure(loaded, lab.exam.reference, is_base=False).values()
    return {s.name: s.value for one in found for s in one.scores if s.value is not None}


def fresh(lab: Lab, recipe: Recipe, seed: int) -> dict[str, float]:
    """Return scores of a recipe trained with a fresh seed."""
    threads = lab.spec.compute.threads_per_trial
    prefixes, _ = recipe_prefixes(lab.base, recipe, lab.sources, lab.spec, seed, threads, None)
    for number in range(1, len(recipe.stages) + 1):
        prefixes.stage(number)
    result = lab.measure_model(lab.exam, prefixes.model(len(recipe.stages)))
    prefixes.close()
    return {score.name: score.value for score in result.scores if score.value is not None}


def run_tool(python: str, tool: str, folder: Path) -> tuple[float, str | None]:
    """Run an export's script in a tool's environment; return wall seconds, and what went wrong."""
    path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": path}
    started = time.monotonic()
    done = subprocess.run(
        ["bash", "run.sh", *OVERRIDES.get(tool, [])],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    problem = None if done.returncode == 0 else (done.stderr or done.stdout)[-800:]
    return time.monotonic() - started, problem


def result_folder(folder: Path) -> Path:
    """Return where an export's script leaves the model."""
    last = (folder / "run.sh").read_text().strip().splitlines()[-1]
    return folder / last.removeprefix('echo "model: ').removesuffix('"')


def largest_difference(one: Path, other: Path, start: Path) -> tuple[float, float]:
    """Return the largest difference of a weight in two models, and the largest change from the start."""
    from safetensors.torch import load_file

    first, second, base = (load_file(place / "model.safetensors") for place in (one, other, start))
    names = set(first) & set(second) & set(base)
    apart = max((first[name] - second[name]).abs().max().item() for name in names)
    moved = max((first[name] - base[name]).abs().max().item() for name in names)
    return apart, moved


def main() -> None:
    """Train, export, let the tools train, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    interpreters = {
        tool: os.environ[f"APPORTION_{tool.upper()}"]
        for tool in asked.tools.split(",")
        if f"APPORTION_{tool.upper()}" in os.environ
    }
    chosen = {n: r for n, r in RECIPES.items() if set(ASKED[n]) & set(interpreters)}
    results = asked.work / "results"
    if not results.is_dir():
        trained_study(asked.study.resolve(), results, RECIPES)
    spec = load_study(asked.study / "study.yaml")
    lab = Lab.load(spec, asked.study.resolve(), StageStore(results / "store"))
    told: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    for number, recipe in chosen.items():
        record = json.loads((results / f"trials/{number:04d}/trial.json").read_text())
        own = {s["name"]: s["value"] for s in record["boundaries"][-1]["scores"]}
        stderrs = {s["name"]: s["stderr"] for s in record["boundaries"][-1]["scores"]}
        entry = told.setdefault(str(number), {})
        entry |= {"recipe": recipe.label(), "trial": own, "stderr": stderrs}
        for tool in (t for t in ASKED[number] if t in interpreters):
            folder = asked.work / f"{tool}-{number}"
            if not folder.is_dir():
                words = ["export", str(results), str(number), "--to", tool, "--out", str(folder)]
                assert apportion(words) == 0
            seconds, problem = run_tool(interpreters[tool], tool, folder)
            found: dict[str, Any] = {"seconds": seconds, "problem": problem}
            if problem is None:
                place = result_folder(folder)
                found["scores"] = scores_of(lab, place)
                merged = asked.work / f"merged-{number}"
                if not merged.is_dir():
                    assert (
                        apportion(
                            [
                                "export",
                                str(results),
                                str(number),
                                "--to",
                                "merged",
                                "--out",
                                str(merged),
                            ]
                        )
                        == 0
                    )
                if (place / "model.safetensors").is_file():
                    apart, moved = largest_difference(merged, place, asked.study / "model")
                    found |= {"largest_difference": apart, "largest_change": moved}
            entry[tool] = found
            print(number, tool, json.dumps(found), flush=True)
            asked.out.write_text(json.dumps(told, indent=1))
        if "fresh" not in entry and asked.seeds:
            seeds = range(100, 100 + asked.seeds)
            entry["fresh"] = [fresh(lab, recipe, seed) for seed in seeds]
            spread = {n: [one[n] for one in entry["fresh"]] for n in entry["fresh"][0]}
            entry["sd"] = {n: statistics.stdev(values) for n, values in spread.items()}
            asked.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
