"""OrderSpec and the rules of legal sequences of influences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from pydantic import Field, model_validator

from spaces.spec import IntValue, Spec, ends

RESERVED_NAMES = {
    "base": "the untouched base",
    "order": "the parameter of that name",
    "n_stages": "the parameter of that name",
    "n_rounds": "the parameter of that name",
    "split": "the parameters that influences share",
}
"""Names that no influence may have, and what has them already."""


class OrderSpec(Spec):
    """Which influences may run, how many stages, in what order."""

    influences: tuple[str, ...] | None = None
    """Influences that may run. Default: all."""
    min_stages: int = Field(default=1, ge=1)
    """Fewest stages of a proposed recipe; the untouched base is tried in any case."""
    max_stages: int | None = Field(default=None, ge=1)
    """Most stages. Default: the number of influences."""
    max_repeats: int = Field(default=1, ge=1)
    """How often one influence may run in a recipe."""
    rounds: IntValue = 1
    """How often the order runs through: in 2 rounds `a > b` trains a, b, a, b. Doses are totals, split evenly over the
    rounds; `min_stages`, `max_stages` and `before` hold within a round."""
    before: tuple[tuple[str, str], ...] = ()
    """Fixed precedence: `[tone, taste]` means tone never runs after taste."""
    per_position: bool = False
    """True: an influence's values are free at each position; False: shared by all its positions."""
    encoding: Literal["auto", "sequence", "keys"] = "auto"
    """How a sampler sees the order: one choice among all legal `sequence`s, or random `keys` that are sorted."""

    @model_validator(mode="after")
    def _check(self) -> OrderSpec:
        if self.max_stages is not None and self.max_stages < self.min_stages:
            raise ValueError(
                f"min_stages {self.min_stages} is above max_stages {self.max_stages}; swap or widen them"
            )
        fewest, most = ends(self.rounds)
        if fewest < 1:
            raise ValueError(f"rounds may be {fewest}; write whole numbers of at least 1")
        if most > 1 and self.max_repeats > 1:
            raise ValueError(
                "rounds run the whole order again, and max_repeats lets an influence run again inside it; "
                "give one of both"
            )
        return self


class OrderRules:
    """The legal sequences of influences under an OrderSpec."""

    def __init__(self, spec: OrderSpec, known: Sequence[str]) -> None:
        """Combine a spec with the names of the study's influences.

        Raises:
            ValueError: A reserved name, an unknown influence, a cycle in `before`, or no sequence of `min_stages`
                exists.
        """
        for name in known:
            if name in RESERVED_NAMES:
                raise ValueError(
                    f"influence {name!r} has the name of {RESERVED_NAMES[name]}; choose another"
                )
        self.influences = tuple(known) if spec.influences is None else spec.influences
        self.before = spec.before
        self.max_repeats = spec.max_repeats
        self.min_stages = spec.min_stages
        unknown = [name for name in (*self.influences, *sum(spec.before, ())) if name not in known]
        if unknown:
            raise ValueError(f"order names {unknown[0]!r}; known influences: {', '.join(known)}")
        if len(set(self.influences)) != len(self.influences):
            raise ValueError(
                "order.influences repeats a name; max_repeats says how often one may run"
            )
        _refuse_cycles(spec.before)
        capacity = len(self.influences) * spec.max_repeats
        self.max_stages = spec.max_stages or capacity
        if self.max_stages > capacity:
            raise ValueError(
                f"order.max_stages is {self.max_stages}, but {len(self.influences)} influences with "
                f"max_repeats {spec.max_repeats} fill only {capacity}; lower it or raise max_repeats"
            )
        if self.min_stages > self.max_stages:
            raise ValueError(
                f"order.min_stages is {self.min_stages}, above the {self.max_stages} stages that are possible"
            )

    def legal_next(self, prefix: Sequence[str], n_stages: int) -> list[str]:
        """Return the influences that may follow `prefix` in a recipe of exactly `n_stages` stages."""
        n_left = n_stages - len(prefix) - 1
        return [
            name
            for name in self._allowed(prefix)
            if n_left >= 0 and self._room((*prefix, name)) >= n_left
        ]

    def check(self, sequence: Sequence[str]) -> None:
        """Raise ValueError if a sequence breaks a rule; the empty one (the base) is always legal."""
        if not sequence:
            return
        if not self.min_stages <= len(sequence) <= self.max_stages:
            raise ValueError(
                f"has {len(sequence)} stages; order allows {self.min_stages} to {self.max_stages}"
            )
        for position, name in enumerate(sequence):
            if name not in self._allowed(sequence[:position]):
                raise ValueError(
                    f"{name!r} may not be stage {position + 1} of {' > '.join(sequence)}: "
                    "see order.influences, order.max_repeats and order.before"
                )

    def n_sequences(self) -> int:
        """Count the legal sequences, the empty one left out."""
        counts: dict[tuple[int, ...], int] = {}

        def count(prefix: tuple[str, ...]) -> int:
            # What may follow depends on how often each influence has run, not on their order.
            key = tuple(prefix.count(name) for name in self.influences)
            if key not in counts:
                here = int(self.min_stages <= len(prefix) <= self.max_stages)
                counts[key] = here + sum(
                    count((*prefix, name))
                    for name in (self._allowed(prefix) if len(prefix) < self.max_stages else [])
                )
            return counts[key]

        return count(())

    def sequences(self) -> Iterator[tuple[str, ...]]:
        """Yield every legal sequence, shorter ones first; the empty one is left out."""
        for n_stages in range(self.min_stages, self.max_stages + 1):
            yield from self._sequences((), n_stages)

    def _sequences(self, prefix: tuple[str, ...], n_stages: int) -> Iterator[tuple[str, ...]]:
        if len(prefix) == n_stages:
            yield prefix
            return
        for name in self.legal_next(prefix, n_stages):
            yield from self._sequences((*prefix, name), n_stages)

    def _allowed(self, prefix: Sequence[str]) -> list[str]:
        blocked = {first for first, second in self.before if second in prefix}
        return [
            name
            for name in self.influences
            if name not in blocked and prefix.count(name) < self.max_repeats
        ]

    def _room(self, prefix: Sequence[str]) -> int:
        """Return the most stages that can still follow: precedence has no cycles, so all that is allowed fits."""
        return sum(self.max_repeats - prefix.count(name) for name in self._allowed(prefix))


def _refuse_cycles(before: Sequence[tuple[str, str]]) -> None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for first, second in before:
        sorter.add(second, first)
    try:
        sorter.prepare()
    except CycleError as error:
        raise ValueError(
            f"order.before runs in a circle: {' before '.join(reversed(error.args[1]))}; remove one pair"
        ) from error
