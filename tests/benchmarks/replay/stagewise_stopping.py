"""Replay the default pair, `stagewise` and early stopping, on recorded trainings with a stage store.

    OMP_NUM_THREADS=1 python tests/benchmarks/replay/stagewise_stopping.py [--seeds 5] [--compute 100] [--problems ...]

`replay_stopping.py` counts every stage of every proposal. `stagewise` mostly proposes a recipe that was scored and one
stage more, so here a stage that was trained once costs nothing, and searches with and without stopping are compared at
equal compute. One trial at a time; the real Asker proposes and the real rule decides.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from played_trial import begun, scored  # noqa: E402
from replay_stopping import PROBLEMS, _exceeds, _feasible, study_of  # noqa: E402
from table import Node  # noqa: E402

from search.records import Proposal, TrialRecord  # noqa: E402
from search.running_spec import StoppingSpec  # noqa: E402
from search.sampling.asking import Asker  # noqa: E402
from search.spec import SamplerSpec  # noqa: E402
from search.stopping.past import PastTrial  # noqa: E402
from search.stopping.rule import StoppingRule  # noqa: E402
from spaces.space import Space  # noqa: E402


@dataclass
class Result:
    """What came of one search. Seconds are of stages and scores that no trial before had."""

    trials: int = 0
    stopped: int = 0
    audited: int = 0
    bounds: int = 0
    exceeded: int = 0
    seconds: float = 0.0
    seconds_saved: float = 0.0
    hypervolume: float = 0.0
    names: set[str] = field(default_factory=set)
    """Models that were trained and scored."""


def search(problem: str, seed: int, compute: float, is_on: bool) -> Result:
    """Run one search until `compute` seconds are spent."""
    table, spec = study_of(problem)
    sampler = SamplerSpec(name="stagewise", seed=seed)
    spec = spec.model_copy(update={"sampler": sampler, "stopping": StoppingSpec()})
    rule = StoppingRule(spec)
    records: dict[int, TrialRecord] = {}
    asker = Asker(
        optuna.create_study(
            directions=["minimize" if each.sign > 0 else "maximize" for each in table.objectives]
        ),
        Space(spec.influences, spec.order),
        sampler,
        spec.objectives,
        spec.constraints,
        1,
        records.get,
        spec.references(),
    )
    asker.enqueue_baselines(())
    past: list[PastTrial] = []
    result = Result()
    while result.seconds < compute and (proposal := asker.ask()) is not None:
        path = table.path(table.node(proposal.recipe).digest)
        record = played(proposal, path, rule if is_on else None, past, result)
        records[record.number] = record
        asker.tell(record)
        past.append(PastTrial.of(record, rule.goals))
        last = {name: value for name, value in path[-1].scores.items() if value is not None}
        result.trials += 1
        result.stopped += record.state == "PRUNED"
        result.audited += any(each.outcome == "audit" for each in record.stopping)
        result.bounds += len(record.stopping)
        result.exceeded += sum(_exceeds(each.bounds, last, spec) for each in record.stopping)
    feasible = _feasible([table.nodes[name] for name in result.names], spec)
    result.hypervolume = table.hypervolume(node.digest for node in feasible)
    return result


def played(
    proposal: Proposal,
    path: list[Node],
    rule: StoppingRule | None,
    past: list[PastTrial],
    result: Result,
) -> TrialRecord:
    """Return the record of a trial that ran to its end or was stopped, and add what it cost or saved."""
    record = begun(proposal, 0)
    for node in path[1:] or path:
        seconds = node.stage_seconds + node.evaluate_seconds
        is_stored = node.digest in result.names
        if record.state == "PRUNED":
            result.seconds_saved += 0.0 if is_stored else seconds
            continue
        record = _taken_from_store(scored(record, node)) if is_stored else scored(record, node)
        result.seconds += 0.0 if is_stored else seconds
        result.names.add(node.digest)
        decision = rule.decide(record, past) if rule is not None else None
        if decision is not None:
            changes: dict[str, object] = {"stopping": (*record.stopping, decision)}
            if decision.outcome == "stop":
                changes |= {"state": "PRUNED", "reason": decision.reason}
            record = record.model_copy(update=changes)
    return record if record.state == "PRUNED" else record.model_copy(update={"state": "COMPLETE"})


def _taken_from_store(record: TrialRecord) -> TrialRecord:
    """Return the record with its last stage and boundary marked as not made in this trial."""
    stored = {"is_stored": True}
    return record.model_copy(
        update={
            name: (*parts[:-1], *(part.model_copy(update=stored) for part in parts[-1:]))
            for name, parts in (("stages", record.stages), ("boundaries", record.boundaries))
        }
    )


def line(problem: str, on: list[Result], off: list[Result]) -> str:
    """Return one row of the table, means over seeds."""
    saved = sum(each.seconds_saved for each in on)
    whole = saved + sum(each.seconds for each in on)
    ratios = [a.hypervolume / b.hypervolume for a, b in zip(on, off, strict=True)]
    n_bounds = sum(each.bounds for each in on)
    exceeded = 100 * sum(each.exceeded for each in on) / n_bounds if n_bounds else float("nan")
    cells = (
        f"{np.mean([each.trials for each in off]):.0f}, {np.mean([each.trials for each in on]):.0f}",
        f"{np.mean([each.stopped for each in on]):.1f}, {np.mean([each.audited for each in on]):.1f}",
        f"{100 * saved / whole:.1f} %",
        f"{exceeded:.1f} % of {n_bounds:,}",
        f"{np.mean(ratios):.3f}, {min(ratios):.3f}, {max(ratios):.3f}",
    )
    return f"| {problem} | {' | '.join(cells)} |"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--compute", type=float, default=100.0, help="seconds of each search")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(
        "| problem | trials without, with | stopped, audited | seconds saved | bounds exceeded |",
        end="",
    )
    print(" hypervolume with / without: mean, least, most |\n|---|---|---|---|---|---|")
    for problem in arguments.problems:
        off, on = (
            [search(problem, seed, arguments.compute, is_on) for seed in range(arguments.seeds)]
            for is_on in (False, True)
        )
        print(line(problem, on, off), flush=True)


if __name__ == "__main__":
    main()
