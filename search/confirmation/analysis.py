"""From replicates on disk to a Confirmation: intervals over seeds and items, differences, ties, the noise floor.

What is estimated rests on fresh seeds alone. The searched value is left out, since it was the reason for the choice: of
60 noisy trials the best-looking owe part of their looks to luck, which a mean that pools it keeps in part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from evaluators.stats.intervals import Interval, holm, t_p_value
from evaluators.stats.replicates import (
    CrossedEstimate,
    Spread,
    difference_over_replicates,
    mean_over_replicates,
    moderated_spreads,
    pooled_spread,
    share_interval,
    spread_interval,
)
from search.confirmation.reading import (
    Found,
    Key,
    base_scores,
    ended_replicates,
    judged_key,
    trial_scores,
)
from search.confirmation.records import (
    Comparison,
    Confirmation,
    ConfirmedScore,
    ConfirmedTrial,
    NoiseFloor,
)
from search.folders import StudyFolder, utc_now
from search.records import TrialRecord

LARGEST_P = 0.05
"""Adjusted p-value below which two trials count as different."""


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
    replicates = ended_replicates(folder, trials)
    of_base = replicates.pop(base.number, {}) if base is not None else {}
    if not replicates:
        return None
    known = {trial.number: trial for trial in trials}
    chosen = [known[number] for number in sorted(replicates)]
    found = {
        trial.number: trial_scores(folder, trial, replicates[trial.number]) for trial in chosen
    }
    if base is not None and base.boundaries:
        found[base.number] = base_scores(folder, base, list(of_base))
        chosen = sorted([*chosen, base], key=lambda trial: trial.number)
    keys = list(dict.fromkeys(key for scores in found.values() for key in scores))
    spreads = {key: _spreads(found, key) for key in keys}
    comparisons = _comparisons(found, spreads, [judged_key(found, name) for name in objectives])
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
    replicates = ended_replicates(folder, trials)
    of_base = replicates.pop(base.number, {}) if base is not None else {}
    found = {
        trial.number: trial_scores(folder, trial, replicates[trial.number])
        for trial in trials
        if trial.number in replicates
    }
    if base is not None and base.boundaries:
        found[base.number] = base_scores(folder, base, list(of_base))
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


def _spreads(found: Mapping[int, dict[Key, Found]], key: Key) -> dict[int, Spread]:
    """Return the variance between seeds by trial, drawn towards what all have in common."""
    own = {}
    for number, scores in found.items():
        replicated = scores[key].replicated if key in scores else None
        if replicated is not None and replicated.spread is not None:
            own[number] = replicated.spread
    return dict(zip(own, moderated_spreads(list(own.values())), strict=True))


def _confirmed(key: Key, found: Found, spread: Spread | None) -> ConfirmedScore:
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
    found: Mapping[int, dict[Key, Found]],
    spreads: Mapping[Key, Mapping[int, Spread]],
    objectives: Sequence[Key],
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


def _noise_floor(found: Mapping[int, dict[Key, Found]], key: Key) -> NoiseFloor | None:
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
