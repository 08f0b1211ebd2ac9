"""Paths to judge: steps that could follow the models seen so far."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from search.sampling.stagewise.tree import Node, Step, Tree

LOOK_AHEAD = 3
"""Most steps beyond what was trained."""
_TRIES = 4
"""Draws per path wanted, before a small space counts as exhausted."""


class PathMaker:
    """Draws paths that start where a known model ends."""

    def __init__(
        self,
        tree: Tree,
        known: Sequence[Node],
        front: Sequence[Node],
        taken: Collection[Node],
        rng: np.random.Generator,
    ) -> None:
        """Take what is known.

        Args:
            tree: The space.
            known: Nodes whose scores are known, the base among them; paths start there.
            front: Those of them that nothing dominates.
            taken: Nodes that are known or in training: no path may end its first step there.
            rng: For the draws.
        """
        self._tree = tree
        self._known = list(known)
        self._is_known = set(known)
        self._front = list(front)
        self._taken = taken
        self._rng = rng

    def draw(self, n_paths: int) -> list[tuple[Node, Node]]:
        """Return at most `n_paths` distinct paths, each as (start, steps to come)."""
        found: dict[tuple[Node, Node], None] = {}
        for _ in range(n_paths * _TRIES):
            path = self._draw_one()
            if path is not None:
                found.setdefault(path)
            if len(found) == n_paths:
                break
        return list(found)

    def _draw_one(self) -> tuple[Node, Node] | None:
        pool = self._front if self._rng.random() < 0.5 else self._known
        start = pool[int(self._rng.integers(len(pool)))]
        if self._tree.has_rounds:
            start = self._tree.head(start)
        # A sibling of a good model may be better still.
        if len(start) == self._tree.max_stages or (start and self._rng.random() < 0.25):
            start = start[:-1]
        n_more = int(self._rng.integers(1, LOOK_AHEAD + 1))
        n_stages = min(self._tree.max_stages, max(self._tree.min_stages, len(start) + n_more))
        node = start
        while len(node) < n_stages:
            names = self._tree.following(node, n_stages)
            if not names:
                return None
            node = (*node, self._step(node, names[int(self._rng.integers(len(names)))]))
        if self._tree.has_rounds:
            node = self._tree.in_rounds(node, self._rng)
        n_known = next((n for n in range(len(node), -1, -1) if node[:n] in self._is_known), None)
        if n_known in (None, len(node)) or node[: n_known + 1] in self._taken:
            return None
        return node[:n_known], node[n_known:]

    def _step(self, node: Node, influence: str) -> Step:
        return self._tree.fitted(node, self._free_step(influence), self._rng)

    def _free_step(self, influence: str) -> Step:
        if self._rng.random() < 0.3:
            seen = [step for one in self._front for step in one if step.influence == influence]
            if seen:
                return self._tree.near_step(seen[int(self._rng.integers(len(seen)))], self._rng)
        return self._tree.random_step(influence, self._rng)
