"""Replay searches on recorded trainings with early stopping on and off: what it saves, and what it costs.

    OMP_NUM_THREADS=1 python tests/benchmarks/replay_stopping.py [--seeds 20] [--recipes 200] [--samplers random tpe]
        [--rungs 0.4 0.15,0.4]

With --rungs every search is run once more for each list of shares, with stops inside stages too.

Every recipe of the table has scores, so what a stopped trial would have come to is known. The real Asker proposes and
the real rule decides, one trial at a time. Prints the table that results/benchmarks/stopping.md shows.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "replay"))

from played_trial import at_rung, begun, rungs, scored  # noqa: E402
from table import Node, Objective, ReplayTable  # noqa: E402

from search.front import front_mask  # noqa: E402
from search.records import TrialRecord  # noqa: E402
from search.running_spec import StoppingSpec  # noqa: E402
from search.sampling.asking import Asker  # noqa: E402
from search.spec import ConstraintSpec, SamplerSpec, StudySpec  # noqa: E402
from search.stopping.past import PastTrial  # noqa: E402
from search.stopping.rule import StoppingRule  # noqa: E402
from search.yaml_file import load_study  # noqa: E402
from spaces.space import Space  # noqa: E402

TABLE = HERE.parents[1] / "results" / "replay" / "table.parquet"
PROBLEMS: dict[str, tuple[tuple[Objective, ...] | None, tuple[ConstraintSpec, ...]]] = {
    "three objectives": (None, ()),
    "two objectives": (
        (
            Objective("structure", "maximise", 0.0),
            Objective("retention.bits_per_byte_change", "minimise", 1.0),
        ),
        (),
    ),
    "two objectives, one constraint": (
        (
            Objective("structure", "maximise", 0.0),
            Objective("taste.margin", "maximise", 0.0),
        ),
        (ConstraintSpec(score="retention.bits_per_byte_change", at_most=0.5),),
    ),
}


@dataclass(frozen=True)
class Task:
    """One search."""

    problem: str
    sampler: str
    seed: int
    n_recipes: int
    is_on: bool
    alpha: float
    rungs: tuple[float, ...] = ()


@dataclass
class Result:
    """What came of it. Seconds and stages count every proposal in full: no stage store."""

    task: Task
    stages: int = 0
    stages_saved: int = 0
    seconds: float = 0.0
    seconds_saved: float = 0.0
    seconds_in_vain: float = 0.0
    """What a rule that knows each recipe's last scores would have saved: the most that any rule can."""
    rung_seconds: float = 0.0
    """Of scoring at rungs; they are taken off what was saved."""
    seconds_saved_free: float = 0.0
    """What was saved and what scoring at rungs took."""
    stopped: int = 0
    stopped_at_rungs: int = 0
    audited: int = 0
    bounds: int = 0
    exceeded: int = 0
    bounds_of_stops: int = 0
    exceeded_of_stops: int = 0
    true_front: int = 0
    true_front_stopped: int = 0
    own_front: int = 0
    own_front_stopped: int = 0
    hypervolume: float = 0.0
    true_hypervolume: float = 0.0
    hypervolume_of_all: float = 0.0
    hypervolume_of_finals: float = 0.0
    hypervolume_of_all_finals: float = 0.0
    rule_seconds: float = 0.0


def study_of(problem: str) -> tuple[ReplayTable, StudySpec]:
    """Return the table with the objectives of a problem, and the study to match."""
    objectives, constraints = PROBLEMS[problem]
    table = ReplayTable.load(TABLE, objectives)
    spec = load_study(HERE / "replay" / "study.yaml")
    chosen = tuple(
        {"score": each.score, "direction": each.direction, "reference": each.reference}
        for each in table.objectives
    )
    return table, StudySpec.model_validate(
        {**spec.model_dump(), "objectives": chosen, "constraints": constraints}
    )


