"""Samplers by the names that study.yaml uses: our own, and Optuna's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)

from search.sampling.stagewise import StagewiseSampler
from search.spec import SamplerSpec
from spaces.space import Space

STAGEWISE = "stagewise"

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": TPESampler,
    "nsga2": NSGAIISampler,
    "nsga3": NSGAIIISampler,
    "gp": GPSampler,
    "random": RandomSampler,
}

CONDITIONAL = frozenset({"tpe", "random", "stagewise"})
"""Samplers that are asked only for the values a recipe uses. The others model one fixed set of parameters: where trials
differ in it, Optuna cuts their search space down to what all trials share and draws the rest at random."""

_STARTUP = {"tpe": "n_startup_trials", "gp": "n_startup_trials"}
_POPULATION = frozenset({"nsga2", "nsga3"})


def make_sampler(spec: SamplerSpec, trial_number: int) -> BaseSampler:
    """Return the study's sampler, seeded for one proposal.

    A seed for each proposal makes a study repeatable over any number of launches: Optuna's samplers do not store the
    state of their random generator, and one seed for all launches would repeat the first launch's proposals.
    """
    options: dict[str, Any] = {"seed": (spec.seed * 1_000_003 + trial_number) % 2**32}
    if spec.startup_trials is not None and spec.name in _STARTUP:
        options[_STARTUP[spec.name]] = spec.startup_trials
    if spec.population is not None and spec.name in _POPULATION:
        options["population_size"] = spec.population
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[spec.name](**options)


def make_stagewise(
    spec: SamplerSpec,
    space: Space,
    references: Sequence[float | None],
    prefixes_are_stored: bool,
) -> StagewiseSampler:
    """Return our own sampler. One serves a whole study: it seeds itself by the number of the trial."""
    return StagewiseSampler(space, references, spec.seed, prefixes_are_stored)
