"""A bound that a trial's last scores exceed with a stated probability at most: conformal, by kind of what remains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.stopping.past import Example, Gains
from search.stopping.predictor import Fit, Predictor

N_FOLDS = 10
"""Parts into which the past is split: each is predicted by what the others taught."""


@dataclass(frozen=True)
class Margin:
    """What is added to a prediction to make it an upper bound."""

    added: Gains
    """Per column, shape (K,)."""
    n_past: int
    """Examples it rests on."""


def n_needed(alpha: float) -> int:
    """Return how many examples a bound with error rate `alpha` needs: with fewer it would be infinite."""
    return math.ceil(1 / alpha - 1e-9) - 1


def upper_rank(n_past: int, alpha: float) -> int:
    """Return the rank (from 1) of the residual that is the upper quantile of the next one: ceil((n + 1)(1 - alpha)).

    Source: Vovk, Gammerman, Shafer 2005; Lei et al. 2018 (arXiv 1604.04173), section 2.2.

    Raises:
        ValueError: There is no such residual among `n_past`.
    """
    rank = math.ceil((n_past + 1) * (1 - alpha) - 1e-9)
    if not 1 <= rank <= n_past:
        raise ValueError(f"{n_past} examples are too few for alpha {alpha:g}")
    return rank


def margin(residuals_NK: Gains, alpha: float) -> Margin:
    """Return the margin from residuals (actual minus predicted gains of past trials), shape (N, K).

    Columns are divided by their root mean square; of each row the largest counts, so one quantile bounds all columns
    at once: the next row exceeds the margin in any column with probability `alpha` at most, if it and the rows are
    exchangeable. `alpha` is per bound and over all bounds, not over those that make the rule stop. What breaks or
    weakens it:

    - A sampler that learns proposes what the past did not, so the next row is not like the others.
    - The scale comes from the calibration rows alone. With K > 1 the next row is then no exact peer of theirs; with
      K = 1 the scale cancels.
    - Stopped trials leave no row for what they did not run, so those that looked bad are rarer: rows are censored.
    - A trial of n stages is judged up to n - 1 times, at rungs oftener; that any of these bounds fails is likelier.

    How much of the promise is left is measured, in a study by trials that ran to their end and by the replay benchmark.

    Raises:
        ValueError: There are fewer rows than `n_needed(alpha)`.
    """
    n_past = len(residuals_NK)
    rank = upper_rank(n_past, alpha)
    scale_K = np.sqrt((residuals_NK**2).mean(axis=0))
    # A column in which no prediction ever failed gets no margin.
    standard_NK = residuals_NK / np.where(scale_K > 0, scale_K, 1.0)
    quantile = float(np.sort(standard_NK.max(axis=1))[rank - 1])
    return Margin(quantile * scale_K, n_past)


def residuals(kind: Sequence[Example], every: Sequence[Example], fit: Fit) -> Gains:
    """Return actual minus predicted gains of examples, each predicted from other trials, shape (N, K).

    Cross-fitted (Vovk 2015, cross-conformal; Barber et al. 2021, CV+): no example is judged by a predictor that knew
    its trial, and none is lost to a calibration set. The guarantee of a plain split, 1 - alpha, is then only nearly
    met.

    Args:
        kind: Examples whose residuals are asked for; at least one.
        every: Examples to learn from, `kind` among them.
        fit: Learns a predictor.
    """
    numbers = sorted({example.trial.number for example in kind})
    n_folds = min(N_FOLDS, len(numbers))
    fold_of = {number: index % n_folds for index, number in enumerate(numbers)}
    found: list[Gains] = []
    for fold in range(n_folds):
        known = [example for example in every if fold_of.get(example.trial.number) != fold]
        predictor = fit(known)
        found += [
            example.after - predicted(predictor, example)
            for example in kind
            if fold_of[example.trial.number] == fold
        ]
    return np.array(found)


def predicted(predictor: Predictor, example: Example) -> Gains:
    """Return what a predictor says of an example's later boundary, seen from its earlier one, shape (K,)."""
    trial = example.trial
    recipe = trial.recipe.prefix(example.end)
    gains_MK = trial.so_far(example.start, example.share)
    return predictor.predict(recipe, example.start, gains_MK, example.share)