def search(task: Task) -> Result:
    """Run one search."""
    table, spec = study_of(task.problem)
    sampler = SamplerSpec(name=task.sampler, seed=task.seed)  # type: ignore[arg-type]
    spec = spec.model_copy(update={"sampler": sampler, "stopping": StoppingSpec(alpha=task.alpha)})
    rule = StoppingRule(spec)
    records: dict[int, TrialRecord] = {}
    directions = ["minimize" if each.sign > 0 else "maximize" for each in table.objectives]
    asker = Asker(
        optuna.create_study(directions=directions),
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
    result = Result(task)
    reached: list[Node] = []
    everything: list[Node] = []
    finals: list[Node] = []
    while len(past) < task.n_recipes and (proposal := asker.ask()) is not None:
        path = table.path(table.node(proposal.recipe).digest)
        record = begun(proposal, sampler.seed)
        if not proposal.recipe.stages:
            record = scored(record, path[0])
        for node in path[1:]:
            record = _played(record, node, table, rule, past, result)
            if record.state != "RUNNING":
                break
        if record.state == "RUNNING":
            record = record.model_copy(update={"state": "COMPLETE"})
            finals.append(path[-1])
        records[record.number] = record
        asker.tell(record)
        result.seconds_in_vain += _seconds_in_vain(record, path, table, rule, past)
        past.append(PastTrial.of(record, rule.goals))
        reached += path[1 : len(record.stages) + 1]
        everything += path[1:]
        _count(result, record, path, table, spec, rule)
    _judge(result, records, table, spec, reached, everything, finals)
    return result


def _played(
    record: TrialRecord,
    node: Node,
    table: ReplayTable,
    rule: StoppingRule,
    past: Sequence[PastTrial],
    result: Result,
) -> TrialRecord:
    """Return the record with one more stage, or with the part of it after which the trial was stopped."""
    for share, there in rungs(node, table, result.task.rungs):
        record = _decided(at_rung(record, share, there), rule, past, result)
        if record.state != "RUNNING":
            return record
    return _decided(scored(record, node), rule, past, result)


def _decided(
    record: TrialRecord, rule: StoppingRule, past: Sequence[PastTrial], result: Result
) -> TrialRecord:
    if not result.task.is_on:
        return record
    started = time.perf_counter()
    decision = rule.decide(record, past)
    result.rule_seconds += time.perf_counter() - started
    if decision is None:
        return record
    changes: dict[str, object] = {"stopping": (*record.stopping, decision)}
    if decision.outcome == "stop":
        changes |= {"state": "PRUNED", "reason": decision.reason}
    return record.model_copy(update=changes)


def _count(
    result: Result,
    record: TrialRecord,
    path: Sequence[Node],
    table: ReplayTable,
    spec: StudySpec,
    rule: StoppingRule,
) -> None:
    """Add one trial to what was spent, and hold its bounds against what its recipe comes to."""
    n_done = len(record.stages)
    seconds = [node.stage_seconds + node.evaluate_seconds for node in path[1:]]
    result.stages += len(seconds)
    result.seconds += sum(seconds)
    result.stages_saved += len(seconds) - n_done
    open_rung = record.open_rung
    begun_seconds = open_rung.train_seconds if open_rung else 0.0
    rung_seconds = sum(rung.evaluate_seconds for rung in record.rungs)
    result.rung_seconds += rung_seconds
    result.seconds_saved += sum(seconds[n_done:]) - begun_seconds - rung_seconds
    result.seconds_saved_free += sum(seconds[n_done:]) - begun_seconds
    result.stopped_at_rungs += record.state == "PRUNED" and open_rung is not None
    if not record.stopping:
        return
    last = {name: value for name, value in path[-1].scores.items() if value is not None}
    for decision in record.stopping:
        is_over = _exceeds(decision.bounds, last, spec)
        result.bounds += 1
        result.exceeded += is_over
        if decision.reason is not None:
            result.bounds_of_stops += 1
            result.exceeded_of_stops += is_over
    outcomes = {decision.outcome for decision in record.stopping}
    result.stopped += "stop" in outcomes
    result.audited += "audit" in outcomes


def _seconds_in_vain(
    record: TrialRecord,
    path: Sequence[Node],
    table: ReplayTable,
    rule: StoppingRule,
    past: Sequence[PastTrial],
) -> float:
    """Return the seconds after the first boundary from which the recipe's last scores are dominated already."""
    if record.baseline is not None:
        return 0.0
    whole = record.model_copy(update={"stages": (), "boundaries": ()})
    for node in path[1:]:
        whole = scored(whole, node)
    trial = PastTrial.of(whole, rule.goals)
    n_stages = len(path) - 1
    for n_done in range(1, n_stages):
        gains = {n: gains_K for n, gains_K in trial.gains.items() if n <= n_done}
        if rule.reason(replace(trial, gains=gains), n_done, trial.gains[n_stages], past):
            return sum(node.stage_seconds + node.evaluate_seconds for node in path[n_done + 1 :])
    return 0.0


def _exceeds(bounds: dict[str, float], last: dict[str, float], spec: StudySpec) -> bool:
    """Return whether the last model is better than its bound in any score."""
    directions = dict(zip((o.score for o in spec.objectives), spec.directions(), strict=True)) | {
        c.score: "minimise" if c.at_most is not None else "maximise" for c in spec.constraints
    }
    return any(
        (last[name] - bound) * (1 if directions[name] == "maximise" else -1) > 1e-12
        for name, bound in bounds.items()
    )


def _feasible(nodes: Sequence[Node], spec: StudySpec) -> list[Node]:
    return [
        node
        for node in nodes
        if all((c.violation(node.scores[c.score] or 0.0)) <= 0 for c in spec.constraints)
    ]


def _front(nodes: Sequence[Node], table: ReplayTable) -> set[str]:
    mask = front_mask(table.losses(nodes))
    return {node.digest for node, is_on in zip(nodes, mask, strict=True) if is_on}


def _judge(
    result: Result,
    records: dict[int, TrialRecord],
    table: ReplayTable,
    spec: StudySpec,
    reached: list[Node],
    everything: list[Node],
    finals: list[Node],
) -> None:
    """Count what of the front was lost, and what of the hypervolume."""
    proposed = {n: table.node(record.recipe) for n, record in records.items()}
    stopped = {node.digest for n, node in proposed.items() if records[n].state == "PRUNED"}
    names = {node.digest for node in reached}
    true_front = _front(_feasible(list(table.nodes.values()), spec), table)
    own_front = _front(_feasible(list(proposed.values()), spec), table)
    # A recipe that was stopped in one trial and reached as a prefix of another is not lost.
    wanted = {node.digest for node in proposed.values()}
    result.true_front = len(true_front & wanted)
    result.true_front_stopped = len(true_front & stopped - names)
    result.own_front = len(own_front)
    result.own_front_stopped = len(own_front & stopped - names)

    def volume(nodes: Sequence[Node]) -> float:
        return table.hypervolume(node.digest for node in _feasible(nodes, spec))

    result.hypervolume = volume(reached)
    result.true_hypervolume = volume(list(table.nodes.values()))
    result.hypervolume_of_all = volume(everything)
    result.hypervolume_of_finals = volume(finals)
    result.hypervolume_of_all_finals = volume(list(proposed.values()))


def summary(on: Sequence[Result], off: Sequence[Result]) -> dict[str, str]:
    """Return the figures of one problem and sampler, over all seeds."""

    def share(part: str, whole: str) -> str:
        above, below = (sum(getattr(each, name) for each in on) for name in (part, whole))
        return f"{100 * above / below:.1f} % ({above:,.0f} of {below:,.0f})" if below else "none"

    def spread(values: Sequence[float]) -> str:
        low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
        return f"{middle:.3f} (mean {np.mean(values):.3f}, least {low:.3f}, most {high:.3f})"

    return {
        "trials stopped": f"{np.mean([r.stopped for r in on]):.1f} of {on[0].task.n_recipes}, "
        f"{np.mean([r.audited for r in on]):.1f} audited, {np.mean([r.stopped_at_rungs for r in on]):.1f} at rungs",
        "seconds spent on scoring at rungs": share("rung_seconds", "seconds"),
        "stages saved": share("stages_saved", "stages"),
        "seconds saved": share("seconds_saved", "seconds"),
        "seconds saved if scoring at rungs cost nothing": share("seconds_saved_free", "seconds"),
        "seconds that the best possible rule would save": share("seconds_in_vain", "seconds"),
        "members of the true front stopped": share("true_front_stopped", "true_front"),
        "members of the front of what was proposed stopped": share(
            "own_front_stopped", "own_front"
        ),
        "bounds exceeded": share("exceeded", "bounds"),
        "bounds exceeded where the rule says stop": share("exceeded_of_stops", "bounds_of_stops"),
        "hypervolume of scored models / of all stages run": spread(
            [r.hypervolume / r.hypervolume_of_all for r in on]
        ),
        "hypervolume of last models / of all recipes run": spread(
            [r.hypervolume_of_finals / r.hypervolume_of_all_finals for r in on]
        ),
        "hypervolume / the same search without stopping": spread(
            [a.hypervolume / b.hypervolume for a, b in zip(on, off, strict=True)]
        ),
        "seconds / the same search without stopping": spread(
            [(a.seconds - a.seconds_saved) / b.seconds for a, b in zip(on, off, strict=True)]
        ),
        "hypervolume / true hypervolume": spread([r.hypervolume / r.true_hypervolume for r in on]),
        "seconds of the rule per search": f"{np.mean([r.rule_seconds for r in on]):.2f}",
    }


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--recipes", type=int, default=200)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rungs", nargs="+", default=[], help="such as 0.15,0.4; one search each")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with ProcessPoolExecutor(args.workers) as pool:
        for problem, sampler in itertools.product(args.problems, args.samplers):
            modes = {"off": (False, ()), "boundaries": (True, ())}
            modes |= {f"boundaries and rungs {each}": (True, _shares(each)) for each in args.rungs}
            running = {
                name: [
                    pool.submit(
                        search,
                        Task(problem, sampler, seed, args.recipes, is_on, args.alpha, shares),
                    )
                    for seed in range(args.seeds)
                ]
                for name, (is_on, shares) in modes.items()
            }
            found = {name: [each.result() for each in all_of] for name, all_of in running.items()}
            for name, results in found.items():
                if name == "off":
                    continue
                print(f"\n{problem}, {sampler}, {name}")
                for title, value in summary(results, found["off"]).items():
                    print(f"  {title:52s} {value}", flush=True)


if __name__ == "__main__":
    main()
