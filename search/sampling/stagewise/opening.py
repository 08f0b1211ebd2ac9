"""Opening moves: what to propose before there is anything to learn from."""

from __future__ import annotations

import numpy as np

from search.sampling.stagewise.past import Past
from search.sampling.stagewise.tree import Node, Step, Tree
from spaces.space import Space

_TRIES = 64
"""Draws before a space counts as exhausted."""


def unseen(tree: Tree, past: Past) -> Node | None:
    """Return the middle of an influence that no trial has run yet, after a model from which it may run."""
    taken = past.taken()
    used = {step.influence for node in taken for step in node}
    for influence in tree.influences:
        if influence in used:
            continue
        for known in past.known() or [()]:
            start = tree.head(known) if tree.has_rounds else known
            n_stages = max(len(start) + 1, tree.min_stages)
            if influence not in tree.following(start, n_stages):
                continue
            node: Node = (*start, _middle(tree, start, influence))
            while len(node) < n_stages:
                node = (*node, _middle(tree, node, tree.following(node, n_stages)[0]))
            node = tree.in_rounds(node)
            if node not in taken and tree.is_legal(node):
                return node
    return None


def near_the_middle(tree: Tree, past: Past, rng: np.random.Generator) -> Node | None:
    """Return a recipe of the fewest stages near the middle of its ranges, of the influences that ran least."""
    taken = past.taken()
    names = [step.influence for node in taken for step in node]
    for _ in range(_TRIES):
        node: Node = ()
        while len(node) < tree.min_stages:
            allowed = tree.following(node, tree.min_stages)
            influence = min(allowed, key=lambda name: (names.count(name), rng.random()))
            step = tree.near_step(tree.middle_step(influence), rng)
            node = (*node, tree.fitted(node, step, rng))
        node = tree.in_rounds(node)
        if node not in taken and tree.is_legal(node):
            return node
    return None


def at_random(space: Space, tree: Tree, past: Past, rng: np.random.Generator) -> Node:
    """Return a random recipe that is not taken; if a few draws find none, one that is."""
    taken = past.taken()
    node: Node = ()
    for _ in range(_TRIES):
        node = tree.node(space.sample(int(rng.integers(2**31))))
        if node not in taken and tree.is_legal(node):
            break
    return node


def _middle(tree: Tree, node: Node, influence: str) -> Step:
    return tree.fitted(node, tree.middle_step(influence))
