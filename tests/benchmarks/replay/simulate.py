"""Replay a search on the table of recorded trainings: a simulated clock, several workers, and the real Asker.

from simulate import World, plain_search, study_search          # and SamplerSpec from search.spec
world = World.load(Path("results/replay/table.parquet"), Path("tests/benchmarks/replay/study.yaml"))
found = study_search(world, SamplerSpec(name="stagewise", seed=0), compute_seconds=40.0)
found.spent, found.hypervolumes           # compute after each model that was scored, and what was reached by then

`plain_search` is what a script without a stage store does: Optuna proposes, every stage is trained, the last is scored.
`study_search` is a study: `search.sampling.asking.Asker` proposes, a stage that was trained is never trained again, and
every boundary is scored and told. Seconds are those recorded; a stage that another trial trains at the same moment
is charged once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from played_trial import begun, boundary, stage_record
from table import Node, Objective, ReplayTable

from search.front import front_mask, hypervolume
from search.records import Proposal, TrialRecord
from search.sampling.asking import Asker
from search.spec import SamplerSpec, StudySpec
from search.yaml_file import load_study
from spaces.space import Space

N_WORKERS = 4
optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass
class World:
    """The table, and the study that was recorded."""

    table: ReplayTable
    spec: StudySpec
    space: Space

    @classmethod
    def load(
        cls,
        table: Path,
        study: Path,
        objectives: Sequence[Objective] | None = None,
        per_position: bool = False,
        encoding: str = "auto",
    ) -> World:
        """Read both.

        Args:
            table: The recorded trainings.
            study: The study file they were made from.
            objectives: Others make another problem of the same trainings.
            per_position: How samplers see the space. No influence repeats in it, so both ways hold the same recipes;
                plain TPE does better with one set of values per influence.
            encoding: How samplers see the order, as `order.encoding`.
        """
        spec = load_study(study)
        loaded = ReplayTable.load(table, objectives)
        chosen = tuple(
            {"score": each.score, "direction": each.direction, "reference": each.reference}
            for each in loaded.objectives
        )
        order = spec.order.model_copy(update={"per_position": per_position, "encoding": encoding})
        spec = StudySpec.model_validate(
            {**spec.model_dump(), "objectives": chosen, "order": order.model_dump()}
        )
        return cls(loaded, spec, Space(spec.influences, spec.order))


@dataclass
class Found:
    """What a search found, model by model, in the order in which they were scored."""

    spent: list[float] = field(default_factory=list)
    """Seconds of compute of all workers when each model was scored."""
    clock: list[float] = field(default_factory=list)
    """Seconds on the simulated clock."""
    nodes: list[Node] = field(default_factory=list)
    n_trials: int = 0
    n_tokens_asked: int = 0
    n_tokens_trained: int = 0

    def add(self, spent: float, clock: float, node: Node) -> None:
        """Take a model that was scored."""
        self.spent.append(spent)
        self.clock.append(clock)
        self.nodes.append(node)

    def hypervolumes(self, table: ReplayTable) -> NDArray[np.float64]:
        """Return the hypervolume after each model, shape (models,)."""
        values: list[float] = []
        front = np.empty((0, len(table.objectives)))
        for row in table.losses(self.nodes):
            front = np.vstack([front, row])
            front = front[front_mask(front)]
            values.append(hypervolume(front, table.reference))
        return np.array(values)


def plain_search(
    world: World, make: Callable[[int], BaseSampler], seed: int, n_trials: int, is_conditional: bool
) -> Found:
    """Return what plain Optuna finds: every trial trains all its stages and scores the last model."""
    signs = [1.0 if each.direction == "minimise" else -1.0 for each in world.table.objectives]
    study = optuna.create_study(
        directions=["minimize" if sign > 0 else "maximize" for sign in signs], sampler=make(seed)
    )
    found, running, clock, spent = Found(), [], 0.0, 0.0
    for number in range(n_trials + N_WORKERS):
        if number >= N_WORKERS or number >= n_trials:
            if not running:
                break
            clock, _, trial, node, seconds = heapq.heappop(running)
            spent += seconds
            losses = world.table.losses([node])[0]
            study.tell(trial, [float(s * loss) for s, loss in zip(signs, losses, strict=True)])
            found.add(spent, clock, node)
        if number < n_trials:
            trial = study.ask()
            node = world.table.node(world.space.decode(world.space.suggest(trial, is_conditional)))
            path = world.table.path(node.digest)[1:]
            seconds = sum(each.stage_seconds for each in path) + node.evaluate_seconds
            found.n_trials += 1
            heapq.heappush(running, (clock + seconds, trial.number, trial, node, seconds))
    while running:
        clock, _, trial, node, seconds = heapq.heappop(running)
        spent += seconds
        found.add(spent, clock, node)
    return found


def study_search(
    world: World,
    sampler: SamplerSpec,
    compute_seconds: float,
    n_workers: int = N_WORKERS,
    change: Callable[[Asker], None] = lambda asker: None,
    has_store: bool = True,
) -> Found:
    """Return what a study finds until it has spent its compute.

    Args:
        world: The table and its study.
        sampler: Who proposes, with its seed.
        compute_seconds: No trial starts once so much is spent.
        n_workers: Trials side by side.
        change: Called with the Asker before the first proposal: an ablation replaces a part.
        has_store: False trains and scores all stages of all trials.
    """
    records: dict[int, TrialRecord] = {}
    directions = [
        "minimize" if each.direction == "minimise" else "maximize"
        for each in world.table.objectives
    ]
    asker = Asker(
        optuna.create_study(directions=directions),
        world.space,
        sampler,
        world.spec.objectives,
        (),
        n_workers,
        records.get,
        world.spec.references(),
        has_store,
    )
    change(asker)
    asker.enqueue_baselines(())
    found, shelf = Found(), _Shelf(world.table, has_store)
    running: list[tuple[float, int, Proposal, float]] = []
    clock = committed = spent = 0.0
    while True:
        while len(running) < n_workers and committed < compute_seconds and not asker.must_wait():
            proposal = asker.ask()
            if proposal is None:
                committed = compute_seconds
                break
            record, seconds = shelf.train(proposal)
            records[proposal.number] = record
            committed += seconds
            found.n_trials += 1
            heapq.heappush(running, (clock + seconds, proposal.number, proposal, seconds))
        if not running:
            break
        clock, number, _, seconds = heapq.heappop(running)
        spent += seconds
        for each in records[number].boundaries:
            if not each.is_stored:
                found.add(spent, clock, world.table.node(each.digest))
        asker.tell(records[number])
    found.n_tokens_asked, found.n_tokens_trained = shelf.n_tokens_asked, shelf.n_tokens_trained
    return found


class _Shelf:
    """A stage store that gives recorded results."""

    def __init__(self, table: ReplayTable, keeps: bool) -> None:
        self._table = table
        self._keeps = keeps
        self._trained: set[str] = set()
        self._scored: set[str] = set()
        self.n_tokens_asked = self.n_tokens_trained = 0

    def train(self, proposal: Proposal) -> tuple[TrialRecord, float]:
        """Return the record of a trial and the seconds that it takes."""
        path = self._table.path(proposal.recipe)
        stages, boundaries, seconds = [], [], 0.0
        for n_stages, node in enumerate(path):
            self.n_tokens_asked += node.tokens
            is_trained, is_scored = node.digest in self._trained, node.digest in self._scored
            if self._keeps:
                self._trained.add(node.digest)
            if n_stages:
                stages.append(stage_record(proposal.recipe.stages[n_stages - 1], node, is_trained))
                if not is_trained:
                    seconds += node.stage_seconds
                    self.n_tokens_trained += node.tokens
            if n_stages == 0 and len(path) > 1:
                continue  # As in a trial: the base is scored by the empty recipe alone.
            if self._keeps:
                self._scored.add(node.digest)
            seconds += 0.0 if is_scored else node.evaluate_seconds
            boundaries.append(boundary(node, is_scored))
        ended = {"state": "COMPLETE", "stages": tuple(stages), "boundaries": tuple(boundaries)}
        return begun(proposal, seed=0).model_copy(update=ended), seconds
