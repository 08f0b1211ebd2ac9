"""Real trainings of the small model: do intervals of a difference that is nil hold 0, and what does selection flatter?

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
        .venv/bin/python tests/benchmarks/confirm/real.py

Pairs: each of 20 recipes stands in a study twice, as two trials, and each is confirmed with three seeds of its own.
Their true difference is 0 in every score, and the 95 % intervals that `apportion confirm` gives should hold it in 95 of
100. Selection: of 60 recipes (--recipes), one training each, the front is confirmed with three fresh seeds, and three
further seeds tell the truth. Everything is kept in .demo/confirm and goes on where it was. The pairs take about five
minutes on an idle core, a search about as long.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
sys.path.insert(0, str(HERE.parent / "replay"))

from build_table import stage_grid  # noqa: E402

import search.confirmation.replicates as replicates  # noqa: E402
from evaluators.stats.intervals import wilson_interval  # noqa: E402
from search.confirmation.analysis import analyse  # noqa: E402
from search.confirmation.records import Confirmation  # noqa: E402
from search.folders import StudyFolder  # noqa: E402
from search.front import front_mask  # noqa: E402
from search.lab import Lab  # noqa: E402
from search.plan import measured_speeds  # noqa: E402
from search.records import Proposal, TrialRecord  # noqa: E402
from search.spec import StudySpec  # noqa: E402
from search.trial import TrialRun  # noqa: E402
from search.yaml_file import load_study  # noqa: E402
from spaces.recipe import Recipe  # noqa: E402

N_PAIRS, N_SEEDS = 20, 3


def drawn_recipes(spec: StudySpec, n_recipes: int, seed: int) -> list[Recipe]:
    """Return different recipes of one to three stages, each order of influences as likely as any other."""
    grid = stage_grid(spec)
    draw = random.Random(seed)
    found: dict[str, Recipe] = {}
    while len(found) < n_recipes:
        order = draw.sample(sorted(grid), draw.randint(1, len(grid)))
        recipe = Recipe(stages=tuple(draw.choice(grid[name]) for name in order))
        found[recipe.prefix_digests()[-1]] = recipe
    return list(found.values())


def searched(lab: Lab, folder: StudyFolder, recipes: Sequence[Recipe]) -> list[TrialRecord]:
    """Return trials of recipes, trained with the study's seed as a search does, unless they are there."""
    records = []
    for number, recipe in enumerate(recipes):
        record = folder.record_or_none(number)
        if record is None or record.state != "COMPLETE" or record.recipe != recipe:
            run = TrialRun(
                lab, folder.trial(number), Proposal(number, {}, recipe, None), at_end_alone=True
            )
            while not run.step():
                pass
            record = run.record
        if record.state == "COMPLETE":
            records.append(record)
        else:
            print(f"recipe {recipe.label()} failed: {record.reason}")
    return records


def confirmed(
    spec: StudySpec, root: Path, folder: StudyFolder, wanted: Sequence[tuple[TrialRecord, int]]
) -> None:
    """Train the replicates that are missing."""
    seeds = {seed for _, seed in wanted}
    left = [
        pair
        for seed in seeds
        for pair in replicates.missing_replicates(
            folder, [trial for trial, own in wanted if own == seed], [seed]
        )
    ]
    if not left:
        return
    for done in replicates.train_replicates(spec, root, folder, left, measured_speeds(())):
        if done.n_done % 20 == 0:
            print(f"{done.n_done} of {done.n_all}, {done.seconds_left:.0f} s left", flush=True)


def pairs(spec: StudySpec, root: Path, work: Path) -> None:
    """Report how often intervals of differences that are nil hold 0."""
    folder = StudyFolder(work / "pairs")
    folder.make()
    recipes = [recipe for recipe in drawn_recipes(spec, N_PAIRS, seed=1) for _ in range(2)]
    trials = searched(Lab.load(spec, root, None), folder, recipes)
    seeds = replicates.fresh_seeds(spec.sampler.seed, 2 * N_SEEDS)
    wanted = [
        (trial, seed)
        for trial in trials
        for seed in (seeds[:N_SEEDS] if trial.number % 2 == 0 else seeds[N_SEEDS:])
    ]
    confirmed(spec, root, folder, wanted)
    names = list(spec.score_infos)
    found = analyse(folder, trials, None, names)
    assert found is not None
    nil = [
        each for each in found.comparisons if each.first // 2 == each.second // 2
    ]  # trials 2k and 2k + 1 are one recipe
    print("\nIntervals of the difference of two confirmations of one recipe, 3 seeds each")
    for name in names:
        own = [each for each in nil if each.score == name]
        _print_share(name, [each.low <= 0 <= each.high for each in own])
    objectives = {objective.score for objective in spec.objectives}
    _print_share("objectives", [e.low <= 0 <= e.high for e in nil if e.score in objectives])
    _print_share("all", [each.low <= 0 <= each.high for each in nil])
    wrong = sum(each.is_distinguishable for each in nil)
    print(f"told apart after Holm: {wrong} of {len(nil)} (all false)")
    print("\nTwo single trainings of one recipe against the noise floor")
    _single_pairs(found)


