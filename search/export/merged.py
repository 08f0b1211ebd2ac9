"""`--to merged`: a plain model with its tokenizer, for transformers and whatever else reads its folders."""

from __future__ import annotations

from pathlib import Path

from search.errors import SpecError
from search.export.card import model_card
from search.export.folder import whole_folder
from search.export.job import Job, Means
from search.export.trained import trained_model
from search.folders import write_whole
from search.stages.save import save_model

LOAD = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""


def export(job: Job, out: Path, means: Means) -> list[str]:
    """Write the model with all adapters folded in.

    Raises:
        SpecError: The base is quantised, or `out` cannot be made.
        ApportionError: The model cannot be had.
    """
    bits = job.spec.base.bits
    if bits is not None:
        raise SpecError(
            f"{job.name}: the base is quantised to {bits} bits, and merging would round the update away; use --to peft"
        )
    with whole_folder(out) as part:
        model = trained_model(job, means)
        save_model(model.ref, part, "merged")
        card = model_card(job, "transformers", LOAD, model.origin)
        write_whole(part / "README.md", card)
    return [f"model: {out}"]
