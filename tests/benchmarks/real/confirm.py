"""Train recipes again with other seeds and score them, to correct for having picked the best-looking.

    python tests/benchmarks/real/confirm.py STUDY.yaml --recipes FILE --trainer plain --seeds 1001 --out FILE

--recipes holds a JSON list of recipes; --out gets, for each of them, the scores of each seed (null where it failed).
`plain` trains with TRL as plain.py does, `apportion` as a study does.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path

from search.errors import StageError
from search.yaml_file import load_study
from spaces.recipe import Recipe

Scores = dict[str, float | None]
Trainer = Callable[[Recipe], Scores]


def plain_trainer(study: Path, seed: int) -> Trainer:
    """Return what trains and scores a recipe with TRL."""
    from trl_recipe import TrlModel

    model = TrlModel.load(study)

    def train(recipe: Recipe) -> Scores:
        model.train(recipe, seed)
        return model.measure()

    return train


def apportion_trainer(study: Path, seed: int) -> Trainer:
    """Return what trains and scores a recipe as a study of that seed does, with nothing stored."""
    from search.lab import Lab

    spec = load_study(study)
    spec = spec.model_copy(update={"sampler": spec.sampler.model_copy(update={"seed": seed})})
    lab = Lab.load(spec, study.parent, None)

    def train(recipe: Recipe) -> Scores:
        prefixes, digests = lab.prefixes(recipe, "confirm")
        last = len(recipe.stages)
        try:
            for number in range(1, last + 1):
                prefixes.stage(number)
            result = lab.measure(lab.exam, prefixes, last, digests[-1])
        finally:
            prefixes.close()
        return {score.name: score.value for score in result.scores}

    return train


TRAINERS = {"plain": plain_trainer, "apportion": apportion_trainer}


def main() -> None:
    """Train and score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", type=Path)
    parser.add_argument("--recipes", type=Path, required=True)
    parser.add_argument("--trainer", choices=tuple(TRAINERS), required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipes = [
        Recipe.model_validate_json(json.dumps(each))
        for each in json.loads(options.recipes.read_text())
    ]
    found: list[list[Scores | None]] = [[] for _ in recipes]
    for seed in options.seeds:
        train = TRAINERS[options.trainer](options.study.resolve(), seed)
        gc.collect()
        gc.freeze()
        for recipe, scores in zip(recipes, found, strict=True):
            try:
                scores.append(train(recipe))
            except StageError:
                scores.append(None)
    options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
