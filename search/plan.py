"""What a study would try and cost, before it runs: sampled recipes, doses and estimated time. No torch, no Optuna."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from search.errors import SpecError
from search.records import TrialRecord
from search.spec import StudySpec
from spaces.recipe import Merge, Parallel, Recipe, Stage
from spaces.space import Space
from spaces.spec import ends

N_SAMPLED = 200
"""Recipes behind the mean cost of a trial."""


class Kind(NamedTuple):
    """What the speed of training depends on most."""

    method: str
    adapter: str


ROUGH_TOKENS_PER_SECOND = {
    Kind("sft", "lora"): 290.0,
    Kind("sft", "full"): 200.0,
    Kind("dpo", "lora"): 220.0,
    Kind("dpo", "full"): 150.0,
}
"""A 135M model on two CPU cores, short rows; DPO also computes the reference."""
ROUGH_EVALUATE_SECONDS = 10.0
ROUGH_REST_SECONDS = 3.0


@dataclass(frozen=True)
class Speeds:
    """How fast trials go on a machine."""

    tokens_per_second: dict[Kind, float]
    """Training speed by method and adapter, set-up of the stage included."""
    evaluate_seconds: float
    """Suite at one boundary."""
    rest_seconds: float
    """Per trial: loading the base, records."""
    n_measured: dict[Kind, int]
    """Stages behind each speed; a kind that is not here has the rough default."""
    n_rungs: int = 0
    """Points inside a stage at which the suite runs too."""
    fidelity: float = 1.0
    """Share of the items asked there, and of last models before they are scored on all."""
    given_up_share: float = 0.0
    """Share of recipes that end on their first items: measured; 0 while nothing is."""
    n_screened: int = 0
    """Recipes behind that."""

    def stage_seconds(self, stage: Stage | Parallel | Merge) -> float:
        """Return the estimated seconds of training one stage; combining models takes next to none."""
        if not isinstance(stage, Stage):
            return sum((self.stage_seconds(each) for each in stage.trainings), 0.0)
        kind = _kind(stage)
        # Nothing was measured for other methods and adapters; they are taken to be as fast as DPO and LoRA.
        near = Kind(
            "sft" if kind.method == "sft" else "dpo", "full" if kind.adapter == "full" else "lora"
        )
        speed = self.tokens_per_second.get(kind, self.tokens_per_second[near])
        return stage.dose_tokens / speed

    def recipe_seconds(self, recipe: Recipe) -> float:
        """Return the estimated seconds of one trial, evaluation after each stage and at rungs included."""
        trained = sum(self.stage_seconds(stage) for stage in recipe.stages)
        n_scorings = len(recipe.stages) * (1 + self.n_rungs * self.fidelity)
        n_scorings -= self.given_up_share * (1 - self.fidelity)
        return trained + n_scorings * self.evaluate_seconds + self.rest_seconds


@dataclass(frozen=True)
class Plan:
    """What a study would try and cost."""

    n_orders: int
    """Legal sequences of influences, the empty one left out."""
    n_parameters: int
    """Values that vary, the order left out."""
    recipes: tuple[Recipe, ...]
    """A few that the space allows, drawn at random."""
    speeds: Speeds
    """Behind all seconds."""
    tokens_per_trial: float
    """Mean over sampled recipes. A stagewise trial with a store is priced as one stage, as if its parent were stored;
    where `order.min_stages` is above 1, as that many stages, and where `order.rounds` is, as that many rounds: what a
    trial from the base trains."""
    seconds_per_trial: float
    """As `tokens_per_trial`."""
    n_trials: int
    """Trials until the budget ends."""
    ends_by: str
    """The part of the budget that ends first."""
    train_tokens: float
    """Tokens of the whole budget."""
    wall_seconds: float
    """Seconds of the whole budget, with concurrent trials at full speed."""


def make_plan(spec: StudySpec, speeds: Speeds, n_recipes: int, seed: int) -> Plan:
    """Return the plan of a study.

    Args:
        spec: A study without errors.
        speeds: From `measured_speeds`.
        n_recipes: Recipes to show.
        seed: Of the drawn recipes.

    Raises:
        SpecError: The space holds a recipe that is not legal.
    """
    space = Space(spec.influences, spec.order)
    n_sampled = max(N_SAMPLED, n_recipes)
    try:
        sampled = [space.decode(space.sample(seed + draw)) for draw in range(n_sampled)]
    except ValueError as error:
        raise SpecError(f"study {spec.name}: draws recipes that are not legal: {error}") from error
    priced = sampled
    if spec.sampler.name == "stagewise" and spec.store.enabled:
        # It proposes what is stored and one stage more, or the fewest that the order allows.
        n = space.rules.min_stages * int(ends(spec.order.rounds)[0])
        priced = [
            Recipe(stages=recipe.stages[at : at + n])
            for recipe in sampled
            for at in range(max(1, len(recipe.stages) - n + 1))
        ]
    tokens = fmean(sum(stage.dose_tokens for stage in recipe.stages) for recipe in priced)
    seconds = fmean(speeds.recipe_seconds(recipe) for recipe in priced)
    n_trials, ends_by = _affordable_trials(spec, tokens, seconds)
    return Plan(
        n_orders=space.rules.n_sequences(),
        n_parameters=len(space.parameters()),
        recipes=tuple(sampled[:n_recipes]),
        speeds=speeds,
        tokens_per_trial=tokens,
        seconds_per_trial=seconds,
        n_trials=n_trials,
        ends_by=ends_by,
        train_tokens=n_trials * tokens,
        wall_seconds=n_trials * seconds / min(n_trials, spec.compute.concurrent_trials),
    )


def measured_speeds(
    records: Iterable[TrialRecord], n_rungs: int = 0, fidelity: float = 1.0
) -> Speeds:
    """Return speeds from finished stages, and the rough defaults for kinds of stages that never ran.

    Args:
        records: Trials of this study or of one like it; may be none.
        n_rungs: Of each stage.
        fidelity: Share of the items that models are scored on first.
    """
    tokens: dict[Kind, int] = defaultdict(int)
    seconds: dict[Kind, float] = defaultdict(float)
    n_measured: dict[Kind, int] = defaultdict(int)
    evaluations: list[float] = []
    rests: list[float] = []
    given_up: list[bool] = []
    for record in records:
        parts = [part for stage in record.stages for part in stage.trainings]
        for stage in parts:
            kind = _kind(stage.stage)
            tokens[kind] += stage.trained_tokens
            seconds[kind] += stage.train_seconds + stage.setup_seconds
            n_measured[kind] += 1
        # What was screened has the seconds of its first items there.
        screened = {s.n_stages: s.evaluate_seconds for s in record.screenings}
        evaluations += [
            b.evaluate_seconds + screened.get(b.n_stages, 0.0)
            for b in record.boundaries
            if b.n_stages
        ]
        if record.last_screening is not None:
            given_up.append(record.is_screened_out)
        if record.state == "COMPLETE":
            rests.append(record.seconds.load)
    measured = {kind: tokens[kind] / seconds[kind] for kind in tokens if seconds[kind] > 0}
    return Speeds(
        tokens_per_second={**ROUGH_TOKENS_PER_SECOND, **measured},
        evaluate_seconds=fmean(evaluations) if evaluations else ROUGH_EVALUATE_SECONDS,
        rest_seconds=fmean(rests) if rests else ROUGH_REST_SECONDS,
        n_measured=dict(n_measured),
        n_rungs=n_rungs,
        fidelity=fidelity,
        given_up_share=fmean(given_up) if given_up else 0.0,
        n_screened=len(given_up),
    )


def _affordable_trials(spec: StudySpec, tokens: float, seconds: float) -> tuple[int, str]:
    """Return how many mean trials the budget pays, and which part of it ends first."""
    budget = spec.budget
    limits: dict[str, float] = {}
    if budget.trials is not None:
        limits["trials"] = budget.trials
    if budget.train_tokens is not None:
        limits["train_tokens"] = budget.train_tokens / tokens
    if budget.compute_seconds is not None:
        limits["compute_seconds"] = budget.compute_seconds / seconds
    if budget.wall_seconds is not None:
        limits["wall_seconds"] = budget.wall_seconds * spec.compute.concurrent_trials / seconds
    first = min(limits, key=lambda name: limits[name])
    return max(1, round(limits[first])), first


def _kind(stage: Stage | Parallel | Merge) -> Kind:
    assert isinstance(stage, Stage)
    return Kind(stage.method, stage.adapter.kind)
