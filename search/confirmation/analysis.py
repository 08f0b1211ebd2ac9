"""From replicates on disk to a Confirmation: intervals over seeds and items, differences, ties, the noise floor.

What is estimated rests on fresh seeds alone. The searched value is left out, since it was the reason for the choice: of
60 noisy trials the best-looking owe part of their looks to luck, which a mean that pools it keeps in part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from evaluators.scores import Item, Score
from evaluators.stats.intervals import Interval, holm, t_p_value
from evaluators.stats.replicates import (
    CrossedEstimate,
    Replicated,
    Spread,
    difference_over_replicates,
    mean_over_replicates,
    moderated_spreads,
    pooled_spread,
    share_interval,
    spread_interval,
)
from evaluators.stats.terms import ItemTerms, clustered, item_terms, linearised
from search.confirmation.records import (
    Comparison,
    Confirmation,
    ConfirmedScore,
    ConfirmedTrial,
    NoiseFloor,
)
from search.confirmation.selection import read_selection
from search.folders import StudyFolder, TrialFolder, utc_now
from search.records import TrialRecord

LARGEST_P = 0.05
"""Adjusted p-value below which two trials count as different."""
NO_SCORE = "the replicate has no such score"


@dataclass(frozen=True)
class _Key:
    """A score of the suite or of the holdout."""

    name: str
    is_holdout: bool
    is_selection: bool = False
    """Of the suite, on rows of the selection."""


@dataclass(frozen=True)
class _Measured:
    """One score of one model with what its items add."""

    score: Score
    terms: ItemTerms | None


@dataclass(frozen=True)
class _Found:
    """One score of one trial over its replicates, before anything is compared."""

    searched: Score
    by_seed: dict[int, _Measured]
    missing: dict[int, str]
    replicated: Replicated | None
    """None where no replicate has the score."""
    n_items: int


def analyse(
    folder: StudyFolder,
    trials: Sequence[TrialRecord],
    base: TrialRecord | None,
    objectives: Sequence[str],
) -> Confirmation | None:
    """Return what all replicates on disk say; None if there are none.

    Args:
        folder: The study's results.
        trials: Of the study; those with replicates are confirmed.
        base: The untouched base, which is compared with all.
        objectives: Names of the scores in which trials are compared.
    """
    replicates = _replicates(folder, trials)
    of_base = replicates.pop(base.number, {}) if base is not None else {}
    if not replicates:
        return None
    known = {trial.number: trial for trial in trials}
    chosen = [known[number] for number in sorted(replicates)]
    found = {
        trial.number: _trial_scores(folder, trial, replicates[trial.number]) for trial in chosen
    }
    if base is not None and base.boundaries:
        found[base.number] = _base_scores(folder, base, list(of_base))
        chosen = sorted([*chosen, base], key=lambda trial: trial.number)
    keys = list(dict.fromkeys(key for scores in found.values() for key in scores))
    spreads = {key: _spreads(found, key) for key in keys}
    comparisons = _comparisons(found, spreads, [_judged(found, name) for name in objectives])
    return Confirmation(
        made_at=utc_now(),
        suite_version=chosen[-1].boundaries[-1].suite_version or "",
        seeds=tuple(sorted({seed for each in replicates.values() for seed in each})),
        base=base.number if base is not None else None,
        trials=tuple(
            ConfirmedTrial(
                number=trial.number,
                label=trial.recipe.label(),
                scores=tuple(
                    _confirmed(key, each, spreads[key].get(trial.number))
                    for key, each in found[trial.number].items()
                ),
                ties=_ties(trial.number, list(found), comparisons),
            )
            for trial in chosen
        ),
        comparisons=comparisons,
        noise=tuple(floor for key in keys if (floor := _noise_floor(found, key)) is not None),
    )


@dataclass(frozen=True)
class FreshDifference:
    """A score of two trials over fresh seeds."""

    first: ConfirmedScore
    """Of the first trial."""
    second: ConfirmedScore
    """Of the second one."""
    estimate: CrossedEstimate
    """The second less the first, paired over items."""
    n_seeds: int
    """Fresh seeds of the one that has fewer; the base, which is not trained, counts as any number."""


def fresh_differences(
    folder: StudyFolder,
    trials: Sequence[TrialRecord],
    base: TrialRecord | None,
    first: int,
    second: int,
) -> dict[tuple[str, bool], FreshDifference]:
    """Return how two trials differ over fresh seeds, by name of the score and whether it is the holdout's.

    Empty unless both were confirmed; the base needs no confirmation. Spreads between seeds are drawn towards what all
    confirmed trials have in common, as in `analyse`.

    Args:
        folder: The study's results.
        trials: Of the study.
        base: The untouched base, if it was scored.
        first: Number of a trial.
        second: Number of another one.
    """
    replicates = _replicates(folder, trials)
    of_base = replicates.pop(base.number, {}) if base is not None else {}
    found = {
        trial.number: _trial_scores(folder, trial, replicates[trial.number])
        for trial in trials
        if trial.number in replicates
    }
    if base is not None and base.boundaries:
        found[base.number] = _base_scores(folder, base, list(of_base))
    if first not in found or second not in found or not {first, second} & set(replicates):
        return {}
    differences = {}
    # On fresh items, where both were asked about them, in place of those of the search.
    shared = found[first].keys() & found[second].keys()
    for key in sorted(shared, key=lambda each: each.is_selection):
        sides = [found[number][key] for number in (first, second)]
        spreads = _spreads(found, key)
        if first not in spreads or second not in spreads:
            continue
        one, other = (side.replicated for side in sides)
        assert one is not None
        assert other is not None
        scores = [
            _confirmed(key, side, spreads[number])
            for side, number in zip(sides, (first, second), strict=True)
        ]
        differences[key.name, key.is_holdout] = FreshDifference(
            scores[0],
            scores[1],
            difference_over_replicates(other, one, spreads[second], spreads[first]),
            min(
                score.n_seeds
                for score, number in zip(scores, (first, second), strict=True)
                if number in replicates
            ),
        )
    return differences


def _replicates(
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


def _trial_scores(
    folder: StudyFolder, trial: TrialRecord, replicates: Mapping[int, TrialRecord]
) -> dict[_Key, _Found]:
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
        scores[key] = _Found(seen, by_seed, missing, replicated, n_items)
    return scores


def _judged(found: Mapping[int, dict[_Key, _Found]], name: str) -> _Key:
    """Return the score in which trials are compared in an objective: on fresh items if all were asked about those."""
    fresh = _Key(name, False, is_selection=True)
    is_known = all(fresh in scores and scores[fresh].by_seed for scores in found.values())
    return fresh if is_known else _Key(name, False)


def _base_scores(
    folder: StudyFolder, base: TrialRecord, seeds: Sequence[int]
) -> dict[_Key, _Found]:
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
        scores[key] = _Found(measured.score, by_seed, missing, replicated, n_items)
    return scores


def _on_selection(folder: TrialFolder, searched: Mapping[str, Score]) -> dict[_Key, _Measured]:
    """Return a replicate's scores on rows of the selection, of those that the search has; none if it was not asked."""
    result = read_selection(folder)
    if result is None:
        return {}
    items = list(result.items)
    return {
        _Key(score.name, False, is_selection=True): _Measured(score, item_terms(score, items))
        for score in result.scores
        if score.name in searched
    }


