"""From what each item said of trained models: does choosing items pay, and what does screening save and lose?

    .venv/bin/python tests/benchmarks/fidelity/train.py          # first, once
    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/fidelity/analyse.py

Choosing: on half of the models items are chosen, on the other half the chosen ones order models, and are held against
the order by all items. Screening: the models in random orders, as a search of random recipes would meet them, with the
rule that studies use.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evaluators.scores import Score
from evaluators.stats import mean_estimate, ratio_estimate, share_estimate
from evaluators.stats.terms import item_terms
from evaluators.subset import first_rows_of
from search.folders import StudyFolder
from search.front import front_mask, hypervolume
from search.records import TrialRecord
from search.sources import read_source
from search.spec import StudySpec
from search.stopping.past import Goals
from search.stopping.screening import optimistic_gains
from search.yaml_file import load_study

TOP = Path(__file__).resolve().parents[3]
Array = NDArray[np.float64]
SHARES = (0.1, 0.25, 0.5)
CHOSEN_FOR = ("structure", "tone", "taste.margin", "taste.gain_accuracy", "retention.kl")
N_SPLITS, N_RANDOM = 20, 6


class Table:
    """Scores of M models from their items: numerators (M, N) over denominators (M, N)."""

    def __init__(self, folder: StudyFolder, records: Sequence[TrialRecord], name: str) -> None:
        tops, bottoms = [], []
        for record in records:
            n_stages = record.boundaries[-1].n_stages
            items = list(folder.trial(record.number).read_items(n_stages, False))
            terms = item_terms(record.final_scores[name], items)
            assert terms is not None, f"{name}: the items do not give the score"
            own = [terms.by_item[at] for at in sorted(terms.by_item)]
            tops.append([term.numerator for term in own])
            bottoms.append([term.denominator for term in own])
        self.name = name
        self.top_MN, self.bottom_MN = np.array(tops), np.array(bottoms)
        self.full_M = self.scores(slice(None))

    def scores(self, items: slice | Sequence[int]) -> Array:
        """Return the score of each model on some items, shape (M,)."""
        return np.asarray(self.top_MN[:, items].sum(1) / self.bottom_MN[:, items].sum(1))

    @property
    def values(self) -> Array:
        """One value per item whose mean is about the score."""
        return self.top_MN / self.bottom_MN


def by_variance(values_MN: Array, n: int) -> list[int]:
    """Return the items on which models differ most."""
    return np.argsort(-values_MN.var(axis=0), kind="stable")[:n].tolist()


def by_covariance(values_MN: Array, n: int) -> list[int]:
    """Return the items that go most with the mean of the others: classical discrimination times spread."""
    rest_MN = (values_MN.sum(axis=1, keepdims=True) - values_MN) / (values_MN.shape[1] - 1)
    covariance_N = ((values_MN - values_MN.mean(0)) * (rest_MN - rest_MN.mean(0))).mean(0)
    return np.argsort(-covariance_N, kind="stable")[:n].tolist()


def by_information(values_MN: Array, n: int) -> list[int]:
    """Return the items with the most Fisher information over the models' abilities, by a two-parameter logistic model.

    Ability is the standardised mean; slope and place of each item by logistic regression with a normal prior. Values
    that are no passes are cut at the median of all, since the model is one of passes.
    """
    binary_MN = values_MN
    if not set(np.unique(values_MN)) <= {0.0, 0.5, 1.0}:
        binary_MN = (values_MN > np.median(values_MN)).astype(float)
    ability_M = values_MN.mean(axis=1)
    ability_M = (ability_M - ability_M.mean()) / (ability_M.std() or 1.0)
    design_M2 = np.column_stack([np.ones_like(ability_M), ability_M])
    information = []
    for passed_M in binary_MN.T:
        weights_2 = np.zeros(2)
        for _ in range(25):
            p_M = 1 / (1 + np.exp(-design_M2 @ weights_2))
            gradient_2 = design_M2.T @ (passed_M - p_M) - weights_2 / 4
            hessian_22 = (design_M2.T * (p_M * (1 - p_M))) @ design_M2 + np.eye(2) / 4
            weights_2 = weights_2 + np.linalg.solve(hessian_22, gradient_2)
        p_M = 1 / (1 + np.exp(-design_M2 @ weights_2))
        sign = 1.0 if weights_2[1] > 0 else 0.0
        information.append(sign * weights_2[1] ** 2 * (p_M * (1 - p_M)).mean())
    return np.argsort(-np.array(information), kind="stable")[:n].tolist()


def by_regression(values_MN: Array, n: int) -> list[int]:
    """Return items whose plain mean follows the mean of all most closely, taken one by one."""
    full_M = values_MN.mean(axis=1)
    full_M = full_M - full_M.mean()
    centred_MN = values_MN - values_MN.mean(axis=0)
    chosen: list[int] = []
    sum_M = np.zeros_like(full_M)
    for size in range(1, n + 1):
        gaps_N = (((sum_M[:, None] + centred_MN) / size - full_M[:, None]) ** 2).mean(axis=0)
        gaps_N[chosen] = np.inf
        chosen.append(int(gaps_N.argmin()))
        sum_M = sum_M + centred_MN[:, chosen[-1]]
    return chosen


CHOICES: dict[str, Callable[[Array, int], list[int]]] = {
    "variance": by_variance,
    "covariance": by_covariance,
    "information (2PL)": by_information,
    "regression, greedy": by_regression,
}


def kendall(table: Table, items: Sequence[int], models: Array) -> float:
    """Return how far some items order models as all items do."""
    tau = stats.kendalltau(table.scores(items)[models], table.full_M[models]).statistic
    return float(tau) if math.isfinite(tau) else 0.0


def choosing(tables: Sequence[Table], orders: dict[str, Callable[[float], Sequence[int]]]) -> None:
    """Print how chosen, fixed and random parts order models that were not chosen on."""
    print("| score | items | random | fixed order | " + " | ".join(CHOICES) + " |")
    print("|" + "---|" * (4 + len(CHOICES)))
    gains: dict[tuple[str, float], list[float]] = {}
    for table in tables:
        n_models, n_items = table.top_MN.shape
        for share in SHARES:
            n = max(8, math.ceil(share * n_items))
            draw = np.random.default_rng(1)
            found: dict[str, list[float]] = {name: [] for name in ("random", "fixed", *CHOICES)}
            for _ in range(N_SPLITS):
                order_M = draw.permutation(n_models)
                seen, held = order_M[: n_models // 2], order_M[n_models // 2 :]
                taus = [
                    kendall(table, draw.permutation(n_items)[:n], held) for _ in range(N_RANDOM)
                ]
                found["random"].append(float(np.mean(taus)))
                found["fixed"].append(kendall(table, orders[table.name](share), held))
                for name, choose in CHOICES.items():
                    items = choose(table.values[seen], n)
                    found[name].append(kendall(table, items, held))
            cells = []
            for name, own in found.items():
                gap = np.array(own) - np.array(found["random"])
                better = "" if name == "random" else f" ({gap.mean():+.3f}, {(gap > 0).mean():.0%})"
                cells.append(f"{np.mean(own):.3f}{better}")
                gains.setdefault((name, share), []).append(float(gap.mean()))
            print(f"| {table.name} | {n} of {n_items} | " + " | ".join(cells) + " |")
    for share in SHARES:
        parts = [f"{name} {np.mean(gains[name, share]):+.3f}" for name in ("fixed", *CHOICES)]
        print(f"mean gain over random at {share:g}: " + ", ".join(parts))


def bias(tables: Sequence[Table]) -> None:
    """Print how far off the value itself is on chosen items, in standard errors of a random part."""
    for table in tables:
        n_items = table.top_MN.shape[1]
        n = max(8, math.ceil(0.25 * n_items))
        half = table.top_MN.shape[0] // 2
        spread = table.values.std(axis=1, ddof=1).mean() / math.sqrt(n) * math.sqrt(1 - n / n_items)
        parts = []
        for name, choose in CHOICES.items():
            items = choose(table.values[:half], n)
            off_M = table.scores(items)[half:] - table.full_M[half:]
            parts.append(f"{name} {off_M.mean() / spread:+.1f}")
        print(f"{table.name}: mean error of the value in standard errors: " + ", ".join(parts))


def partial_score(table: Table, model: int, items: Sequence[int], score: Score) -> Score:
    """Return a model's score on some items, with the standard error that its evaluator would give."""
    top_N, bottom_N = table.top_MN[model, items], table.bottom_MN[model, items]
    if score.unit == "share":
        estimate = share_estimate(top_N)
    elif (bottom_N == 1).all():
        estimate = mean_estimate(top_N)
    else:
        estimate = ratio_estimate(top_N, bottom_N)
    fidelity = len(items) / table.top_MN.shape[1]
    return score.model_copy(
        update={
            "value": estimate.value,
            "stderr": estimate.stderr,
            "n": len(items),
            "fidelity": fidelity,
        }
    )


