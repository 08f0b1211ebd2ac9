"""Train and score recipes that the search did not try, through its stage store and never as trials of it.

Each takes the study's own path: `TrialRun` in a folder of its own. Killed, it loses at most the stage in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from search.attribution.missing import Missing
from search.explanations import OUTSIDE, ExplanationFolder
from search.folders import StudyFile, StudyFolder
from search.holding import take_hold
from search.lab import Lab
from search.records import Proposal, TrialRecord
from search.spec import StudySpec
from search.store import StageStore, StoreError
from search.trial import TrialRun


def train_missing(
    folder: StudyFolder,
    file: StudyFile,
    spec: StudySpec,
    wanted: Sequence[Missing],
    say: Callable[[str], None],
) -> list[TrialRecord]:
    """Train and score recipes one after the other; each is there as soon as it has ended.

    Args:
        folder: The study's.
        file: Its study.json.
        spec: The study.
        wanted: Recipes with their seeds.
        say: Is told a line per recipe.

    Raises:
        StudyError: Another process trains for an explanation of this study.
        ApportionError: The base or a source cannot be read.
    """
    hold = take_hold(folder.path, "explain", say)
    explanations = ExplanationFolder(folder, hold.check)
    root = Path(file.root)
    try:
        explanations.recipes.mkdir(parents=True, exist_ok=True)
        place = folder.store_root(spec, root)
        store = None if place is None else StageStore(place)
        lab = Lab.load(spec, root, store)
        records = []
        for number, each in enumerate(wanted, 1):
            record = _train(_seeded(lab, each.seed), explanations, each)
            records.append(record)
            ended = "done" if record.state == "COMPLETE" else f"failed: {record.reason}"
            say(
                f"{number} of {len(wanted)}  {each.label}, seed {each.seed}: "
                f"{record.trained_tokens:,} tokens, {record.seconds.total:.1f} s, {ended}"
            )
            if store is not None:
                with suppress(StoreError):
                    store.gc(int(spec.store.max_gigabytes * 1e9))
        return records
    finally:
        hold.release()


def _seeded(lab: Lab, seed: int) -> Lab:
    sampler = lab.spec.sampler.model_copy(update={"seed": seed})
    # What loading took is charged once: to whoever runs first.
    load_seconds, lab.load_seconds = lab.load_seconds, 0.0
    return replace(
        lab, spec=lab.spec.model_copy(update={"sampler": sampler}), load_seconds=load_seconds
    )


def _train(lab: Lab, explanations: ExplanationFolder, wanted: Missing) -> TrialRecord:
    proposal = Proposal(number=OUTSIDE, params={}, recipe=wanted.recipe, baseline=None)
    # No rungs: nothing stops these early, and a rung is one more run of the suite.
    stopping = lab.spec.stopping.model_copy(update={"rungs": ()})
    lab = replace(lab, spec=lab.spec.model_copy(update={"stopping": stopping}))
    run = TrialRun(lab, explanations.draft(wanted.recipe, wanted.seed), proposal)
    while not run.step():
        pass
    explanations.publish(wanted.recipe, wanted.seed)
    return run.record