def _single_pairs(found: Confirmation) -> None:
    """Hold the noise floor, estimated from the even trials, against differences of single trainings of the odd ones."""
    even = {trial.number: trial for trial in found.trials if trial.number % 2 == 0}
    every = []
    for floor in found.noise:
        own = [trial.score(floor.name) for trial in even.values()]
        spreads = [
            np.var(list(each.by_seed.values()), ddof=1) for each in own if each and each.by_seed
        ]
        reach = 1.96 * np.sqrt(2 * np.mean(spreads))
        holds = []
        for trial in found.trials:
            score = trial.score(floor.name)
            if trial.number % 2 and score is not None and len(score.by_seed) > 1:
                first, second = list(score.by_seed.values())[:2]
                holds.append(bool(abs(first - second) <= reach))
        _print_share(f"{floor.name} (sd {floor.sd:.3g})", holds)
        every += holds
    _print_share("all", every)


def selection(spec: StudySpec, root: Path, work: Path, n_searches: int, n_recipes: int) -> None:
    """Report what the search saw of the front it chose, what three fresh seeds say, and what three further ones do."""
    names = [objective.score for objective in spec.objectives]
    signs = np.array([1.0 if way == "maximise" else -1.0 for way in spec.directions()])
    lab = Lab.load(spec, root, None)
    rows = []
    for at in range(n_searches):
        folder = StudyFolder(work / f"selection{at}")
        folder.make()
        trials = searched(lab, folder, drawn_recipes(spec, n_recipes, seed=100 + at))
        values_NK = np.array(
            [[trial.final_scores[name].value for name in names] for trial in trials], dtype=float
        )
        front = [
            trial
            for trial, is_on in zip(trials, front_mask(-signs * values_NK), strict=True)
            if is_on
        ]
        seeds = replicates.fresh_seeds(spec.sampler.seed, 2 * N_SEEDS)
        confirmed(spec, root, folder, [(trial, seed) for seed in seeds for trial in front])
        found = analyse(folder, trials, None, names)
        assert found is not None
        for trial in front:
            member = found.trial(trial.number)
            scores = [member.score(name) if member else None for name in names]
            seen = [
                [
                    score.searched,
                    _mean(score.by_seed, seeds[:N_SEEDS]),
                    _mean(score.by_seed, seeds[N_SEEDS:]),
                ]
                for score in scores
                if score is not None
            ]
            rows.append(seen)
        print(f"search {at}: {len(front)} of {len(trials)} on the front", flush=True)
    seen_MK3 = np.array(rows, dtype=float) * signs[:, None]
    print(
        "\nFlattery (above 0: looked better than three further seeds say), mean over front members"
    )
    for at, name in enumerate(names):
        for what, column in (("searched", 0), ("three fresh seeds", 1)):
            gaps = seen_MK3[:, at, column] - seen_MK3[:, at, 2]
            error = gaps.std(ddof=1) / np.sqrt(len(gaps))
            print(
                f"{name:34} {what:18} {gaps.mean():+.4f} (standard error {error:.4f}, {len(gaps)} members)"
            )


def _mean(by_seed: dict[int, float], seeds: Sequence[int]) -> float:
    known = [by_seed[seed] for seed in seeds if seed in by_seed]
    return float(np.mean(known)) if known else float("nan")


def _print_share(name: str, holds: Sequence[bool]) -> None:
    share = float(np.mean(holds))
    low, high = wilson_interval(share, len(holds))
    print(
        f"{name:34} {sum(holds)} of {len(holds)} = {share:.3f} ({low:.2f} to {high:.2f} if independent)"
    )


def main() -> None:
    """Train what is missing, and report."""
    from build_table import prepare

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=TOP / ".demo" / "confirm")
    parser.add_argument("--searches", type=int, default=3)
    parser.add_argument("--recipes", type=int, default=60)
    parser.add_argument("--only", choices=("pairs", "selection"))
    options = parser.parse_args()
    study = prepare(TOP / ".demo" / "replay")
    spec, root = load_study(study), study.parent
    spec = spec.model_copy(update={"store": spec.store.model_copy(update={"enabled": False})})
    if options.only != "selection":
        pairs(spec, root, options.work)
    if options.only != "pairs":
        selection(spec, root, options.work, options.searches, options.recipes)


if __name__ == "__main__":
    main()
