"""`--to peft`: an adapter for the untouched base. Several adapters become one with the same effect."""

from __future__ import annotations

from pathlib import Path

from search.errors import SpecError
from search.export.card import model_card
from search.export.folder import whole_folder
from search.export.job import Job, Means
from search.export.trained import trained_model
from search.folders import write_whole
from search.stages.save import save_model
from spaces.recipe import Full, Recipe, Stage

LOAD = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base!r}, dtype="{dtype}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
SEVERAL = (
    " The recipe leaves {n} adapters on the base; this one is their sum: their matrices stand side by side, so its "
    "rank is the sum of theirs."
)


def export(job: Job, out: Path, means: Means) -> list[str]:
    """Write the adapter.

    Raises:
        SpecError: The model is not the base with adapters on it, or `out` cannot be made.
        ApportionError: The model cannot be had.
    """
    conflict = adapter_conflict(job.record.recipe)
    if conflict is not None:
        raise SpecError(f"{job.name}: {conflict}")
    with whole_folder(out) as part:
        model = trained_model(job, means)
        save_model(model.ref, part, "adapter")
        n_adapters = len(model.ref.adapters)
        origin = model.origin + (SEVERAL.format(n=n_adapters) if n_adapters > 1 else "")
        if job.spec.base.bits is not None:
            origin += f" The base was quantised to {job.spec.base.bits} bits while it trained."
        load = LOAD.format(base=model.ref.base_name, dtype=job.spec.base.dtype)
        card = model_card(job, "peft", load, origin)
        write_whole(part / "README.md", card)
    return [f"adapter: {out}", f"base:    {model.ref.base_name}"]


def adapter_conflict(recipe: Recipe) -> str | None:
    """Return why a recipe's model is not the base with adapters on it; None if it is."""
    if not recipe.stages:
        return "it is the untouched base, without an adapter; use --to merged"
    for number, stage in enumerate(recipe.stages, 1):
        told = f"stage {number} ({stage.influence})"
        if not isinstance(stage, Stage):
            return f"{told} combines models into one set of weights; use --to merged"
        if isinstance(stage.adapter, Full):
            return f"{told} trains the weights themselves; use --to merged"
        if stage.handoff == "merge":
            return f"{told} hands off with merge, which folds its adapter into the weights; use --to merged"
    return None
