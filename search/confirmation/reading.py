"""Replicates as files to scores as arrays: what a trial's suite, selection and holdout say over its fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.scores import Item, Score
from evaluators.stats.replicates import Replicated
from evaluators.stats.terms import ItemTerms, clustered, item_terms, linearised
from search.confirmation.selection import read_selection
from search.folders import StudyFolder, TrialFolder
from search.records import TrialRecord

NO_SCORE = "the replicate has no such score"


@dataclass(frozen=True)
class Key:
    """A score of the suite or of the holdout."""

    name: str
    is_holdout: bool
    is_selection: bool = False
    """Of the suite, on rows of the selection."""


@dataclass(frozen=True)
class Measured:
    """One score of one model with what its items add."""

    score: Score
    terms: ItemTerms | None


@dataclass(frozen=True)
class Found:
    """One score of one trial over its replicates, before anything is compared."""

    searched: Score
    by_seed: dict[int, Measured]
    missing: dict[int, str]
    replicated: Replicated | None
    """None where no replicate has the score."""
    n_items: int


def ended_replicates(
    folder: StudyFolder, trials: Sequence[TrialRecord]
) -> dict[int, dict[int, TrialRecord]]:
    """Return the replicates that ended, by trial and seed; those of another recipe under that number are left out."""
    recipes = {trial.number: trial.recipe for trial in trials}
    found: dict[int, dict[int, TrialRecord]] = {}
    for path in folder.replicate_folders():
        record = path.read_record()
        if record is None or record.state == "RUNNING":
            continue
        if recipes.get(record.number) == record.recipe:
            found.setdefault(record.number, {})[record.seed] = record
    return found


def trial_scores(
    folder: StudyFolder, trial: TrialRecord, replicates: Mapping[int, TrialRecord]
) -> dict[Key, Found]:
    """Return the scores of a trial over its replicates, by key."""
    searched = _scores(trial)
    of_suite = {key.name: score for key, score in searched.items() if not key.is_holdout}
    measured = {}
    for seed, record in replicates.items():
        if record.state == "COMPLETE":
            replicate = folder.replicate(trial.number, seed)
            fresh = _on_selection(replicate, of_suite)
            measured[seed] = _measured(replicate, record) | fresh
            searched |= {key: of_suite[key.name] for key in fresh}
    failed = {
        seed: record.reason or "no reason recorded"
        for seed, record in replicates.items()
        if record.state != "COMPLETE"
    }
    scores = {}
    for key, seen in searched.items():
        by_seed, missing = {}, dict(failed)
        for seed, of_seed in measured.items():
            each = of_seed.get(key)
            if each is not None and each.score.value is not None:
                by_seed[seed] = each
            else:
                missing[seed] = (each.score.reason if each else None) or NO_SCORE
        replicated, n_items = _replicated(list(by_seed.values()), is_trained=True)
        scores[key] = Found(seen, by_seed, missing, replicated, n_items)
    return scores


def judged_key(found: Mapping[int, dict[Key, Found]], name: str) -> Key:
    """Return the score in which trials are compared in an objective: on fresh items if all were asked about those."""
    fresh = Key(name, False, is_selection=True)
    is_known = all(fresh in scores and scores[fresh].by_seed for scores in found.values())
    return fresh if is_known else Key(name, False)


def base_scores(folder: StudyFolder, base: TrialRecord, seeds: Sequence[int]) -> dict[Key, Found]:
    """Return the base's scores, those on rows of the selection from its replicate: no seed changes it."""
    scores, all_measured = {}, _measured(folder.trial(base.number), base)
    for seed in seeds[:1]:
        searched = {
            key.name: each.score for key, each in all_measured.items() if not key.is_holdout
        }
        all_measured |= _on_selection(folder.replicate(base.number, seed), searched)
    for key, measured in all_measured.items():
        by_seed = {base.seed: measured} if measured.score.value is not None else {}
        missing = {} if by_seed else {base.seed: measured.score.reason or NO_SCORE}
        replicated, n_items = _replicated(list(by_seed.values()), is_trained=False)
        scores[key] = Found(measured.score, by_seed, missing, replicated, n_items)
    return scores


def _on_selection(folder: TrialFolder, searched: Mapping[str, Score]) -> dict[Key, Measured]:
    """Return a replicate's scores on rows of the selection, of those that the search has; none if it was not asked."""
    result = read_selection(folder)
    if result is None:
        return {}
    items = list(result.items)
    return {
        Key(score.name, False, is_selection=True): Measured(score, item_terms(score, items))
        for score in result.scores
        if score.name in searched
    }


def _scores(record: TrialRecord) -> dict[Key, Score]:
    last = record.boundaries[-1]
    found = {Key(score.name, False): score for score in last.scores}
    return found | {Key(score.name, True): score for score in last.holdout}


def _measured(folder: TrialFolder, record: TrialRecord) -> dict[Key, Measured]:
    n_stages = record.boundaries[-1].n_stages
    items: dict[bool, list[Item]] = {
        is_holdout: list(folder.read_items(n_stages, is_holdout)) for is_holdout in (False, True)
    }
    return {
        key: Measured(score, item_terms(score, items[key.is_holdout]))
        for key, score in _scores(record).items()
    }


def _replicated(measured: Sequence[Measured], is_trained: bool) -> tuple[Replicated | None, int]:
    """Return a score's replicates as arrays, and the number of items (clusters of them) that all of them share."""
    if not measured:
        return None, 0
    values_S = np.array([each.score.value for each in measured], dtype=np.float64)
    stderrs = [each.score.stderr for each in measured if each.score.stderr is not None]
    stderr = float(np.mean(stderrs)) if stderrs else None
    n_items = measured[0].score.n
    terms = [each.terms for each in measured]
    items_SN = None
    first = terms[0]
    if first is not None and all(
        each is not None and each.clusters == first.clusters for each in terms
    ):
        rows_SN = np.array([linearised(each.by_item) for each in terms if each is not None])
        items_SN = clustered(rows_SN, list(first.clusters.values()))
        n_items = items_SN.shape[1]
    return Replicated(values_S, items_SN, stderr, is_trained), n_items
