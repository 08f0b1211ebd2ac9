"""How often `apportion compare` claims a difference where there is none, and finds one that is there. Simulated items.

    python tests/benchmarks/bench_compare.py

Items have their own chances of passing, drawn from a Beta distribution; both models answer each on their own. One score
is compared, so nothing is corrected. "Seeds" adds what trainings of one recipe differ by, known from other recipes.
"""

from __future__ import annotations

import numpy as np

from evaluators.scores import Item, Score
from evaluators.stats import share_estimate
from search.compare.scores import Side, Spreads, score_differences

N_PAIRS = 2000
SEED_SD, SEED_DF = 0.05, 8
DIRECTIONS = {"tone": "maximise"}


def side(passed_N: np.ndarray) -> Side:
    """Return a model that passed these items."""
    values = [float(value) for value in passed_N]
    score = Score(
        name="tone",
        value=float(np.mean(values)),
        stderr=share_estimate(values).stderr,
        n=len(values),
        unit="share",
        direction="maximise",
    )
    items = [
        Item(evaluator="tone", index=at, prompt=str(at), values={"passed": value})
        for at, value in enumerate(values)
    ]
    return Side({("tone", False): score}, {False: items, True: []}, is_trained=True)


def claimed(
    n_items: int, mean: float, gain: float, seed_sd: float, draw: np.random.Generator
) -> float:
    """Return the share of pairs of models for which a difference is claimed.

    Args:
        n_items: Prompts.
        mean: Chance of passing of the first model, mean over items.
        gain: How much higher it is for the second one.
        seed_sd: How far trainings of one recipe lie apart; 0: not at all, and nobody says that they do.
        draw: Of everything.
    """
    spreads = Spreads({("tone", False): (SEED_SD**2, SEED_DF)} if seed_sd else {})
    n = 0
    for _ in range(N_PAIRS):
        chance_N = draw.beta(2 * mean, 2 * (1 - mean), n_items)
        shift = draw.normal(0, seed_sd, 2) if seed_sd else np.zeros(2)
        models = [
            side(draw.random(n_items) < np.clip(chance_N + extra, 0, 1))
            for extra in (shift[0], gain + shift[1])
        ]
        (found,) = score_differences(models[0], models[1], DIRECTIONS, {}, spreads)
        n += found.verdict in ("better", "worse")
    return n / N_PAIRS


def main() -> None:
    """Print a line per case."""
    draw = np.random.default_rng(0)
    print(f"{N_PAIRS} pairs of models each; share for which a difference is claimed")
    for n_items in (8, 24):
        for mean in (0.5, 0.9):
            for gain, seed_sd in ((0.0, 0.0), (0.0, SEED_SD), (-0.3, 0.0)):
                share = claimed(n_items, mean, gain, seed_sd, draw)
                what = "equal" if not gain else f"apart by {-gain:g}"
                told = f", trainings differ by {seed_sd:g}" if seed_sd else ""
                print(f"{n_items:4} items, passing {mean:.1f}, {what}{told}: {share:.3f}")


if __name__ == "__main__":
    main()
