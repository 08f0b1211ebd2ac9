"""What would be saved by keeping more than stage results? Shares of a stage's CPU seconds, on a study's own data.

    python tests/benchmarks/bench_reuse.py .demo/replay/real_small.yaml [--rows 16]

For each influence one stage is trained on the base, and beside it are timed: tokenising its sources, and for preference
stages the log-probabilities of the reference. For the suite: what evaluators must know of the base, against measuring
the base, and against reading it back from a stage store. CPU seconds of this process, one thread. Prints one fact a
line; figures and what was decided by them: results/benchmarks/overheads.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna

from search.lab import Lab, exam_version, loaded_model
from search.scoring import base_reference
from search.sources import read_source
from search.spec import StudySpec
from search.stages import dpo, tokens
from search.stages.base_model import ResidentBase
from search.stages.run import METHODS, run_stage
from search.store import StageStore
from search.yaml_file import load_study
from spaces.recipe import Stage
from spaces.space import Space

Result = TypeVar("Result")


def timed(action: Callable[[], Result]) -> tuple[Result, float]:
    """Return what an action returns, and its CPU seconds."""
    began = time.process_time()
    found = action()
    return found, time.process_time() - began


def say(what: str, seconds: float, of: float | None = None, whole: str = "the stage") -> None:
    """Print CPU seconds, and which share of another figure they are."""
    share = "" if of is None else f"   {100 * seconds / of:5.1f} % of {whole}"
    print(f"{what:58} {seconds:8.3f} s{share}", flush=True)


class ReferenceClock:
    """Counts the CPU seconds in which preference stages compute their reference."""

    def __init__(self) -> None:
        self.seconds = 0.0
        original: Any = dpo.StageDpo.add_reference

        def counted(trainer: Any) -> None:
            _, seconds = timed(lambda: original(trainer))
            self.seconds += seconds

        dpo.StageDpo.add_reference = counted  # type: ignore[method-assign]


def sample_stage(spec: StudySpec, influence: str, n_tokens: int) -> Stage:
    """Return a stage of an influence with a given dose; all else is drawn with a fixed seed."""
    space = Space(spec.influences, spec.order)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.encode((influence,), {}))
    recipe = space.decode(space.suggest(study.ask(), conditional=True))
    return recipe.stages[0].model_copy(update={"dose_tokens": n_tokens})


def bench_stages(spec: StudySpec, root: Path, base: ResidentBase, n_rows: int) -> None:
    """Time a stage of each influence and the parts of it that could be kept."""
    sources = {name: read_source(name, source, root) for name, source in spec.sources.items()}
    clock = ReferenceClock()
    for influence in spec.influences:
        stage = sample_stage(spec, influence, 1)
        spent, n_tokens = 0.0, 0
        for name in stage.mix:
            training = spec.training
            rows, seconds = timed(
                lambda name=name, training=training: tokens.tokenise(  # type: ignore[misc]
                    sources[name],
                    base.tokenizer,
                    base.tokenizer_hash,
                    training.max_length,
                    training.loss_on,
                )
            )
            spent += seconds
            n_tokens += sum(rows.n_tokens) * n_rows // len(rows.rows)
        stage = stage.model_copy(update={"dose_tokens": n_tokens})
        clock.seconds = 0.0
        outcome, whole = timed(
            lambda stage=stage: run_stage(base.fresh(), stage, sources, spec.training, 1)  # type: ignore[misc]
        )
        size = f"{outcome.n_rows} rows, {outcome.trained_tokens} tokens"
        say(f"{influence}: stage ({stage.method}, {size})", whole)
        say(f"{influence}: tokenising its sources, once per process", spent, whole)
        if METHODS[stage.method].endswith("dpo"):
            say(f"{influence}: reference log-probabilities", clock.seconds, whole)


def bench_suite(lab: Lab) -> None:
    """Time what evaluators must know of the base: measured, kept and read back."""
    suite, precision = lab.exam.suite, lab.spec.training.precision
    loaded = loaded_model(lab.base.fresh(), precision)
    reference, measuring = timed(lambda: suite.reference(loaded))
    _, whole = timed(lambda: suite.measure(loaded, reference))
    say("suite on the base", whole)
    say("what evaluators must know of the base", measuring, whole, "the suite")
    version = exam_version(suite, precision)
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(folder)
        _, first = timed(lambda: base_reference(suite, version, loaded, "bench", store))
        _, again = timed(lambda: base_reference(suite, version, loaded, "bench", store))
        n_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*.pack"))
    say("the same, measured and put into a store", first, whole, "the suite")
    say("the same, read back", again, measuring, "measuring it")
    print(f"{'size in the store':58} {n_bytes / 1e6:8.3f} MB")


def main() -> None:
    """Time one study's parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--rows", type=int, default=16, help="rows of a stage")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.disable_default_handler()
    root = options.study.absolute().parent
    spec = load_study(options.study)
    lab, seconds = timed(lambda: Lab.load(spec, root, None))
    say("loading base, sources and suites", seconds)
    bench_stages(spec, root, lab.base, options.rows)
    bench_suite(lab)


if __name__ == "__main__":
    main()
