"""StagewiseSampler: an Optuna sampler that proposes the recipe which buys the most hypervolume per second.

space = Space(influences, order)
study = optuna.create_study(directions=[...], sampler=StagewiseSampler(space, reference=[0.0, 1.0]))
trial = study.ask(); recipe = space.decode(space.suggest(trial, conditional=True))
trial.set_user_attr("boundaries", [as_boundary(1, [...], {}), ...])   # what the prefixes scored; optional
study.tell(trial, [...])

It draws paths of one to three steps from models seen so far, rolls a model of what a step does along each, and takes
the path with the highest expected gain in hypervolume per cost; of that path it proposes the first step alone, since
its outcome may change the plan. A prefix that was trained before costs nothing: keep results of stages, or say that
there is no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from threadpoolctl import ThreadpoolController

from search.front import front_mask
from search.sampling.stagewise.model import StageModel
from search.sampling.stagewise.opening import at_random, near_the_middle, unseen
from search.sampling.stagewise.past import Past, Reader
from search.sampling.stagewise.paths import PathMaker
from search.sampling.stagewise.tree import Node, Tree
from search.sampling.stagewise.worth import Judge, Path
from spaces.params import Choice, Float, Parameter
from spaces.space import Space

Array = NDArray[np.float64]

N_PATHS = 256
"""Paths judged per proposal."""
COST_EXPONENT = 0.4
"""Of seconds in gain per cost. Below 1, since a dear stage also leaves a better start for those after it."""


class StagewiseSampler(BaseSampler):
    """Expected hypervolume gain per cost over extensions of what is known; see the module."""

    def __init__(
        self,
        space: Space,
        reference: Sequence[float | None] | None = None,
        seed: int = 0,
        prefixes_are_stored: bool = True,
        cost_exponent: float = COST_EXPONENT,
    ) -> None:
        """Take what to propose from.

        Args:
            space: The recipes.
            reference: Reference point of the hypervolume, in the units and the order of the study's objectives. None,
                whole or in part: the worst value seen.
            seed: Of all draws. A proposal depends on it, on the trial's number and on the history, the seconds in it
                included, and on nothing else.
            prefixes_are_stored: Whether a stage that was trained once costs nothing later.
            cost_exponent: 0 ignores cost, 1 divides the gain by it.
        """
        self._space = space
        self._tree = Tree(space)
        self._reference = reference
        self._seed = seed
        self._prefixes_are_stored = prefixes_are_stored
        self._cost_exponent = cost_exponent
        self._reader = Reader(self._tree)
        self._model = StageModel(self._tree)
        self._random = RandomSampler(seed=seed)
        self._threads = ThreadpoolController()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the distributions of all parameters of the space."""
        return distributions(self._space)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the params of the recipe to try next; values that the recipe does not use are left out."""
        rng = np.random.default_rng([self._seed, trial.number])
        # On matrices this small threads only wait for each other, and their number would show in the last bits.
        with self._threads.limit(limits=1, user_api="blas"):
            node = self._propose(self._reader.past(study, trial.number), study, rng)
        return dict(self._tree.params(node))

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a random value: for params that an enqueued trial leaves open."""
        self._random._rng.rng.seed((self._seed * 1_000_003 + trial.number) % 2**32)
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _propose(self, past: Past, study: optuna.Study, rng: np.random.Generator) -> Node:
        if () not in past.losses and () not in past.running:
            # Nothing can be said of a stage before the base is scored.
            return ()
        node = unseen(self._tree, past)
        if node is None and not past.observations:
            node = near_the_middle(self._tree, past, rng)
        elif node is None:
            node = self._best(past, study, rng)
        return at_random(self._space, self._tree, past, rng) if node is None else node

    def _best(self, past: Past, study: optuna.Study, rng: np.random.Generator) -> Node | None:
        """Return the new recipe that the most worthy path leads to first; None if no path is left."""
        taken = past.taken()
        front = _front(past, len(study.directions))
        paths = PathMaker(self._tree, past.known(), front, taken, rng).draw(N_PATHS)
        if not paths:
            return None
        self._model.fit(past.observations)
        judge = Judge(
            self._tree,
            self._model,
            past,
            self._reference_losses(study),
            self._prefixes_are_stored,
            self._cost_exponent,
            rng,
        )
        for at in np.argsort(-self._worth(judge, paths), kind="stable"):
            node = self._cut(*paths[int(at)])
            if node not in taken and self._tree.is_legal(node):
                return node
        return None

    def _worth(self, judge: Judge, paths: Sequence[Path]) -> Array:
        return judge.worth(paths)

    def _cut(self, start: Node, steps: Node) -> Node:
        """Return the shortest recipe on a path that is new and that the space allows."""
        path = (*start, *steps)
        n_stages = max(len(start) + 1, self._tree.min_stages)
        while self._tree.has_rounds and not self._tree.is_legal(path[:n_stages]):
            # Rounds are whole: there may be no recipe between two of them.
            if n_stages >= len(path):
                break
            n_stages += 1
        return path[:n_stages]

    def _reference_losses(self, study: optuna.Study) -> Array:
        """Return the reference point as losses, shape (K,); NaN where none is given."""
        given = self._reference or [None] * len(study.directions)
        signs = (-1.0 if each == StudyDirection.MAXIMIZE else 1.0 for each in study.directions)
        return np.array(
            [
                np.nan if value is None else sign * value
                for value, sign in zip(given, signs, strict=True)
            ]
        )


def _front(past: Past, n_objectives: int) -> list[Node]:
    """Return the feasible models that nothing dominates; all models where none is feasible."""
    nodes = [node for node, losses_C in past.losses.items() if (losses_C[n_objectives:] <= 0).all()]
    if not nodes:
        return list(past.losses)
    mask = front_mask(np.array([past.losses[node][:n_objectives] for node in nodes]))
    return [node for node, is_in in zip(nodes, mask, strict=True) if is_in]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of all parameters of a space."""
    parameters = [*space.order_parameters(), *space.parameters()]
    return {parameter.name: _distribution(parameter) for parameter in parameters}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.choices)
    if isinstance(parameter, Float):
        return FloatDistribution(
            parameter.low, parameter.high, log=parameter.log, step=parameter.step
        )
    return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
