"""How often do explanations find what was planted, and claim what is not there? And on real trainings?

    python tests/benchmarks/bench_attribution.py [--seeds 200] [--recipes 150]

Prints shares over seeds of synthetic worlds (tests/planted.py) that no test uses, and over recipes of the replay table:
how often intervals of partial Shapley values hold the exact one, and whether explanations see there that `tone` after
`structure` undoes it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "replay"))

from planted import (
    explained_claims,
    explained_doses,
    explained_orders,
    flat,
    growing,
    harm_after,
    nothing,
    one_useless,
    order_matters,
    saturating,
    shown_orders,
    turning,
    two_redundant,
)
from table import Node, ReplayTable

from evaluators.scores import Direction, Score
from search.attribution.explanation import explain, permutations_of
from search.attribution.known import Known, Measured, recipe_key
from search.attribution.lattice import Lattice, Subset
from search.attribution.noise import Estimate
from search.attribution.shapley import chain, sampled_shapley, shapley_weights, weighted
from search.attribution.verdicts import verdicts
from spaces.recipe import Full, Lora, Recipe, Stage

FIRST_SEED = 1000
TABLE = Path(__file__).parents[2] / "results" / "replay" / "table.parquet"
DIRECTIONS: dict[str, Direction] = {
    "structure": "maximise",
    "taste.margin": "maximise",
    "retention.bits_per_byte_change": "minimise",
}


def share(name: str, found: Iterable[bool]) -> None:
    listed = [bool(each) for each in found]
    print(f"{name:<66} {sum(listed):>4} of {len(listed)}  {sum(listed) / len(listed):.3f}")


def planted(n_seeds: int) -> None:
    seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)

    def said(law: Any, seed: int, kind: str) -> set[Any]:
        claims = explained_claims(law, seed)
        return {(claim.units, claim.score) for claim in claims if claim.kind == kind}

    def is_wrong(seed: int, trained: tuple[int, ...], spread: float) -> bool:
        claims = explained_claims(nothing, seed, trained, spread)
        return any(claim.kind != "useless" for claim in claims)

    share(
        "useless stage found, and only that",
        (said(one_useless, s, "useless") == {(("c",), None)} for s in seeds),
    )
    share(
        "harmful after another found, with the other, and only that",
        (said(harm_after, s, "harmful") == {(("b", "a"), "form")} for s in seeds),
    )
    share(
        "two that stand in for each other found, and only those",
        (said(two_redundant, s, "redundant") == {(("a", "b"), "form")} for s in seeds),
    )
    truth = {("b first instead of last", "form")}
    share(
        "better order found, and only that",
        (shown_orders(explained_orders(order_matters, s)) == truth for s in seeds),
    )
    share("null, stages: any claim", (is_wrong(s, (0, 1), 0.0) for s in seeds))
    share(
        "null, orders: any claim", (bool(shown_orders(explained_orders(nothing, s))) for s in seeds)
    )
    for n_trained in (1, 2, 3, 5):
        share(
            f"null with training noise twice that of items, {n_trained} seeds: any claim",
            (is_wrong(s, tuple(range(n_trained)), 0.03) for s in seeds),
        )
    for n in (16, 40):
        doses(n, seeds)


def doses(n: int, seeds: range) -> None:
    def curves(response: Callable[[int], float]) -> list[Any]:
        return [explained_doses(response, s, n)[("a", "form")] for s in seeds]

    turned, full, grown = curves(turning), curves(saturating), curves(growing)
    share(f"dose, {n} trials: harm found", (c.turns_at is not None for c in turned))
    held = [c.turns_at.low < 4000 < c.turns_at.high for c in turned if c.turns_at]
    share(f"dose, {n} trials: its interval holds the truth", held)
    share(f"dose, {n} trials: saturation found", (c.saturates_at is not None for c in full))
    held = [c.saturates_at.low < 2996 < c.saturates_at.high for c in full if c.saturates_at]
    share(f"dose, {n} trials: its interval holds the truth", held)
    share(f"dose, {n} trials: saturation called harm", (c.turns_at is not None for c in full))
    points = (c.turns_at is not None or c.saturates_at is not None for c in grown)
    share(f"dose, {n} trials: a line given a point of harm or saturation", points)
    wrong = (any(c.is_shown for c in explained_doses(flat, s, n).values()) for s in seeds)
    share(f"dose, {n} trials, null: any claim", wrong)


def real(n_recipes: int) -> None:
    table = ReplayTable.load(TABLE)
    nodes = [node for node in all_nodes(table) if node.depth == 3]
    known = Known(
        {recipe_key(made(n)): Measured(made(n), {0: scores(n)}) for n in all_nodes(table)}, 0
    )
    draw = random.Random(FIRST_SEED)
    for n_permutations in (2, 3, 4):
        share(
            f"real: 95 % interval from {n_permutations} of 6 permutations holds the exact Shapley value",
            (
                held
                for node in draw.sample(nodes, n_recipes)
                for held in holds(known, made(node), n_permutations)
            ),
        )
    harmed, spared = [], []
    for node in nodes:
        # Two stages that the table's notes say clash, and the same two the other way round.
        recipe = made(node)
        order = [stage.influence for stage in recipe.stages]
        lattice = Lattice(recipe)
        alone = lattice.made([order.index("structure")])
        assert alone is not None
        estimate = known.estimate(recipe_key(alone), "structure")
        if estimate is None or estimate.value < 0.25:
            continue
        margins = {name: known.margin(name, 0.1) for name in DIRECTIONS}
        claims = verdicts(explain(known, 0, recipe, DIRECTIONS, margins))
        is_said = any(
            claim.kind in ("harmful", "takes")
            and claim.units[0] == "tone"
            and claim.score == "structure"
            for claim in claims
        )
        (harmed if order.index("tone") > order.index("structure") else spared).append(is_said)
    share("real: tone after a structure of 0.25 or more is said to harm it", harmed)
    share("real: the same said of tone before structure", spared)


def holds(known: Known, recipe: Recipe, n_permutations: int) -> list[bool]:
    lattice = Lattice(recipe)
    found = []
    for name in DIRECTIONS:
        every = {s: lattice.subset(s) for s in lattice.subsets()}
        estimates = {s: known.estimate(recipe_key(r), name) for s, r in every.items() if r}
        drawn = permutations_of(recipe)[:n_permutations]
        kept = {subset for permutation in drawn for subset in chain(permutation)}

        def scored(
            subset: Subset,
            estimates: dict[Subset, Estimate | None] = estimates,
            kept: set[Subset] = kept,
        ) -> Estimate | None:
            return estimates[subset] if subset in kept else None

        for unit in range(3):
            exact = weighted(shapley_weights(3, unit), estimates.__getitem__)
            part = sampled_shapley(3, unit, drawn, scored)
            if exact and part and part.low is not None and part.high is not None:
                found.append(part.low <= exact.value <= part.high)
    return found


def all_nodes(table: ReplayTable) -> list[Node]:
    found, left = [], [table.base]
    while left:
        node = left.pop()
        found.append(node)
        left += table.children(node.digest)
    return found


def made(node: Node) -> Recipe:
    return Recipe(
        stages=tuple(
            Stage(
                influence=choice["influence"],
                method="sft",
                adapter=Lora(rank=choice["rank"], alpha=4.0) if choice["rank"] else Full(),
                mix={choice["influence"]: 1.0},
                dose_tokens=choice["dose_tokens"],
                learning_rate=choice["learning_rate"],
            )
            for choice in node.choices
        )
    )


def scores(node: Node) -> dict[str, Score]:
    return {
        name: Score(
            name=name,
            value=node.scores[name],
            stderr=node.stderrs[name],
            n=24,
            unit="share" if name == "structure" else "",
            direction=direction,
        )
        for name, direction in DIRECTIONS.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--recipes", type=int, default=150)
    arguments = parser.parse_args()
    planted(arguments.seeds)
    real(arguments.recipes)
