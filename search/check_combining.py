"""Checks of influences that combine models: branches, stored models, and bases that cannot be combined. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from search.check_adapters import Finding, numbers
from search.messages import KeyPath, suggest, value_text
from search.spec import StudySpec
from search.store import StageStore, StoreError
from spaces.influence import InfluenceSpec, MergeSpec, ParallelSpec

COMBINING_CONFLICT = "weights of 4 or 8 bits cannot be combined; remove base.bits, or the stage"


def combining_findings(spec: StudySpec, root: Path) -> Iterator[Finding]:
    """Yield what is wrong with the influences that combine models.

    Args:
        spec: The study.
        root: Folder of the study file, where a local stage store is looked for.
    """
    for name, influence in spec.influences.items():
        place: KeyPath = ("influences", name)
        if isinstance(influence, InfluenceSpec):
            continue
        if spec.base.bits is not None:
            yield Finding((*place, "method"), COMBINING_CONFLICT)
        yield from _value_findings(influence, (*place, "combination"))
        if isinstance(influence, ParallelSpec):
            yield from _branch_findings(spec, influence, (*place, "branches"))
        else:
            yield from _model_findings(spec, influence, (*place, "models"), root)


def names_in_branches(spec: StudySpec) -> set[str]:
    """Return the influences that some branch trains."""
    return {
        stage
        for influence in spec.influences.values()
        if isinstance(influence, ParallelSpec)
        for branch in influence.branches.values()
        for stage in branch.stages
    }


def _value_findings(influence: ParallelSpec | MergeSpec, place: KeyPath) -> Iterator[Finding]:
    for spot, number in numbers(influence.combination.density, (*place, "density")):
        if not 0 < number <= 1:
            yield Finding(spot, f"{number} is not possible; write a share above 0 and up to 1")
    for spot, number in numbers(influence.combination.rank, (*place, "rank")):
        if number < 1:
            yield Finding(spot, f"{number} is not possible; write a number of at least 1")


def _branch_findings(spec: StudySpec, influence: ParallelSpec, place: KeyPath) -> Iterator[Finding]:
    training = spec.training_influences
    for name, branch in influence.branches.items():
        for at, stage in enumerate(branch.stages):
            spot = (*place, name, "stages", at)
            if stage in training:
                continue
            if stage in spec.influences:
                text = f"{stage!r} combines models itself; a branch holds influences that train"
                yield Finding(spot, text)
            else:
                hint = suggest(stage, training)
                yield Finding(spot, f"{value_text(stage)} is not an influence; {hint}")


def _model_findings(
    spec: StudySpec, influence: MergeSpec, place: KeyPath, root: Path
) -> Iterator[Finding]:
    path = spec.store.path
    if path is None or not spec.store.enabled:
        text = "merge takes models from a stage store that studies share; name it in store.path"
        yield Finding(place, text)
        return
    if "://" in path or "${" in path or not (root / path).is_dir():
        return  # A url is not asked; `store_findings` speaks of folders.
    for name, model in influence.models.items():
        if model.digest is None:
            continue
        try:
            entry = StageStore(root / path).find(model.digest)
        except StoreError as error:
            yield Finding((*place, name, "digest"), f"cannot be looked up: {error}")
            return
        if entry is None:
            text = (
                f"{model.digest[:12]} is not in the stage store {path}; "
                "`apportion store ls` prints what is"
            )
            yield Finding((*place, name, "digest"), text)
