"""The rival: a study searched with Ray Tune, OptunaSearch and TRL, as a careful user writes it without apportion.

    python tests/benchmarks/real/plain.py STUDY.yaml --trials 60 --seed 0 --out rows.jsonl

Of the study file it takes space, sources, training, suite and objectives; sampler and budget come from the command
line. Each trial trains its recipe from the base and is scored once, at its end, with the study's own suite. One line
of JSON per trial is appended to --out.

Nothing is left slow on purpose: actors are reused, the base stays loaded and is restored from memory, idle threads
sleep, workers run at normal priority, and the sampler gets the encoding that suits it best (see README.md).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

STARTED_AT = time.time()
os.environ |= {
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}

import optuna  # noqa: E402
import ray  # noqa: E402 - it reads the environment
from ray import tune  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402

from search.yaml_file import load_study  # noqa: E402
from spaces.space import Space  # noqa: E402

NUMBER = "number"


def shared_space(study: Path) -> Space:
    """Return the study's recipes, one set of values per influence wherever it stands.

    That is how a user writes it by hand. As long as no influence repeats, no recipe is lost.

    Raises:
        SystemExit: Influences repeat.
    """
    spec = load_study(study)
    if spec.order.max_repeats != 1:
        raise SystemExit(f"{study}: order.max_repeats must be 1 here")
    return Space(spec.influences, spec.order.model_copy(update={"per_position": False}))


def define_recipe(trial: Any, space: Space) -> dict[str, Any]:
    """Draw the order, and then the values of the influences in it; OptunaSearch calls this for each trial."""
    orders = [" > ".join(sequence) for sequence in space.rules.sequences()]
    params: dict[str, Any] = {"order": trial.suggest_categorical("order", orders)}
    for parameter in space.parameters(space.sequence(params)):
        parameter.suggest(trial)
    # What was drawn reaches the config by itself; the number is wanted beside it.
    return {NUMBER: trial.number}


class RecipeTrial(tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """One recipe per trial; the actor goes on to the next one with the base still loaded."""

    def setup(self, config: dict[str, Any], study: str, seed: int, out: str, start: float) -> None:
        """Load base, data and suite."""
        from trl_recipe import TrlModel

        began = time.monotonic()
        self.study, self.seed, self.out, self.start = Path(study), seed, Path(out), start
        self.model = TrlModel.load(self.study)
        self.space = shared_space(self.study)
        self.objectives = [each.score for each in load_study(self.study).objectives]
        # Collections, which trainers ask for, need not go through the libraries' objects.
        gc.collect()
        gc.freeze()
        self.load_seconds = time.monotonic() - began
        self.ended = time.monotonic()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next recipe."""
        return True

    def step(self) -> dict[str, Any]:
        """Train a recipe, score it, and report."""
        idle_seconds = time.monotonic() - self.ended
        cpu_began = time.process_time()
        number = self.config[NUMBER]
        params = {name: value for name, value in self.config.items() if name != NUMBER}
        recipe = self.space.decode(params)
        self.model.train(recipe, self.seed)
        scores = self.model.measure()
        now = time.time()
        seconds = {"load": self.load_seconds, "idle": idle_seconds, **self.model.seconds}
        row = {
            "number": number,
            "ended_at": now,
            "wall_seconds": round(now - self.start, 3),
            "params": params,
            "recipe": recipe.model_dump(mode="json"),
            "scores": scores,
            "tokens": self.model.tokens,
            "cpu_seconds": round(time.process_time() - cpu_began, 4),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
        }
        self.load_seconds = 0.0
        with self.out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self.ended = time.monotonic()
        missing = [name for name in self.objectives if scores[name] is None]
        if missing:
            # Reported as a number it would stand on the front, left out it would abort the sweep.
            raise RuntimeError(f"no score: {', '.join(missing)}")
        return {"done": True, **{name: scores[name] for name in self.objectives}}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""


def run(study: Path, n_trials: int, seed: int, out: Path) -> None:
    """Run the sweep."""
    spec = load_study(study)
    startup_trials = spec.sampler.startup_trials
    n_startup_trials = 10 if startup_trials is None else startup_trials
    modes = ["max" if direction == "maximise" else "min" for direction in spec.directions()]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ["OMP_NUM_THREADS"] = str(spec.compute.threads_per_trial)
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level="CRITICAL"
    )
    trainable = tune.with_parameters(
        RecipeTrial, study=str(study), seed=seed, out=str(out), start=STARTED_AT
    )
    with tempfile.TemporaryDirectory(prefix="plain-tune-") as scratch:
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": spec.compute.cpus_per_trial}),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(
                    partial(define_recipe, space=shared_space(study)),
                    metric=[objective.score for objective in spec.objectives],
                    mode=modes,
                    sampler=optuna.samplers.TPESampler(
                        seed=seed, n_startup_trials=n_startup_trials
                    ),
                ),
                num_samples=n_trials,
                max_concurrent_trials=spec.compute.concurrent_trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0),
        ).fit()
        ray.shutdown()


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", type=Path)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="rows are appended")
    options = parser.parse_args()
    run(options.study.resolve(), options.trials, options.seed, options.out.resolve())


if __name__ == "__main__":
    main()
