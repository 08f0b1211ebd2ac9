"""Say what a replay table holds: ranges, the true front, dose response, order, costs, and the noise of trainings.

python tests/benchmarks/replay/describe.py results/replay
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from table import Node, ReplayTable


def describe(table: ReplayTable) -> None:
    """Print everything but the noise."""
    nodes = list(table.nodes.values())
    measured = [node for node in nodes if table.is_measured(node)]
    print(f"nodes {len(nodes)}, by depth {dict(sorted(Counter(n.depth for n in nodes).items()))}")
    print(f"without all objectives: {len(nodes) - len(measured)}")
    for name in table.base.scores:
        values = np.array([n.scores[name] for n in nodes if n.scores[name] is not None])
        quantiles = np.quantile(values, [0, 0.1, 0.5, 0.9, 1])
        base = table.base.scores[name]
        print(f"{name:32} base {base:7.3f}  0/10/50/90/100 %", np.round(quantiles, 3))
    front = table.front()
    print(f"front {len(front)} of {len(measured)}; hypervolume {table.true_hypervolume:.4f}")
    print("front by depth", dict(sorted(Counter(n.depth for n in front).items())))
    print("front by order", Counter(" > ".join(n.order) for n in front).most_common())
    reach = (table.losses(measured) < table.reference).all(axis=1).mean()
    print(f"share of recipes inside the reference point: {reach:.2f}")
    _print_costs(nodes)
    for objective in table.objectives:
        _print_effects(measured, objective.score)


def _print_costs(nodes: Sequence[Node]) -> None:
    stages = np.array([node.stage_seconds for node in nodes if node.depth])
    evaluations = np.array([node.evaluate_seconds for node in nodes])
    print(f"CPU seconds: stages {stages.sum():.0f}, evaluations {evaluations.sum():.0f}")
    for name, values in (("stage", stages), ("evaluation", evaluations)):
        print(f"  {name:10} 10/50/90 %", np.round(np.quantile(values, [0.1, 0.5, 0.9]), 3))


def _print_effects(nodes: Sequence[Node], score: str) -> None:
    print(f"-- {score}")
    for name in sorted({name for node in nodes for name in node.order}):
        for key in ("dose_tokens", "learning_rate", "rank"):
            by_value: dict[float, list[float]] = {}
            for node in nodes:
                if node.depth and node.order[-1] == name and node.choices[-1][key] is not None:
                    by_value.setdefault(node.choices[-1][key], []).append(_value(node, score))
            if len(by_value) > 1:
                means = {value: round(float(np.mean(by_value[value])), 3) for value in by_value}
                print(f"   last stage {name}, mean by {key}: {dict(sorted(means.items()))}")
    longest = max(node.depth for node in nodes)
    by_order: dict[str, list[float]] = {}
    groups: dict[frozenset[str], list[float]] = {}
    for node in nodes:
        if node.depth == longest:
            by_order.setdefault(" > ".join(node.order), []).append(_value(node, score))
            same_stages = frozenset(str(sorted(choice.items())) for choice in node.choices)
            groups.setdefault(same_stages, []).append(_value(node, score))
    for order, values in by_order.items():
        print(f"   {order:26} mean {np.mean(values):7.3f}  max {max(values):7.3f}")
    whole = [values for values in groups.values() if len(values) > 1]
    if whole:
        within = float(np.mean([np.std(values) for values in whole]))
        spread = float(np.std(list(itertools.chain(*whole))))
        print(f"   same stages in another order: mean sd {within:.3f}; sd of all {spread:.3f}")


def _value(node: Node, score: str) -> float:
    value = node.scores[score]
    assert value is not None
    return value


def describe_noise(table: ReplayTable, path: Path) -> None:
    """Print how far another seed moves the scores, beside their spread and their standard errors."""
    rows = pq.read_table(path).to_pylist()
    pairs = [(table.nodes[row["digest"]], row) for row in rows if row["digest"] in table.nodes]
    print(f"-- {len(pairs)} recipes with another seed")
    for name in table.base.scores:
        both = [(n.scores[name], row[name]) for n, row in pairs]
        moved = np.array([b - a for a, b in both if a is not None and b is not None])
        spread = np.std(
            [n.scores[name] for n in table.nodes.values() if n.scores[name] is not None]
        )
        stderrs = [n.stderrs[name] for n, _ in pairs if n.stderrs[name] is not None]
        typical = f"{np.median(stderrs):.3f}" if stderrs else "none"
        print(
            f"   {name:32} sd of one training {np.sqrt(np.mean(moved**2) / 2):.3f}"
            f"  largest difference {np.abs(moved).max():.3f}"
            f"  sd over the table {spread:.3f}  median standard error {typical}"
        )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = ReplayTable.load(folder / "table.parquet")
    describe(found)
    if (folder / "replicates.parquet").exists():
        describe_noise(found, folder / "replicates.parquet")
