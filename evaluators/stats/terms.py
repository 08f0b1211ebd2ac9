"""What each item adds to a score, read from kept items: what comparing models item by item needs.

The formulas are those of the evaluators' cards. A score whose items do not give its value back has no terms: then it is
compared without its items, and nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluators.scores import Item, Score

TOLERANCE = 1e-6
Values = Mapping[str, float]


class Term(NamedTuple):
    """What one item adds: a score is the sum of numerators over the sum of denominators."""

    numerator: float
    denominator: float


class ItemTerms(NamedTuple):
    """A score's terms."""

    by_item: dict[int, Term]
    """Item index to what it adds."""
    clusters: dict[int, str]
    """Item index to its prompt: items that ask the same thing may depend on each other."""


def item_terms(score: Score, items: Iterable[Item]) -> ItemTerms | None:
    """Return what each item adds to a score; None where the score is missing or its items do not give its value.

    Args:
        score: As measured.
        items: Of the same suite on the same model; those of other evaluators are passed over.
    """
    if score.value is None:
        return None
    evaluator, _, part = score.name.partition(".")
    own = [item for item in items if item.evaluator == evaluator]
    tasks = [item for item in own if item.details.get("task") == part]
    own = tasks or own
    for formula in _formulas(part, own):
        try:
            terms = {item.index: formula(item.values) for item in own}
        except (KeyError, ZeroDivisionError):
            continue
        total = sum(term.denominator for term in terms.values())
        if len(terms) == len(own) == score.n and total > 0:
            value = sum(term.numerator for term in terms.values()) / total
            if math.isclose(value, score.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                return ItemTerms(
                    terms, {item.index: item.prompt or str(item.index) for item in own}
                )
    return None


def linearised(terms: Mapping[int, Term]) -> npt.NDArray[np.float64]:
    """Return one value per item whose mean is the score and whose spread gives its standard error, shape (N,).

    z_i = R + (y_i - R x_i) / mean(x), with R the ratio of sums: `ratio_estimate` in the form of a mean.
    """
    y_N = np.array([term.numerator for term in terms.values()])
    x_N = np.array([term.denominator for term in terms.values()])
    ratio = y_N.sum() / x_N.sum()
    return np.asarray(ratio + (y_N - ratio * x_N) / x_N.mean())


def clustered(values_SN: npt.NDArray[np.float64], clusters: list[str]) -> npt.NDArray[np.float64]:
    """Return one column per cluster instead of one per item, shape (S, G), with the same mean of each row.

    Items of one cluster are added up, so that whatever binds them together counts once.
    """
    names = {name: at for at, name in enumerate(dict.fromkeys(clusters))}
    if len(names) == len(clusters):
        return values_SN
    mean_S1 = values_SN.mean(axis=1, keepdims=True)
    place_N = [names[cluster] for cluster in clusters]
    sums_SG = np.zeros((len(values_SN), len(names)))
    np.add.at(sums_SG.T, place_N, (values_SN - mean_S1).T)
    return np.asarray(mean_S1 + sums_SG * len(names) / len(clusters))


def _formulas(part: str, items: list[Item]) -> list[Callable[[Values], Term]]:
    """Return the formulas that may hold: those of our evaluators by part, then a plain mean of a value."""
    if not items:
        return []
    known: dict[str, Callable[[Values], Term]] = {
        "accuracy": lambda v: Term(_positive(_margin(v)), 1.0),
        "margin": lambda v: Term(_margin(v), 1.0),
        "gain": lambda v: Term(_gain(v), 1.0),
        "gain_accuracy": lambda v: Term(_positive(_gain(v)), 1.0),
        "kl": lambda v: Term(v["kl_nats"], v["tokens"]),
        "bits_per_byte_change": lambda v: Term(
            (v["nats"] - v["base_nats"]) / math.log(2), v["bytes"]
        ),
        "": lambda v: Term(v["nats"] / math.log(2), v["bytes"]),
    }
    keys = [part, "passed", *items[0].values]
    means = [_mean_of(key) for key in dict.fromkeys(keys)]
    return [*([known[part]] if part in known else []), *means]


def _mean_of(key: str) -> Callable[[Values], Term]:
    return lambda values: Term(values[key], 1.0)


def _margin(values: Values) -> float:
    chosen = values["chosen_nats"] / values["chosen_tokens"]
    return chosen - values["rejected_nats"] / values["rejected_tokens"]


def _gain(values: Values) -> float:
    chosen = values["chosen_nats"] - values["base_chosen_nats"]
    return chosen - (values["rejected_nats"] - values["base_rejected_nats"])


def _positive(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)
