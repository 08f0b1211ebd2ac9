"""Simulated studies with a known truth: do intervals of `apportion confirm` cover, and how much luck is left in it?

    .venv/bin/python tests/benchmarks/confirm/simulate.py

Coverage: pairs of recipes with S seeds each, on N items that all share; a recipe has a level, a spread between seeds,
and answers of its own to each item. Intervals of each recipe and of the difference within each pair should hold the
truth in 95 of 100. Selection: of 60 recipes scored once, the front is confirmed with 3 fresh seeds on the same items.
About a minute on one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from evaluators.stats.intervals import bootstrap_interval, wilson_interval
from evaluators.stats.items import share_estimate
from evaluators.stats.replicates import (
    Replicated,
    difference_over_replicates,
    mean_over_replicates,
    moderated_spreads,
    share_interval,
)
from search.front import front_mask

Array = npt.NDArray[np.float64]
ITEM_SD, OWN_SD, NOISE_SD = 0.5, 0.3, 0.5
"""Of one item: what it is worth to any recipe, what to this one in all its replicates, what to this one now."""


@dataclass(frozen=True)
class World:
    """What scores are made of."""

    kind: str
    """`mean`: items are normal. `share`: an item passes where such a sum is above a threshold."""
    n_recipes: int
    n_seeds: int
    n_items: int
    seed_sd: float
    """Median over recipes."""
    unlike: float
    """Standard deviation over recipes of the logarithm of that spread."""

    def draw(self, draw: np.random.Generator) -> tuple[Array, list[Replicated]]:
        """Return true values, (M,), and what replicates show."""
        items_N = ITEM_SD * draw.normal(size=self.n_items)
        truths, shown = [], []
        for _ in range(self.n_recipes):
            sd = self.seed_sd * math.exp(self.unlike * draw.normal())
            own_N = OWN_SD * draw.normal(size=self.n_items)
            noise_SN = NOISE_SD * draw.normal(size=(self.n_seeds, self.n_items))
            sum_SN = items_N + own_N + sd * draw.normal(size=(self.n_seeds, 1)) + noise_SN
            if self.kind == "mean":
                level = 0.1 * draw.normal()
                values_SN = level + sum_SN
            else:
                level = draw.uniform(0.1, 0.98)
                total = math.sqrt(ITEM_SD**2 + OWN_SD**2 + NOISE_SD**2 + sd**2)
                values_SN = (ndtri(level) * total + sum_SN > 0).astype(float)
            truths.append(level)
            shown.append(Replicated(values_SN.mean(axis=1), values_SN))
        return np.array(truths), shown


def worlds() -> Iterator[World]:
    """Yield the worlds of the coverage table."""
    for kind in ("mean", "share"):
        for n_recipes in (2, 8):
            for n_seeds in (2, 3, 5):
                for seed_sd, unlike in ((0.05, 0.0), (0.05, 0.7), (0.15, 0.0), (0.15, 0.7)):
                    yield World(kind, n_recipes, n_seeds, 48, seed_sd, unlike)


def coverage(n_pairs: int) -> None:
    """Print the coverage of each world, and of all with three seeds together."""
    print("kind   M  S  sd    unlike  recipes  pairs   median width of a pair's interval")
    together: dict[int, list[bool]] = {}
    for world in worlds():
        draw = np.random.default_rng(0)
        singles, pairs, widths = [], [], []
        while len(pairs) < n_pairs:
            truth_M, shown = world.draw(draw)
            spreads = moderated_spreads([one.spread for one in shown if one.spread is not None])
            for truth, one, spread in zip(truth_M, shown, spreads, strict=True):
                estimate = mean_over_replicates(one, spread)
                is_share = world.kind == "share"
                interval = (
                    share_interval(estimate, world.n_items) if is_share else estimate.interval()
                )
                singles.append(interval.low <= truth <= interval.high)
            for at in range(0, world.n_recipes, 2):
                difference = difference_over_replicates(*shown[at : at + 2], *spreads[at : at + 2])
                interval = difference.interval()
                pairs.append(bool(interval.low <= truth_M[at] - truth_M[at + 1] <= interval.high))
                widths.append(interval.high - interval.low)
        together.setdefault(world.n_seeds, []).extend(pairs)
        print(
            f"{world.kind:5} {world.n_recipes:2} {world.n_seeds:2}  {world.seed_sd:.2f}  {world.unlike:3.1f}"
            f"     {np.mean(singles):.3f}    {np.mean(pairs):.3f}   {np.median(widths):.2f}",
            flush=True,
        )
    for n_seeds, holds in together.items():
        print(f"pairs of all worlds, {n_seeds} seeds: {np.mean(holds):.4f} of {len(holds)}")


def item_intervals(n_draws: int) -> None:
    """Print the coverage of intervals over items alone: Wilson's of a share, and the bootstrap in clusters."""
    print(
        "\nshare of 32 items, one model: plain 1.96 s / sqrt(n), two successes and failures added, Wilson"
    )
    draw = np.random.default_rng(1)
    for truth in (0.02, 0.1, 0.5, 0.9, 0.98):
        plain, added, wilson = [], [], []
        for _ in range(n_draws):
            passed_N = (draw.random(32) < truth).astype(float)
            share = float(passed_N.mean())
            plain.append(abs(share - truth) <= 1.96 * passed_N.std(ddof=1) / math.sqrt(32))
            added.append(abs(share - truth) <= 1.96 * (share_estimate(passed_N).stderr or 0))
            low, high = wilson_interval(share, 32)
            wilson.append(low <= truth <= high)
        print(f"{truth:.2f}   {np.mean(plain):.3f}   {np.mean(added):.3f}   {np.mean(wilson):.3f}")
    holds = []
    for _ in range(n_draws // 8):
        clusters_N = np.repeat(np.arange(30), 4)
        values_N = np.repeat(draw.normal(size=30), 4) + draw.normal(size=120)
        low, high = bootstrap_interval(values_N, clusters_N=clusters_N.tolist(), seed=0)
        holds.append(low <= 0 <= high)
    print(f"bootstrap of a mean, 30 clusters of 4: {np.mean(holds):.3f} of {len(holds)}")


def selection(n_studies: int, n_trials: int = 60, n_seeds: int = 3, n_items: int = 48) -> None:
    """Print how far above the truth the members of a front look, by how they are estimated.

    Two objectives that trade off; the spread between seeds is 0.05 in both. Two truths: the mean over seeds on these
    very items, and on all items that might have been asked.
    """
    print(
        f"\nSelection: {n_studies} studies of {n_trials} trials, 2 objectives, front confirmed with {n_seeds} seeds"
    )
    names = ("searched", "all runs pooled", "fresh seeds", "fresh, shrunk")
    for own_sd in (0.0, OWN_SD):
        draw = np.random.default_rng(2)
        errors: dict[str, list[Array]] = {name: [] for name in names}
        on_items: dict[str, list[Array]] = {name: [] for name in names}
        holds: list[bool] = []
        for _ in range(n_studies):
            dose_M = draw.random(n_trials)
            level_M2 = np.stack([dose_M, 1 - dose_M**2], axis=1) * 0.6 - 0.15 * draw.random(
                (n_trials, 1)
            )
            runs_SM2N = _runs(draw, level_M2, 1 + n_seeds, n_items, own_sd, seed_sd=0.05)
            truth_M2 = level_M2 + runs_SM2N.shared.mean(axis=-1)
            observed_M2 = runs_SM2N.values[0].mean(axis=-1)
            on = front_mask(-observed_M2)
            fresh_2M = runs_SM2N.values[1:][:, on].mean(axis=(0, -1))
            found = {
                "searched": observed_M2[on],
                "all runs pooled": runs_SM2N.values[:, on].mean(axis=(0, -1)),
                "fresh seeds": fresh_2M,
                "fresh, shrunk": _shrunk(fresh_2M, runs_SM2N.values[1:][:, on]),
            }
            for name, value in found.items():
                errors[name].append(value - level_M2[on])
                on_items[name].append(value - truth_M2[on])
            holds += _holds(runs_SM2N.values[1:][:, on], level_M2[on])
        print(
            f"own answers to items {own_sd:.1f}:  bias on all items   on these items   root mean square error"
        )
        for name in names:
            error, here = np.concatenate(errors[name]), np.concatenate(on_items[name])
            rms = math.sqrt(float((error**2).mean()))
            print(
                f"  {name:16} {error.mean():+.4f}             {here.mean():+.4f}           {rms:.4f}"
            )
        print(
            f"  intervals of front members that hold the truth: {np.mean(holds):.3f} of {len(holds)}"
        )


@dataclass(frozen=True)
class _Runs:
    values: Array
    """(S, M, 2, N)."""
    shared: Array
    """What items add in all of a recipe's replicates, (M, 2, N)."""


def _runs(
    draw: np.random.Generator,
    level_M2: Array,
    n_seeds: int,
    n_items: int,
    own_sd: float,
    seed_sd: float,
) -> _Runs:
    shape = (*level_M2.shape, n_items)
    shared = ITEM_SD * draw.normal(size=(1, 2, n_items)) + own_sd * draw.normal(size=shape)
    seeds = seed_sd * draw.normal(size=(n_seeds, *level_M2.shape, 1))
    noise = NOISE_SD * draw.normal(size=(n_seeds, *shape))
    return _Runs(level_M2[None, :, :, None] + shared + seeds + noise, shared)


def _shrunk(fresh_M2: Array, values_SM2N: Array) -> Array:
    """Return fresh means drawn towards the front's mean: Efron and Morris 1975, JASA 70(350), positive part."""
    n_members = len(fresh_M2)
    if n_members < 4:
        return fresh_M2
    noise_2 = values_SM2N.mean(axis=-1).var(axis=0, ddof=1).mean(axis=0) / len(values_SM2N)
    mean_2 = fresh_M2.mean(axis=0)
    spread_2 = ((fresh_M2 - mean_2) ** 2).sum(axis=0)
    kept_2 = np.maximum(0.0, 1 - (n_members - 3) * noise_2 / spread_2)
    return np.asarray(mean_2 + kept_2 * (fresh_M2 - mean_2))


def _holds(values_SM2N: Array, level_M2: Array) -> list[bool]:
    holds = []
    for k in range(2):
        shown = [
            Replicated(each.mean(axis=1), each) for each in values_SM2N[:, :, k].swapaxes(0, 1)
        ]
        spreads = moderated_spreads([one.spread for one in shown if one.spread is not None])
        for one, spread, truth in zip(shown, spreads, level_M2[:, k], strict=True):
            low, high = mean_over_replicates(one, spread).interval()
            holds.append(bool(low <= truth <= high))
    return holds


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--studies", type=int, default=400)
    options = parser.parse_args()
    coverage(options.pairs)
    item_intervals(2 * options.pairs)
    selection(options.studies)


if __name__ == "__main__":
    main()
