"""Do the recipes of the reference study's front, trained again from their files, give the scores of its report?

    python tests/benchmarks/order_small/reproduce.py

Makes base and sources as run.py does, trains each recipe of the study with `apportion train`, scores the models with
`apportion score`, and holds them against front.csv: every score within 1.96 of its standard errors there.
Exit code 1 if one is not.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

from run import ENVIRONMENT, REFERENCE, SCORES, WORK, apportion, prepare


def main() -> int:
    """Train, score and compare."""
    study = prepare()
    models = WORK / "again"
    shutil.rmtree(models, ignore_errors=True)
    recipes = sorted((REFERENCE / "recipes").glob("*.yaml"))
    for recipe in recipes:
        out = models / recipe.stem
        command = [*apportion(), "train", str(recipe), "--out", str(out), "--form", "merged"]
        subprocess.run(command, env=ENVIRONMENT, check=True, stderr=subprocess.DEVNULL)
    places = [str(models / recipe.stem) for recipe in recipes]
    scored = subprocess.run(
        [*apportion(), "score", str(study), *places, "--json"],
        env=ENVIRONMENT,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with (REFERENCE / "front.csv").open() as file:
        reported = {int(row["number"]): row for row in csv.DictReader(file)}
    n_outside, farthest = 0, 0.0
    for model in json.loads(scored.stdout):
        number = int(Path(model["model"]).name)
        values = {score["name"]: score["value"] for score in model["suite"]}
        for name in SCORES:
            told = float(reported[number][name])
            stderr = float(reported[number][f"{name}_stderr"])
            distance = abs(values[name] - told)
            farthest = max(farthest, distance)
            is_outside = distance > 1.96 * stderr
            n_outside += is_outside
            mark = "  outside" if is_outside else ""
            print(f"trial {number:2}  {name:15} {told:8.4f} again {values[name]:8.4f}{mark}")
    n = len(recipes) * len(SCORES)
    print(
        f"{n - n_outside} of {n} scores of {len(recipes)} recipes within; farthest {farthest:.2g}"
    )
    return 1 if n_outside else 0


if __name__ == "__main__":
    sys.exit(main())
