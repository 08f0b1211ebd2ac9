"""Doses of the runs of one influence, as the sampler plans them: one run after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.sampling.stagewise.values import least_above_zero, limits, nearest, value_at
from spaces.decode import DOSE_FACTOR, FieldValue
from spaces.dose import repeat_doses
from spaces.params import Choice, Float, Int, Parameter
from spaces.space import Space


@dataclass(frozen=True)
class RunDoses:
    """What a study says of the doses of one influence's runs."""

    searched: Parameter | None
    """The dose, where it is to be searched."""
    fixed: int
    """The dose, where it is not."""
    factor: Parameter | float | None
    """Of each run's dose to that of the run before; None: all runs are alike."""
    scale: Int
    """Every dose that a run may have, in the logarithm."""
    differ: bool
    """Whether a run may have another dose than the influence's, and a sampler must tell runs apart."""

    @classmethod
    def of(cls, dose: FieldValue, values: Mapping[str, FieldValue], space: Space) -> RunDoses:
        """Read a dose among the values of an influence, as `influence_values` gives them."""
        searched = dose if isinstance(dose, Parameter) else None
        fixed = dose if isinstance(dose, int) else 0
        max_repeats = space.rules.max_repeats
        given = values.get(DOSE_FACTOR) if max_repeats > 1 else None
        factor = given if isinstance(given, Parameter | float) else None
        if isinstance(given, int):
            factor = float(given)
        low, high = (fixed, fixed) if searched is None else limits(searched)
        least, most = (factor, factor) if isinstance(factor, float) else (1.0, 1.0)
        if isinstance(factor, Parameter):
            least, most = limits(factor)
        n_rounds = (
            limits(space.rounds)[1] if isinstance(space.rounds, Parameter) else float(space.rounds)
        )
        shrunk = max(low, 1.0) * min(1.0, least) ** (max_repeats - 1) / n_rounds
        grown = high * max(1.0, most) ** (max_repeats - 1)
        scale = Int("dose_tokens", max(1, int(shrunk)), max(1, int(grown)), log=True)
        return cls(searched, fixed, factor, scale, factor is not None or n_rounds > 1)

    @property
    def whole(self) -> Int:
        """A fixed dose as a parameter that cannot be but this."""
        return Int("dose_tokens", self.fixed, self.fixed)

    @property
    def least(self) -> int:
        """The smallest dose above 0."""
        return int(self.fixed if self.searched is None else least_above_zero(self.searched))

    def first(self, dose_tokens: int) -> int:
        """Return the dose closest to another that a first run may have."""
        if not self.differ:
            return dose_tokens
        found = self.fixed if self.searched is None else int(nearest(self.searched, dose_tokens))
        return found or self.least

    def following(self, runs: Sequence[int], wanted: int, rng: np.random.Generator | None) -> int:
        """Return the dose of the run that follows others.

        Args:
            runs: Doses of those, one at least.
            wanted: A dose to be kept to where only one run is there and the factor is still free.
            rng: Draws the factor where it is free and what is wanted does not say it; None takes the middle.
        """
        assert self.factor is not None
        if isinstance(self.factor, float):
            factor = self.factor
        elif len(runs) > 1:
            factor = self.found_factor(runs)
        else:
            low, high = limits(self.factor)
            is_own = self.searched is not None or wanted != self.fixed
            if is_own and low <= wanted / runs[0] <= high:
                factor = float(nearest(self.factor, wanted / runs[0]))
            else:
                factor = float(value_at(self.factor, 0.5 if rng is None else rng.random()))
        return max(1, repeat_doses(runs[0], factor, len(runs) + 1)[-1])

    def found_factor(self, runs: Sequence[int]) -> float:
        """Return the factor that leads from the first run to the second."""
        assert isinstance(self.factor, Float | Int | Choice)
        return float(nearest(self.factor, runs[1] / runs[0]))

    def total(self, dose_tokens: int) -> int:
        """Return what is to be split over rounds where a step has some dose: that, or the fixed one."""
        return dose_tokens if self.searched is not None else self.fixed

    def is_total(self, dose_tokens: int) -> bool:
        """Return whether all rounds together may have a dose."""
        if self.searched is None:
            return dose_tokens == self.fixed
        return self.searched.match(dose_tokens) is not None
