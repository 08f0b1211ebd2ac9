"""Does order matter? Every order of one to three stages with repeats on a small model, each with three fresh seeds.

    python tests/benchmarks/order_small/run.py [--seeds 3]

Makes base and sources in .demo/order_small (a world of planted_trainings), runs study.yaml of
results/reference/order_small there or takes it up again, trains all recipes with fresh seeds (`apportion confirm`), and
prints the tables of notes.md.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats

from search.attribution.noise import holm_corrected
from search.folders import StudyFolder

HERE = Path(__file__).parent
TOP = HERE.parents[2]
sys.path.insert(0, str(HERE.parent / "planted_trainings"))
sys.path.insert(0, str(HERE.parent / "real"))
from studies import ENVIRONMENT, apportion  # noqa: E402
from world import Code, Row, World, write_base  # noqa: E402

REFERENCE = TOP / "results" / "reference" / "order_small"
WORK = TOP / ".demo" / "order_small"
SCORES = ("red.acc", "blue.acc", "taste.accuracy", "old.acc", "retention.kl")
Values = dict[tuple[str, ...], dict[str, list[float]]]
"""Recipe's influences in order, to score, to its value with each fresh seed."""


def prepare() -> Path:
    """Write base, sources and study where they are not there yet; return the study file."""
    WORK.mkdir(parents=True, exist_ok=True)
    study = Path(shutil.copyfile(REFERENCE / "study.yaml", WORK / "study.yaml"))
    if (WORK / "prose.jsonl").exists():
        return study
    world = World(0)
    write_base(world, WORK / "model")
    red, blue = world.code(), world.code()
    green = World(0).code()  # What the base was taught beside the old code.
    liked = world.other(world.old)
    files: dict[str, list[Row]] = {
        "red": world.rows("red", red, 48),
        "blue": world.rows("blue", blue, 48),
        "pairs": pairs(world, liked, 24),
        "unseen_pairs": pairs(world, liked, 10),
        "ask_red": world.questions("red", red, 10),
        "ask_blue": world.questions("blue", blue, 10),
        "ask_old": world.questions("green", green, 10),
        "prose": [
            {"text": f"{row['prompt']} {row['answer']}"}
            for row in world.questions("green", green, 4)
        ],
    }
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (WORK / f"{name}.jsonl").write_text(text)
    return study


def pairs(world: World, liked: Code, n_each: int) -> list[Row]:
    """Return pairs under the mark `old`: another value than the one that the base was taught is preferred."""
    rejected = {key: world.old[key] for key in liked}
    return [
        {
            "prompt": row["prompt"],
            "chosen": f" {row['answer']}",
            "rejected": f" {rejected[row['prompt'].split()[1]]}",
        }
        for row in world.shuffled(world.questions("old", liked, n_each))
    ]


def run(study: Path, n_seeds: int) -> Path:
    """Run or resume the study, confirm all of it, and return its folder."""
    target = WORK / "results" / "order_small"
    words = ["resume", str(target)] if target.exists() else ["run", str(study)]
    numbers = [f"{number}" for number in range(1, 37)]
    confirm = ["confirm", str(target), "--trials", ",".join(numbers), "--seeds", str(n_seeds)]
    for command in (words, confirm):
        subprocess.run([*apportion(), *command], cwd=WORK, env=ENVIRONMENT, check=True)
    return target


def values_of(study: StudyFolder) -> Values:
    """Return the scores of all recipes with fresh seeds, in the order of the seeds."""
    found: Values = {}
    for folder in study.replicate_folders():
        record = folder.read_record()
        if record is None or record.state != "COMPLETE":
            continue
        order = tuple(stage.influence for stage in record.recipe.stages)
        for name in SCORES:
            value = record.final_scores[name].value
            if value is not None:
                found.setdefault(order, {}).setdefault(name, []).append(value)
    return found


def lines(values: Values) -> list[str]:
    """Return the tables: means, and every two orders of the same stages against each other."""
    text = [f"| recipe | {' | '.join(SCORES)} |", "|---|" + "---|" * len(SCORES)]
    for order, scores in values.items():
        cells = [f"{np.mean(scores[s]):.3f} ± {np.std(scores[s], ddof=1):.3f}" for s in SCORES]
        text.append(f"| {' > '.join(order)} | {' | '.join(cells)} |")
    compared = [
        (one, other, score, *difference(values, one, other, score))
        for one, other in combinations(values, 2)
        if sorted(one) == sorted(other)
        for score in SCORES
    ]
    holm = holm_corrected([p for *_, p in compared])
    shown = [
        (each, p) for each, p in zip(compared, holm, strict=True) if p is not None and p < 0.05
    ]
    text += ["", f"{len(shown)} of {len(compared)} comparisons differ beyond noise:", ""]
    text += ["| score | compared | shown | largest difference |", "|---|---|---|---|"]
    for score in SCORES:
        own = [each for each in compared if each[2] == score]
        sure = [each for each, _ in shown if each[2] == score]
        top = max(sure, key=lambda each: abs(each[3]), default=None)
        what = (
            ""
            if top is None
            else f"{' > '.join(top[0])} less {' > '.join(top[1])}: {top[3]:+.3f} ± {top[4]:.3f}"
        )
        text.append(f"| {score} | {len(own)} | {len(sure)} | {what} |")
    text += [
        "",
        *(
            f"- {' > '.join(a)} less {' > '.join(b)}, {s}: {d:+.3f} ± {h:.3f}"
            for (a, b, s, d, h, _), _ in shown
        ),
    ]
    return text


def difference(
    values: Values, one: tuple[str, ...], other: tuple[str, ...], score: str
) -> tuple[float, float, float]:
    """Return the difference of two means, half of its 95 % interval and its p-value.

    The variance between seeds is pooled over all recipes for the score: three seeds tell too little of one recipe's.
    """
    groups = [np.array(scores[score]) for scores in values.values() if len(scores[score]) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    variance = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom
    first, second = np.array(values[one][score]), np.array(values[other][score])
    gain = float(first.mean() - second.mean())
    error = math.sqrt(variance * (1 / len(first) + 1 / len(second)))
    if error == 0:
        return gain, 0.0, float(gain == 0)
    half = float(stats.t.ppf(0.975, freedom)) * error
    return gain, half, float(2 * stats.t.sf(abs(gain) / error, freedom))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    folder = run(prepare(), parser.parse_args().seeds)
    print("\n".join(lines(values_of(StudyFolder(folder)))))