def screening(
    spec: StudySpec,
    records: Sequence[TrialRecord],
    tables: dict[str, Table],
    orders: dict[str, Callable[[float], Sequence[int]]],
    objectives: Sequence[tuple[str, float, float]],
    n_orders: int = 200,
) -> None:
    """Print what screening saves and loses.

    Args:
        spec: The study.
        records: Its trials.
        tables: By score.
        orders: By score.
        objectives: Name, sign (1 to maximise) and reference.
        n_orders: Random orders of the trials.
    """
    goals = Goals(tuple(name for name, *_ in objectives), tuple(s for _, s, _ in objectives), ())
    gains_MK = np.array(
        [[s * tables[name].full_M[m] for name, s, _ in objectives] for m in range(len(records))]
    )
    reference_K = np.array([-s * ref for _, s, ref in objectives])
    evaluate = np.array([record.seconds.evaluate for record in records])
    train = np.array([record.seconds.train for record in records])
    for share in SHARES:
        bounds = []
        for m, record in enumerate(records):
            own = [
                partial_score(tables[n], m, orders[n](share), record.final_scores[n])
                for n in goals.objectives
            ]
            bounds.append(optimistic_gains(own, goals, 0.05))
        bound_MK = np.array(bounds)
        wrong_bound = float((gains_MK > bound_MK + 1e-12).any(axis=1).mean())
        draw = np.random.default_rng(2)
        promoted, ratios, eval_ratios, lost = [], [], [], []
        for _ in range(n_orders):
            order = draw.permutation(len(records))
            kept: list[int] = []
            for m in order:
                rivals = gains_MK[kept]
                is_out = (
                    len(kept)
                    and (
                        (rivals >= bound_MK[m]).all(axis=1) & (rivals > bound_MK[m]).any(axis=1)
                    ).any()
                )
                if not is_out:
                    kept.append(m)
            out = np.setdiff1d(np.arange(len(records)), kept)
            spent = evaluate.sum() - (1 - share) * evaluate[out].sum()
            promoted.append(len(kept) / len(records))
            eval_ratios.append(spent / evaluate.sum())
            ratios.append((spent + train.sum()) / (evaluate.sum() + train.sum()))
            volume = [hypervolume(-gains_MK[rows], reference_K) for rows in (kept, slice(None))]
            front = set(np.flatnonzero(front_mask(-gains_MK)).tolist())
            lost.append((1 - volume[0] / volume[1], len(front - set(kept)), len(front)))
        losses, missed, n_front = np.array(lost).T
        print(
            f"| {' + '.join(goals.objectives)} | {share:g} | {np.mean(promoted):.0%} | {np.mean(eval_ratios):.2f} | "
            f"{np.mean(ratios):.2f} | {1 - losses.mean():.4f} (worst {1 - losses.max():.4f}) | "
            f"{missed.mean():.2f} of {n_front[0]:.0f} | {wrong_bound:.0%} |"
        )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=TOP / ".demo" / "fidelity")
    options = parser.parse_args()
    folder = StudyFolder(options.work / "results")
    spec = load_study(options.work / "study.yaml")
    records = [record for record in folder.records() if record.state == "COMPLETE"]
    rows = {
        name: read_source(name, source, options.work).rows for name, source in spec.sources.items()
    }
    tables = {
        name: Table(folder, records, name)
        for name in {*CHOSEN_FOR, "retention.bits_per_byte_change"}
    }

    def order(name: str) -> Callable[[float], Sequence[int]]:
        evaluator = spec.suite[name.split(".")[0]]
        source = evaluator.sources()[0][0]
        return lambda share: first_rows_of(rows[source][: getattr(evaluator, "limit", None)], share)

    orders = {name: order(name) for name in tables}
    train = sum(record.seconds.train for record in records)
    evaluate = sum(record.seconds.evaluate for record in records)
    print(f"{len(records)} models; evaluating took {evaluate / train:.2f} of training\n")
    choosing([tables[name] for name in CHOSEN_FOR], orders)
    print()
    bias([tables[name] for name in CHOSEN_FOR])
    print(
        "\n| objectives | items | scored on all | suite | suite and training | hypervolume | front missed | "
        "bounds exceeded |"
    )
    print("|---|---|---|---|---|---|---|---|")
    structure, margin = ("structure", 1.0, 0.0), ("taste.margin", 1.0, 0.0)
    bits = ("retention.bits_per_byte_change", -1.0, 1.0)
    for objectives in ((structure, bits), (margin, bits), (structure, margin, bits)):
        screening(spec, records, tables, orders, objectives)


if __name__ == "__main__":
    main()
