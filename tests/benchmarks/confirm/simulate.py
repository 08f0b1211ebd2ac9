"""Simulated studies with a known truth: do intervals of `apportion confirm` cover, and how much luck is left in it?

    .venv/bin/python tests/benchmarks/confirm/simulate.py

Coverage: pairs of recipes with S seeds each, on N items that all share; a recipe has a level, a spread between seeds,
and answers of its own to each item. Intervals of each recipe and of the difference within each pair should hold the
truth in 95 of 100. Selection: of 60 recipes scored once, the front is confirmed with 3 fresh seeds, on the same items
and on fresh ones, as a `selection` part gives them.
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


@dataclass(frozen=True)
class Luck:
    """Where the scores of a simulated study owe their noise to; standard deviations, the last two of one item."""

    seed_sd: float
    own_sd: float
    noise_sd: float

    def runs(
        self, draw: np.random.Generator, level_M2: Array, n_seeds: int, n_items: int
    ) -> tuple[Array, Array]:
        """Return values on items drawn anew, (S, M, 2, N), and what is true on these very items, (M, 2)."""
        shape = (*level_M2.shape, n_items)
        shared = ITEM_SD * draw.normal(size=(1, 2, n_items))
        true_M2N = level_M2[..., None] + shared + self.own_sd * draw.normal(size=shape)
        seeds = self.seed_sd * draw.normal(size=(n_seeds, *level_M2.shape, 1))
        noise = self.noise_sd * draw.normal(size=(n_seeds, *shape))
        return true_M2N + seeds + noise, true_M2N.mean(axis=-1)


def selection(n_studies: int, n_trials: int = 60, n_seeds: int = 3, n_items: int = 48) -> None:
    """Print how far above the truth the members of a front look, by how they are estimated.

    Two objectives that trade off. Two truths: the mean over seeds on these very items, and on all items that might have
    been asked.
    """
    print(
        f"\nSelection: {n_studies} studies of {n_trials} trials, 2 objectives, {n_seeds} fresh seeds"
    )
    for luck in (
        Luck(0.05, 0.0, NOISE_SD),
        Luck(0.05, OWN_SD, NOISE_SD),
        Luck(0.02, OWN_SD, 0.1),
    ):
        draw = np.random.default_rng(2)
        errors: dict[str, list[Array]] = {}
        here: dict[str, list[Array]] = {}
        holds: list[bool] = []
        fresh_holds: list[bool] = []
        for _ in range(n_studies):
            dose_M = draw.random(n_trials)
            level_M2 = np.stack([dose_M, 1 - dose_M**2], axis=1) * 0.6
            level_M2 = level_M2 - 0.15 * draw.random((n_trials, 1))
            values_SM2N, true_M2 = luck.runs(draw, level_M2, 1 + n_seeds, n_items)
            on = front_mask(-values_SM2N[0].mean(axis=-1))
            fresh_SM2N, _ = luck.runs(draw, level_M2[on], n_seeds, n_items)
            found = _estimates(values_SM2N[:, on])
            found["fresh seeds and items"] = fresh_SM2N.mean(axis=(0, -1))
            for name, value in found.items():
                errors.setdefault(name, []).append(value - level_M2[on])
                here.setdefault(name, []).append(value - true_M2[on])
            holds += _holds(values_SM2N[1:][:, on], level_M2[on])
            fresh_holds += _holds(fresh_SM2N, level_M2[on])
        print(f"{luck}: bias on all items, on these items, root mean square error")
        for name in errors:
            all_items, these = np.concatenate(errors[name]), np.concatenate(here[name])
            rms = math.sqrt(float((all_items**2).mean()))
            share = all_items.mean() / np.concatenate(errors["searched"]).mean()
            print(
                f"  {name:21} {all_items.mean():+.4f} ({share:+.2f} of searched)   {these.mean():+.4f}   {rms:.4f}"
            )
        print(f"  intervals that hold the truth on all items: {np.mean(holds):.3f} of {len(holds)}")
        print(f"  ... with fresh items: {np.mean(fresh_holds):.3f}")


def _estimates(values_SM2N: Array) -> dict[str, Array]:
    """Return the ways to say how good the members of a front are; the first run is the one that chose them."""
    fresh_M2 = values_SM2N[1:].mean(axis=(0, -1))
    return {
        "searched": values_SM2N[0].mean(axis=-1),
        "all runs pooled": values_SM2N.mean(axis=(0, -1)),
        "fresh seeds": fresh_M2,
        "fresh, shrunk": _shrunk(fresh_M2, values_SM2N[1:]),
    }


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
    parser.add_argument("--only", choices=("coverage", "selection"))
    options = parser.parse_args()
    if options.only != "selection":
        coverage(options.pairs)
        item_intervals(2 * options.pairs)
    if options.only != "coverage":
        selection(options.studies)


if __name__ == "__main__":
    main()