def _scores(record: TrialRecord) -> dict[_Key, Score]:
    last = record.boundaries[-1]
    found = {_Key(score.name, False): score for score in last.scores}
    return found | {_Key(score.name, True): score for score in last.holdout}


def _measured(folder: TrialFolder, record: TrialRecord) -> dict[_Key, _Measured]:
    n_stages = record.boundaries[-1].n_stages
    items: dict[bool, list[Item]] = {
        is_holdout: list(folder.read_items(n_stages, is_holdout)) for is_holdout in (False, True)
    }
    return {
        key: _Measured(score, item_terms(score, items[key.is_holdout]))
        for key, score in _scores(record).items()
    }


def _replicated(measured: Sequence[_Measured], is_trained: bool) -> tuple[Replicated | None, int]:
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


def _spreads(found: Mapping[int, dict[_Key, _Found]], key: _Key) -> dict[int, Spread]:
    """Return the variance between seeds by trial, drawn towards what all have in common."""
    own = {}
    for number, scores in found.items():
        replicated = scores[key].replicated if key in scores else None
        if replicated is not None and replicated.spread is not None:
            own[number] = replicated.spread
    return dict(zip(own, moderated_spreads(list(own.values())), strict=True))


def _confirmed(key: _Key, found: _Found, spread: Spread | None) -> ConfirmedScore:
    stderr, interval, value = None, None, None
    if found.replicated is not None:
        value = found.replicated.value
    if found.replicated is not None and spread is not None:
        estimate = mean_over_replicates(found.replicated, spread)
        is_share = found.searched.unit == "share"
        interval = share_interval(estimate, found.n_items) if is_share else estimate.interval()
        stderr = estimate.stderr
    return ConfirmedScore(
        name=key.name,
        unit=found.searched.unit,
        direction=found.searched.direction,
        is_holdout=key.is_holdout,
        is_selection=key.is_selection,
        searched=found.searched.value,
        value=value,
        stderr=stderr,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n_seeds=len(found.by_seed),
        n_items=found.n_items,
        by_seed={
            seed: each.score.value
            for seed, each in found.by_seed.items()
            if each.score.value is not None
        },
        missing=found.missing,
    )


