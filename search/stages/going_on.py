"""Where a stage goes on in its data: what its recipe trained before it, and where that stopped. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.stages.mix import Places
from spaces.stage import Stage


@dataclass(frozen=True)
class Before:
    """A stage that was trained before, with the seed of its own order of rows."""

    stage: Stage
    seed: int


Earlier = Before | tuple[tuple[Before, ...], ...]
"""A stage, or the branches of a parallel one."""


def draws_again(stage: Stage, earlier: Sequence[Earlier], source_hashes: Mapping[str, str]) -> bool:
    """Return whether a stage has a loss on a source that one before it had."""
    drawn = {stream for one in _all(earlier) for stream in one.stage.streams(source_hashes)}
    return bool(stage.streams(source_hashes) & drawn)


def places_after(
    earlier: Sequence[Earlier], plan: Callable[[Stage, int, Places], Places]
) -> Places:
    """Return where stages stopped in their sources.

    Branches all begin at the same places. Behind them each source stands where the branch left it that came furthest,
    of two equally far the first.

    Args:
        earlier: What was trained, first to last.
        plan: Gives the places after a stage from the stage, its seed and the places before it.
    """
    places: Places = {}
    for each in earlier:
        if isinstance(each, Before):
            places = plan(each.stage, each.seed, places)
            continue
        furthest = dict(places)
        for branch in each:
            after = places
            for one in branch:
                after = plan(one.stage, one.seed, after)
            for stream, place in after.items():
                if stream not in furthest or place.n_rows > furthest[stream].n_rows:
                    furthest[stream] = place
        places = furthest
    return places


def _all(earlier: Sequence[Earlier]) -> Iterator[Before]:
    for each in earlier:
        if isinstance(each, Before):
            yield each
        else:
            yield from (one for branch in each for one in branch)
