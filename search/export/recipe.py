"""`--to recipe`: recipe.yaml with the rows it trains on beside it, for `apportion train` on another machine.

Rows are written as training sees them, so the content hash of each source, and with it the order of rows and every
seed, stays what it was. A base in a local folder is copied; one on the hub or in a package is named.
"""

from __future__ import annotations

from pathlib import Path

from search.base_files import resolve_base
from search.errors import SpecError
from search.export.card import model_card
from search.export.folder import copy_model, whole_folder, write_jsonl
from search.export.job import Job, Means
from search.folders import write_whole
from search.recipe_file import recipe_text
from search.sources import Source, read_source
from search.spec import SourceSpec
from spaces.recipe import Merge

BASE = "base"
LOAD = "apportion train recipe.yaml --out my_model"


def export(job: Job, out: Path, means: Means) -> list[str]:
    """Write the recipe.

    Raises:
        SpecError: It merges models of the stage store, trains nothing, or `out` cannot be made.
        DataError: A source cannot be read.
    """
    recipe, spec = job.record.recipe, job.spec
    if not recipe.stages:
        raise SpecError(f"{job.name}: it is the untouched base and trains nothing; use --to merged")
    for number, stage in enumerate(recipe.stages, 1):
        if isinstance(stage, Merge):
            raise SpecError(
                f"{job.name}: stage {number} ({stage.influence}) takes models from the stage store, which a recipe "
                "cannot bring along; use --to merged"
            )
    sources = job.sources()
    with whole_folder(out) as part:
        part.mkdir()
        written = {name: _written(source, part) for name, source in sources.items()}
        base = spec.base
        if base.path is not None:
            found = resolve_base(base, job.root).folder
            assert found is not None
            copy_model(found, part / BASE)
            base = base.model_copy(update={"path": BASE})
        alone = spec.model_copy(
            update={
                "base": base,
                "sources": written,
                "generalisation": None,
                "sampler": spec.sampler.model_copy(update={"seed": job.record.seed}),
            }
        )
        text = recipe_text(alone, recipe, job.record.number, part, part)
        write_whole(part / "recipe.yaml", text)
        origin = (
            "recipe.yaml and the rows it trains on; on equal versions, device and number of threads it gives the "
            "trial's weights, bit for bit."
        )
        card = model_card(job, "apportion", LOAD, origin)
        write_whole(part / "README.md", card)
    return [f"recipe: {out / 'recipe.yaml'}"]


def _written(source: Source, folder: Path) -> SourceSpec:
    """Write a source's training rows; return the source that they are."""
    spec = SourceSpec.model_validate({"path": f"data/{source.name}.jsonl", "format": source.format})
    write_jsonl(folder / str(spec.path), source.rows)
    again = read_source(source.name, spec, folder)
    if again.content_hash != source.content_hash:
        raise SpecError(
            f"sources.{source.name}: its rows change when they are written as JSON; convert the source to .jsonl first"
        )
    return spec
