"""Recompute every number of trials.csv from the kept items alone. Imports nothing of the project, on purpose.

    python tests/recompute.py results/inner_voice

Formulas: the cards at the top of evaluators/behaviours/*.py. Prints how many numbers agree; exits with 1 unless all do.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

Values = dict[str, float]
TOLERANCE = 1e-6


def mean(values: list[float]) -> tuple[float, float]:
    """Mean, and sample standard deviation over the root of n."""
    n = len(values)
    center = sum(values) / n
    return center, math.sqrt(sum((v - center) ** 2 for v in values) / (n - 1) / n)


def share(values: list[float]) -> tuple[float, float]:
    """Share, with Agresti and Coull's standard error: two successes and two failures added."""
    n = len(values) + 4
    p = (sum(values) + 2) / n
    return sum(values) / len(values), math.sqrt(p * (1 - p) / n)


def ratio(above: list[float], below: list[float]) -> tuple[float, float]:
    """Ratio of sums, with the delta method's standard error over rows."""
    n = len(above)
    r = sum(above) / sum(below)
    spread = sum((a - r * b) ** 2 for a, b in zip(above, below, strict=True)) / (n - 1) / n
    return r, math.sqrt(spread) / (sum(below) / n)


def sign_share(differences: list[float]) -> tuple[float, float]:
    return share([1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences])


def scores_of(name: str, items: list[Values]) -> dict[str, tuple[float, float]]:
    """Scores of one evaluator; what it measures is told by the keys of its items."""
    if "passed" in items[0]:
        return {name: share([item["passed"] for item in items])}
    if "chosen_nats" in items[0]:
        per_token = [
            i["chosen_nats"] / i["chosen_tokens"] - i["rejected_nats"] / i["rejected_tokens"]
            for i in items
        ]
        gains = [
            (i["chosen_nats"] - i["base_chosen_nats"])
            - (i["rejected_nats"] - i["base_rejected_nats"])
            for i in items
        ]
        return {
            f"{name}.accuracy": sign_share(per_token),
            f"{name}.margin": mean(per_token),
            f"{name}.gain": mean(gains),
            f"{name}.gain_accuracy": sign_share(gains),
        }
    if "kl_nats" in items[0]:
        bits = [(i["nats"] - i["base_nats"]) / math.log(2) for i in items]
        return {
            f"{name}.bits_per_byte_change": ratio(bits, [i["bytes"] for i in items]),
            f"{name}.kl": ratio([i["kl_nats"] for i in items], [i["tokens"] for i in items]),
        }
    if "nats" in items[0]:
        bits = [i["nats"] / math.log(2) for i in items]
        return {name: ratio(bits, [i["bytes"] for i in items])}
    raise ValueError(f"items of {name} have unknown keys {sorted(items[0])}")


def recomputed(boundary: Path) -> dict[str, tuple[float, float]]:
    """All scores of one boundary, those of the holdout too."""
    found = {}
    for file in ("items.jsonl", "holdout.jsonl"):
        by_evaluator: dict[str, list[Values]] = defaultdict(list)
        path = boundary / file
        for line in path.read_text().splitlines() if path.exists() else ():
            item = json.loads(line)
            by_evaluator[item["evaluator"]].append(item["values"])
        for name, items in by_evaluator.items():
            found.update(scores_of(name, items))
    return found


def compare(results: Path) -> tuple[int, list[str]]:
    """Return how many numbers agree, and a line for each that does not or that the table lacks."""
    n_equal, faults = 0, []
    with (results / "report/trials.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            boundaries = results / f"trials/{int(row['number']):04d}/boundaries"
            numbers = (
                [int(path.name) for path in boundaries.iterdir()] if boundaries.exists() else []
            )
            if row["state"] != "COMPLETE" or not numbers:
                continue
            for name, (value, stderr) in recomputed(boundaries / str(max(numbers))).items():
                for column, expected in ((name, value), (f"{name}_stderr", stderr)):
                    told = row.get(column) or "nothing"
                    if told != "nothing" and math.isclose(
                        float(told), expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE
                    ):
                        n_equal += 1
                    else:
                        faults.append(
                            f"trial {row['number']}: {column} is {told}, items say {expected}"
                        )
    return n_equal, faults


if __name__ == "__main__":
    n_agreeing, differing = compare(Path(sys.argv[1]))
    print("\n".join([*differing, f"{n_agreeing} numbers agree, {len(differing)} differ"]))
    sys.exit(bool(differing))
