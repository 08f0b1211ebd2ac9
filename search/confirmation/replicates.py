"""Trains chosen recipes again with fresh seeds, through the stage store; what is there is kept.

wanted = missing_replicates(folder, trials, fresh_seeds(spec.sampler.seed, 3))
for done in train_replicates(spec, root, folder, wanted, speeds): ...

A replicate is a trial's folder under confirmation/<number>/<seed>/, written as a trial writes it: killed at any time,
the next call goes on with the first replicate that has not ended. Failed ones are tried again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from evaluators.suite import Suite
from search.confirmation.selection import read_selection, selected_evaluators
from search.errors import DataError, StudyError
from search.folders import StudyFolder
from search.holding import take_hold
from search.lab import Exam, Lab, exam_of, loaded_model
from search.plan import Speeds
from search.records import Proposal, TrialRecord
from search.sources import Source
from search.spec import StudySpec
from search.store import StageStore, StoreError
from search.trial import TrialRun


@dataclass(frozen=True)
class Done:
    """A replicate that ended, and how much is left."""

    record: TrialRecord
    """Of the replicate; its number is the trial's."""
    n_done: int
    """Replicates of this call that ended, this one included."""
    n_all: int
    """Replicates that this call has to train."""
    seconds_left: float
    """Estimated, from the planned seconds and how long the ones before took."""


def fresh_seeds(study_seed: int, n_seeds: int) -> tuple[int, ...]:
    """Return seeds that depend on the study's alone; the first ones stay when more are asked for.

    They are drawn from 31 bits, so that they are hardly those of another study that shares the store: a replicate from
    there might be one that was chosen for its luck.
    """
    texts = (f"apportion confirm {study_seed} {at}" for at in range(n_seeds))
    return tuple(
        int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) & 0x7FFFFFFF for text in texts
    )


def missing_replicates(
    folder: StudyFolder,
    trials: Sequence[TrialRecord],
    seeds: Sequence[int],
    base: TrialRecord | None = None,
) -> list[tuple[TrialRecord, int]]:
    """Return which replicates are still to be trained: all trials with the first seed, then with the next one.

    Args:
        folder: The study's results.
        trials: Those to be confirmed.
        seeds: Fresh ones.
        base: Given where the study has rows for the selection: they are wanted of every replicate, and of the base,
            which is scored once.
    """
    wanted = [(base, seeds[0])] if base is not None else []
    wanted += [(trial, seed) for seed in seeds for trial in trials]
    return [
        (trial, seed)
        for trial, seed in wanted
        if not _is_there(folder, trial, seed, with_selection=base is not None)
    ]


@contextmanager
def only_one(
    folder: StudyFolder, say: Callable[[str], None] = lambda _: None
) -> Iterator[StudyFolder]:
    """Hold the study's confirmation; gives its folder, which refuses writes once the hold is lost.

    Args:
        folder: The study's.
        say: Is told if a holder on another machine has to be waited for.

    Raises:
        StudyError: Another process holds it.
    """
    folder.confirmation.mkdir(exist_ok=True)
    hold = take_hold(folder.path, "confirm", say)
    try:
        yield StudyFolder(folder.path, hold.check)
    finally:
        hold.release()


def train_replicates(
    spec: StudySpec,
    root: Path,
    folder: StudyFolder,
    wanted: Sequence[tuple[TrialRecord, int]],
    speeds: Speeds,
) -> Iterator[Done]:
    """Train and score replicates one after the other, and yield each as it ends.

    One that fails, whatever the reason, is recorded as failed, and the rest goes on.

    Args:
        spec: The study.
        root: Where its relative paths start.
        folder: Its results.
        wanted: Trials and seeds.
        speeds: Of the study, for the time left.

    Raises:
        ApportionError: The base or a source cannot be read.
        StudyError: The suite or its data is not that of the search.
    """
    store_root = folder.store_root(spec, root)
    store = None if store_root is None else StageStore(store_root)
    lab = Lab.load(spec, root, store)
    _check_suite([trial for trial, _ in wanted], lab)
    selection = selection_exam(lab)
    planned = [speeds.recipe_seconds(trial.recipe) for trial, _ in wanted]
    started = time.monotonic()
    for at, (trial, seed) in enumerate(wanted, 1):
        record = _train(lab, folder, trial, seed, selection)
        if store is not None:
            with suppress(StoreError):
                store.gc(int(spec.store.max_gigabytes * 1e9))
        pace = (time.monotonic() - started) / sum(planned[:at])
        yield Done(record, at, len(wanted), pace * sum(planned[at:]))


def selection_exam(lab: Lab) -> Exam | None:
    """Return the suite on rows of the selection, or None where no evaluator has such rows.

    Raises:
        DataError: The rows do not suit an evaluator.
    """
    specs = selected_evaluators(lab.spec)
    if not specs:
        return None
    try:
        suite = Suite(specs, _rows(lab.sources), lab.root)
    except ValueError as error:
        raise DataError(f"rows for selection: {error}") from error
    loaded = loaded_model(lab.base.fresh(), lab.spec.training.precision, lab.spec.generation)
    return exam_of(suite, lab.spec, lab.base, loaded, lab.store)


def _rows(sources: Mapping[str, Source]) -> dict[str, list[Mapping[str, object]]]:
    return {
        name: list(source.seen_by("selection") or source.seen_by("search"))
        for name, source in sources.items()
    }


def _train(
    lab: Lab, folder: StudyFolder, trial: TrialRecord, seed: int, selection: Exam | None
) -> TrialRecord:
    spec = lab.spec.model_copy(
        update={
            "sampler": lab.spec.sampler.model_copy(update={"seed": seed}),
            "stopping": lab.spec.stopping.model_copy(update={"enabled": False}),
        }
    )
    proposal = Proposal(trial.number, trial.params, trial.recipe, trial.baseline)
    # Seeds of stages come from that of the spec; base, sources and suites are the same for all.
    seeded, lab.load_seconds = replace(lab, spec=spec), 0.0
    replicate = folder.replicate(trial.number, seed)
    run = TrialRun(seeded, replicate, proposal, at_end_alone=True, selection=selection)
    while not run.step():
        pass
    return run.record


def _is_there(folder: StudyFolder, trial: TrialRecord, seed: int, with_selection: bool) -> bool:
    replicate = folder.replicate(trial.number, seed)
    try:
        record = replicate.read_record()
        if with_selection and read_selection(replicate) is None:
            return False
    except StudyError:
        return False  # damaged: it is trained again
    return record is not None and record.state == "COMPLETE" and record.recipe == trial.recipe


def _check_suite(trials: Sequence[TrialRecord], lab: Lab) -> None:
    for trial in trials:
        if trial.boundaries[-1].suite_version not in (None, lab.exam.version):
            raise StudyError(
                f"trial {trial.number} was scored by another suite or other data than are there now, so fresh scores "
                "would not compare; put back the data of the search, or search again"
            )
