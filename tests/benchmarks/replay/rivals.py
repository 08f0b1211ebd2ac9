"""Samplers for comparison on the replay table: a search without a model, and ours with a part taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from search.front import front_mask
from search.sampling.asking import Asker
from search.sampling.stagewise.model import StageModel
from search.sampling.stagewise.opening import at_random
from search.sampling.stagewise.sampler import StagewiseSampler
from search.sampling.stagewise.tree import Node
from search.sampling.stagewise.worth import Judge, Path

Change = Callable[[Asker], None]


class BestFirst(StagewiseSampler):
    """Best-first search on the tree of stages, without a model: extends what nothing dominates by a random stage.

    One proposal in five extends any model that is known.
    """

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the params of a recipe."""
        rng = np.random.default_rng([self._seed, trial.number])
        past = self._reader.past(study, trial.number)
        taken = past.taken()
        if () not in past.losses and () not in past.running:
            return dict(self._tree.params(()))
        known: list[Node] = list(past.losses) or [()]
        mask = (
            front_mask(np.array([past.losses[node] for node in known])) if past.losses else [True]
        )
        front = [node for node, is_in in zip(known, mask, strict=True) if is_in]
        for _ in range(1000):
            pool = front if rng.random() < 0.8 else known
            start = pool[int(rng.integers(len(pool)))]
            names = self._tree.following(start, len(start) + 1)
            if names:
                influence = names[int(rng.integers(len(names)))]
                node = (*start, self._tree.random_step(influence, rng))
                if node not in taken:
                    return dict(self._tree.params(node))
        return dict(self._tree.params(at_random(self._space, self._tree, past, rng)))


class WholePaths(StagewiseSampler):
    """Ours without planning anew at every boundary: a trial trains the whole path."""

    def _cut(self, start: Node, steps: Node) -> Node:
        return (*start, *steps)


class NextStageOnly(StagewiseSampler):
    """Ours without looking ahead: a path is worth what its first step is worth."""

    def _worth(self, judge: Judge, paths: Sequence[Path]) -> NDArray[np.float64]:
        return judge.worth([(start, steps[:1]) for start, steps in paths])


class NoState(StageModel):
    """A model that does not look at the scores before a stage, only at what ran."""

    def _inputs(self, before_MF: Any, counts_MI: Any, features_MV: Any) -> Any:
        return super()._inputs(np.zeros_like(before_MF), counts_MI, features_MV)


class Stateless(StagewiseSampler):
    """Ours with a model that does not see the state it starts from."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Build as ours."""
        super().__init__(*arguments, **options)
        self._model = NoState(self._tree)


def replaced(kind: type[StagewiseSampler], **options: Any) -> Change:
    """Return a change of an Asker that lets another sampler propose."""

    def change(asker: Asker) -> None:
        ours = asker._stagewise
        assert ours is not None
        asker._stagewise = kind(ours._space, ours._reference, ours._seed, **options)

    return change
