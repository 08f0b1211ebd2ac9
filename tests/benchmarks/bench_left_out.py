"""Can a stage's leave-one-out be estimated without training, from stored boundaries and the sampler's stage model?

    python tests/benchmarks/bench_left_out.py [--draws 5] [--recipes 40 150]

Studies of random recipes are drawn from the replay table; the model of stages learns from all their boundaries. Of each
recipe of three stages the first or the second is left out: the stages after it are chained from the boundary before it.
What really trains without it stands in the table. Prints Spearman's correlation of the two over recipes, per score.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent / "replay"))
from table import Node as Recorded
from table import ReplayTable, digest_of

from search.sampling.stagewise.model import Observation, StageModel, counts_of
from search.sampling.stagewise.tree import Node, Tree
from search.yaml_file import load_study
from spaces.params import Parameter, Params
from spaces.space import Space

TOP = Path(__file__).parents[2]
SCORES = ("structure", "format", "tone", "taste.margin", "retention.bits_per_byte_change")
N_EXPLAINED = 20


class Study:
    """Recipes of the table as a study would know them."""

    def __init__(self, table: ReplayTable, space: Space, drawn: list[Recorded]) -> None:
        self.table, self.space, self.tree = table, space, Tree(space)
        self.known: dict[str, Recorded] = {table.base.digest: table.base}
        observations = []
        for recipe in drawn:
            for after in table.path(recipe.digest)[1:]:
                if after.digest in self.known:
                    continue
                self.known[after.digest] = after
                node = self.node(after)
                observations.append(
                    Observation(
                        values(table.nodes[str(after.parent)]),
                        counts_of(node[:-1], self.tree.influences),
                        node[-1],
                        values(after),
                    )
                )
        self.model = StageModel(self.tree)
        self.model.fit(observations)

    def node(self, recorded: Recorded) -> Node:
        """Return a recorded recipe as the sampler sees it."""
        params: Params = dict(self.space.encode(recorded.order, {}))
        for (prefix, name), choice in zip(
            self.space.positions(recorded.order), recorded.choices, strict=True
        ):
            for field, value in self.space.values(prefix, name).items():
                if isinstance(value, Parameter):
                    params[value.name] = choice[field.rsplit(".", 1)[-1]]
        return self.tree.node(params)

    def without(self, recipe: Recorded, at: int) -> Recorded:
        """Return what the table holds of a recipe without one of its stages."""
        choices = [choice for place, choice in enumerate(recipe.choices) if place != at]
        return self.table.nodes[digest_of(choices)]

    def estimated(self, recipe: Recorded, at: int) -> np.ndarray:
        """Return the scores to expect without a stage: later ones chained from the boundary before it."""
        steps = self.node(recipe)
        before = self.table.path(recipe.digest)[at]
        found, done = values(before), steps[:at]
        for step in steps[at + 1 :]:
            found = self.model.mean_after(found, counts_of(done, self.tree.influences), step)
            done = (*done, step)
        return found


def values(recorded: Recorded) -> np.ndarray:
    return np.array([recorded.scores[name] for name in SCORES], float)


def correlations(table: ReplayTable, space: Space, n_recipes: int, seed: int) -> np.ndarray:
    """Return Spearman's correlation per score: of the model, and of the change at the boundary."""
    draw = random.Random(f"left out {seed}")
    whole = [node for node in table.nodes.values() if node.depth == 3]
    drawn = draw.sample(whole, n_recipes)
    study = Study(table, space, drawn)
    rows = []
    for recipe in draw.sample(drawn, N_EXPLAINED):
        path = table.path(recipe.digest)
        for at in (0, 1):
            truth = study.without(recipe, at)
            if truth.digest in study.known:
                continue  # Nothing to estimate.
            last = values(recipe)
            rows.append(
                [
                    last - values(truth),
                    last - study.estimated(recipe, at),
                    values(path[at + 1]) - values(path[at]),
                ]
            )
    table_N3F = np.array(rows)
    return np.array(
        [
            [stats.spearmanr(table_N3F[:, 0, f], table_N3F[:, way, f]).statistic for way in (1, 2)]
            for f in range(len(SCORES))
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--recipes", type=int, nargs="+", default=[40, 150])
    options = parser.parse_args()
    table = ReplayTable.load(TOP / "results" / "replay" / "table.parquet")
    spec = load_study(TOP / "tests" / "benchmarks" / "replay" / "study.yaml")
    space = Space(spec.influences, spec.order)
    print("| score | recipes in the study | model of stages | change at the boundary |")
    print("|---|---|---|---|")
    for n in options.recipes:
        found = np.array([correlations(table, space, n, seed) for seed in range(options.draws)])
        for f, name in enumerate(SCORES):
            cells = []
            for way in (0, 1):
                low, middle, high = np.quantile(found[:, f, way], [0, 0.5, 1])
                cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
            print(f"| {name} | {n} | {cells[0]} | {cells[1]} |", flush=True)