def _comparisons(
    found: Mapping[int, dict[_Key, _Found]],
    spreads: Mapping[_Key, Mapping[int, Spread]],
    objectives: Sequence[_Key],
) -> tuple[Comparison, ...]:
    raw: list[tuple[int, int, str, float, float, Interval, float]] = []
    for key in objectives:
        name, spread = key.name, spreads.get(key, {})
        for first, second in combinations(sorted(spread), 2):
            one, other = found[first][key].replicated, found[second][key].replicated
            assert one is not None
            assert other is not None
            estimate = difference_over_replicates(one, other, spread[first], spread[second])
            p_value = t_p_value(estimate.value, estimate.stderr, estimate.df)
            raw.append(
                (first, second, name, estimate.value, estimate.stderr, estimate.interval(), p_value)
            )
    adjusted = holm([each[-1] for each in raw])
    return tuple(
        Comparison(
            first=first,
            second=second,
            score=name,
            difference=value,
            stderr=stderr,
            low=interval.low,
            high=interval.high,
            p_value=p_value,
            adjusted_p=float(p),
            is_distinguishable=bool(p < LARGEST_P),
        )
        for (first, second, name, value, stderr, interval, p_value), p in zip(
            raw, adjusted, strict=True
        )
    )


def _ties(number: int, others: Sequence[int], comparisons: Sequence[Comparison]) -> tuple[int, ...]:
    """Return the trials that were compared with this one, and that no objective tells from it."""
    compared, told = set(), set()
    for each in comparisons:
        if number in (each.first, each.second):
            other = each.second if each.first == number else each.first
            compared.add(other)
            if each.is_distinguishable:
                told.add(other)
    return tuple(sorted(other for other in others if other in compared - told))


def _noise_floor(found: Mapping[int, dict[_Key, _Found]], key: _Key) -> NoiseFloor | None:
    own = [scores[key] for scores in found.values() if key in scores]
    spreads = [each.replicated.spread for each in own if each.replicated is not None]
    pooled = pooled_spread([spread for spread in spreads if spread is not None])
    if pooled is None:
        return None
    interval = spread_interval(pooled)
    return NoiseFloor(
        name=key.name,
        unit=own[0].searched.unit,
        is_holdout=key.is_holdout,
        is_selection=key.is_selection,
        sd=math.sqrt(pooled.variance),
        low=interval.low,
        high=interval.high,
        df=round(pooled.df),
    )
