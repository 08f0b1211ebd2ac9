"""`--to mergekit`: the models that the last stage combines, and mergekit's configuration of it.

mergekit computes what apportion does, but for the random masks of DARE, which each draws for itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.errors import SpecError
from search.export.card import model_card
from search.export.folder import whole_folder, write_yaml
from search.export.job import Job, Means
from search.export.runs import LOAD
from search.export.tool import refuse
from search.export.trained import recipe_model, resident_base
from search.stages.save import save_model
from spaces.recipe import Merge, Parallel, Recipe

METHODS = {
    "linear": "task_arithmetic",
    "ties": "ties",
    "dare_linear": "dare_linear",
    "dare_ties": "dare_ties",
    "slerp": "slerp",
}
"""Way of combining to mergekit's name of it."""
REQUIREMENTS = "mergekit==0.1.5\n"
CONFIG, RESULT = "mergekit.yaml", "out/model"
_RUN = f"""\
#!/usr/bin/env bash
# Combines the models of this folder with mergekit, as the trial did. Install requirements.txt first.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
# Its own card would look the folders up on the hub.
mergekit-yaml {CONFIG} {RESULT} --no-write-model-card "$@"
echo "model: {RESULT}"
"""
_ORIGIN = (
    "This folder holds the models that the last stage of the recipe combines, as the trial trained them, and `run.sh` "
    f"combines them with mergekit into `{RESULT}`."
)
_MASKS = " Which changes DARE drops is drawn at random, and here it is drawn anew."
PARENT = "parent"


def export(job: Job, out: Path, means: Means) -> list[str]:
    """Write the models and the configuration.

    Raises:
        SpecError: The last stage combines nothing, or in a way that mergekit lacks, or `out` cannot be made.
        ApportionError: A model cannot be had.
    """
    stage = checked_stage(job)
    base = resident_base(job, means)
    weights: dict[str, float] = {}
    with whole_folder(out) as part:
        (part / "models").mkdir(parents=True)

        def save(name: str, recipe: Recipe, digest: str | None) -> None:
            model = recipe_model(job, base, recipe, digest, means)
            save_model(model.ref, part / "models" / name, "merged")

        recipe, n_before = job.record.recipe, len(job.record.recipe.stages) - 1
        before = recipe.prefix(n_before)
        received = job.record.stages[n_before - 1].digest if n_before else None
        is_slerp = stage.combination.how == "slerp"
        if isinstance(stage, Parallel):
            if not is_slerp:
                save(PARENT, before, received)
            for name, branch in stage.branches.items():
                if not branch.is_active and not is_slerp:
                    continue
                weights[f"branch-{name}"] = branch.weight
                is_trained = branch.is_active and branch.stages
                records = job.record.stages[-1].branches.get(name, ())
                digest = records[-1].digest if is_trained and records else received
                save(
                    f"branch-{name}",
                    recipe.branch(n_before + 1, name) if is_trained else before,
                    digest,
                )
        else:
            if not is_slerp:
                save(PARENT, Recipe(), None)
            for name, member in stage.models.items():
                if not member.weight and not is_slerp:
                    continue
                weights[f"model-{name}"] = member.weight
                if member.digest is None:
                    save(f"model-{name}", before, received)
                else:
                    save(f"model-{name}", Recipe(), member.digest)
        write_yaml(part / CONFIG, merge_config(stage, weights, job.spec.base.dtype))
        (part / "run.sh").write_text(_RUN, encoding="utf-8")
        (part / "run.sh").chmod(0o755)
        (part / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
        origin = _ORIGIN + (_MASKS if stage.combination.how.startswith("dare") else "")
        (part / "README.md").write_text(
            model_card(job, "apportion", LOAD, origin), encoding="utf-8"
        )
    return [f"merge: {out}", f"models: {len(weights)}", f"model: {RESULT}, once run.sh has run"]


def checked_stage(job: Job) -> Parallel | Merge:
    """Return the last stage, which mergekit can do.

    Raises:
        SpecError: It is none that combines models, or mergekit cannot do it.
    """
    stages = job.record.recipe.stages
    number = len(stages)
    last = stages[-1] if stages else None
    if not isinstance(last, Parallel | Merge):
        what = f"stages[{number - 1}].method: {last.method}: it" if last else "the recipe"
        raise SpecError(
            f"{job.name}: {what} combines no models, and mergekit trains none; use --to merged, trl or llamafactory"
        )
    if last.combination.how not in METHODS:
        refuse(
            job,
            number,
            f"combination.how: {last.combination.how}",
            "mergekit has no such method; use --to merged",
        )
    if last.combination.how == "slerp" and last.combination.scale != 1.0:
        refuse(
            job,
            number,
            f"combination.scale: {last.combination.scale:g}",
            "slerp has no scale in mergekit; use --to merged",
        )
    return last


def merge_config(stage: Parallel | Merge, weights: dict[str, float], dtype: str) -> dict[str, Any]:
    """Return mergekit's configuration.

    Args:
        stage: What combines.
        weights: Name of a model's folder to its weight, in the stage's order.
        dtype: Of the weights.
    """
    given = stage.combination
    places = {name: f"models/{name}" for name in weights}
    if given.how == "slerp":
        first, second = weights
        return {
            "merge_method": "slerp",
            "base_model": places[first],
            "models": [{"model": places[first]}, {"model": places[second]}],
            "parameters": {"t": weights[second]},
            "dtype": dtype,
        }
    density = {} if given.density is None else {"density": given.density}
    is_normalised = given.how == "ties" if given.normalise is None else given.normalise
    return {
        "merge_method": METHODS[given.how],
        "base_model": f"models/{PARENT}",
        "models": [
            {"model": places[name], "parameters": {"weight": weight, **density}}
            for name, weight in weights.items()
        ],
        "parameters": {"normalize": is_normalised, "lambda": given.scale},
        "dtype": dtype,
    }
