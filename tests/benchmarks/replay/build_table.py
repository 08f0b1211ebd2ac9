"""Train and score every recipe of a finite space once, and keep the results as one table.

    OMP_NUM_THREADS=1 python tests/benchmarks/replay/build_table.py

Makes the small model if it is not there, then walks the tree of recipes depth first: a model's weights are kept in
memory while its children train from copies of them, so each prefix is trained once. One process, one thread. Rows are
appended to a file in .demo/replay/ as they come; called again, it goes on where it was. At its end it writes
results/replay/table.parquet, and results/replay/replicates.parquet with some recipes trained with another seed.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from table import (
    STDERR,
    Objective,
    Row,
    choices_digest,
    stage_choices,
    write_table,
)

from evaluators.models import LoadedModel
from evaluators.suite import Reference, Suite
from search.errors import SpecError, StageError
from search.recipe_file import digest_context
from search.sources import Source, read_source
from search.spec import StudySpec
from search.stages.base_model import ResidentBase
from search.stages.model_ref import ModelRef
from search.stages.run import STAGE_VERSION, run_stage
from search.yaml_file import load_study
from spaces.decode import decode_stage, influence_values
from spaces.order import OrderRules
from spaces.params import Choice, Parameter
from spaces.recipe import Recipe, Stage

HERE = Path(__file__).parent
RESULTS = HERE.parents[2] / "results" / "replay"
WORK = HERE.parents[2] / ".demo" / "replay"
N_REPLICATES = 20
State = dict[str, torch.Tensor]


def stage_grid(spec: StudySpec) -> dict[str, list[Stage]]:
    """Return every stage that each influence can be.

    Raises:
        SpecError: A value is a range, or a stage leaves more than merged weights behind.
    """
    grid: dict[str, list[Stage]] = {}
    for name, influence in spec.influences.items():
        values = influence_values(name, influence)
        parameters = [value for value in values.values() if isinstance(value, Parameter)]
        choices = []
        for parameter in parameters:
            if not isinstance(parameter, Choice):
                raise SpecError(
                    f"influences.{name}: {parameter.name} is a range; the table needs a choice"
                )
            choices.append([(parameter.name, value) for value in parameter.choices])
        grid[name] = [
            decode_stage(name, values, dict(drawn)) for drawn in itertools.product(*choices)
        ]
        if any(stage.handoff != "merge" for stage in grid[name]):
            raise SpecError(f"influences.{name}.handoff: the table keeps weights alone; use merge")
    return grid


@dataclass
class Bench:
    """What all trainings share."""

    spec: StudySpec
    base: ResidentBase
    sources: dict[str, Source]
    suite: Suite
    reference: Reference

    @classmethod
    def load(cls, study: Path) -> Bench:
        """Read a study, its base and its sources, and measure what the suite wants to know of the base."""
        spec, root = load_study(study), study.parent
        base = ResidentBase.load(spec.base, root, "cpu", spec.training.precision, 1)
        sources = {name: read_source(name, source, root) for name, source in spec.sources.items()}
        rows = {name: source.rows for name, source in sources.items()}
        suite = Suite(spec.full_suite, rows, root)
        return cls(spec, base, sources, suite, suite.reference(as_loaded(base.fresh())))


def as_loaded(ref: ModelRef) -> LoadedModel:
    """Return a model as evaluators see it."""
    return LoadedModel(ref.model, ref.tokenizer, ref.device, "float32")


class Walk:
    """The tree of recipes and the models at its nodes."""

    def __init__(self, bench: Bench, seed: int) -> None:
        """Prepare a walk.

        Args:
            bench: Base, sources and suite.
            seed: Of all trainings.
        """
        self.bench = bench
        self.seed = seed
        self.grid = stage_grid(bench.spec)
        self.rules = OrderRules(bench.spec.order, tuple(bench.spec.influences))
        self.context = digest_context(
            bench.base.fingerprint, bench.spec.training, bench.spec.base.dtype, seed, STAGE_VERSION
        )
        self.hashes = {name: source.content_hash for name, source in bench.sources.items()}

    def children(self, recipe: Recipe) -> Iterator[Recipe]:
        """Yield the recipes that are one stage longer."""
        order = [stage.influence for stage in recipe.stages]
        for name in self.grid:
            if len(order) < self.rules.max_stages and order.count(name) < self.rules.max_repeats:
                for stage in self.grid[name]:
                    yield Recipe(stages=(*recipe.stages, stage))

    def recipes(self, recipe: Recipe) -> Iterator[Recipe]:
        """Yield a recipe and all that begin with it."""
        yield recipe
        for child in self.children(recipe):
            yield from self.recipes(child)

    def run(self, recipe: Recipe, state: State | None, is_scored: bool) -> Row:
        """Train the last stage of a recipe on its parent's weights and return its row.

        Args:
            recipe: The recipe; the empty one is only scored.
            state: Weights of the recipe without its last stage; None for the base.
            is_scored: False leaves the scores out.
        """
        stages = recipe.stages
        row: Row = {
            "digest": choices_digest(stages),
            "parent": choices_digest(stages[:-1]) if stages else None,
            "depth": len(stages),
            "seed": self.seed,
        }
        for position, stage in enumerate(stages, 1):
            row |= {f"{name}_{position}": value for name, value in stage_choices(stage).items()}
        ref = self._restored(state, len(stages) - 1)
        began = time.process_time()
        try:
            row |= self._train(ref, recipe)
        except StageError as error:
            row |= {"reason": str(error), "tokens": 0, "evaluate_cpu": 0.0}
            is_scored = False
        row["stage_cpu"] = time.process_time() - began if stages else 0.0
        if is_scored:
            row |= self._scores(as_loaded(ref))
        return row

    def copied_weights(self) -> State:
        """Return a copy of the weights as the last run left them."""
        parameters = self.bench.base.model.named_parameters()
        return {name: parameter.detach().clone() for name, parameter in parameters}

    def _restored(self, state: State | None, n_stages: int) -> ModelRef:
        base = self.bench.base
        ref = base.fresh()
        if state is not None:
            base.keep(state)
            with torch.no_grad():
                for name, parameter in ref.model.named_parameters():
                    parameter.copy_(state[name])
            ref.n_stages, ref.is_base_changed = n_stages, True
        return ref

    def _train(self, ref: ModelRef, recipe: Recipe) -> Row:
        if not recipe.stages:
            return {"tokens": 0, "train_seconds": 0.0, "setup_seconds": 0.0}
        outcome = run_stage(
            ref,
            recipe.stages[-1],
            self.bench.sources,
            self.bench.spec.training,
            recipe.stage_seeds(self.context, self.hashes)[-1],
        )
        return {
            "tokens": outcome.trained_tokens,
            "n_steps": outcome.n_steps,
            "train_seconds": outcome.train_seconds,
            "setup_seconds": outcome.setup_seconds,
            "last_loss": outcome.loss_by_step[-1],
        }

    def _scores(self, model: LoadedModel) -> Row:
        started, began = time.monotonic(), time.process_time()
        row: Row = {"reason": None}
        for measurement in self.bench.suite.measure(model, self.bench.reference).values():
            for score in measurement.scores:
                row |= {score.name: score.value, score.name + STDERR: score.stderr}
                row["reason"] = row["reason"] or score.reason
        row["evaluate_seconds"] = time.monotonic() - started
        row["evaluate_cpu"] = time.process_time() - began
        return row


@dataclass
class Rows:
    """Finished rows by digest, appended to a file as they come."""

    path: Path
    done: dict[str, Row]

    @classmethod
    def open(cls, path: Path) -> Rows:
        """Read what is there; a last line that was cut off is dropped."""
        whole = []
        if path.exists():
            whole = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
            path.write_text("".join(whole))
        rows = [json.loads(line) for line in whole]
        return cls(path, {row["digest"]: row for row in rows})

    def add(self, row: Row) -> None:
        """Append a row."""
        with self.path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self.done[row["digest"]] = row


class Progress:
    """Prints how far the walk is."""

    def __init__(self, n_total: int, n_done: int) -> None:
        self.n_total, self.n_before, self.started = n_total, n_done, time.monotonic()

    def show(self, n_done: int) -> None:
        """Print a line every 50 rows."""
        n_new = n_done - self.n_before
        if n_new == 0 or (n_new % 50 and n_done < self.n_total):
            return
        each = (time.monotonic() - self.started) / n_new
        left = each * (self.n_total - n_done) / 60
        print(f"{n_done}/{self.n_total}, {each:.2f} s each, {left:.0f} min left", flush=True)


def walk_all(walk: Walk, rows: Rows, recipe: Recipe, state: State | None, say: Progress) -> None:
    """Train and score a recipe and all that begin with it, where no row says that it is done."""
    if all(choices_digest(each.stages) in rows.done for each in walk.recipes(recipe)):
        return
    row = rows.done.get(choices_digest(recipe.stages))
    if row is not None and has_failed(row):
        return
    is_new = row is None
    row = walk.run(recipe, state, is_scored=is_new)
    if is_new:
        rows.add(row)
        say.show(len(rows.done))
    children = list(walk.children(recipe))
    if not children or has_failed(row):
        return
    weights = walk.copied_weights()
    for child in children:
        walk_all(walk, rows, child, weights, say)


def has_failed(row: Row) -> bool:
    """Tell whether the last stage could not be trained, so that nothing can follow it."""
    return row["depth"] > 0 and "n_steps" not in row


def replicate(bench: Bench, recipes: Sequence[Recipe], rows: Rows, seed: int) -> None:
    """Train whole recipes with another seed."""
    walk = Walk(bench, seed)
    for recipe in recipes:
        if choices_digest(recipe.stages) in rows.done:
            continue
        state: State | None = None
        for n_stages in range(1, len(recipe.stages) + 1):
            is_last = n_stages == len(recipe.stages)
            row = walk.run(recipe.prefix(n_stages), state, is_scored=is_last)
            state = walk.copied_weights()
            if is_last:
                rows.add(row)


def objectives_of(spec: StudySpec) -> list[Objective]:
    """Return the study's objectives with their reference points.

    Raises:
        SpecError: One has none.
    """
    found = []
    for objective, direction in zip(spec.objectives, spec.directions(), strict=True):
        worst = spec.score_infos[objective.score].worst
        reference = worst if objective.reference is None else objective.reference
        if reference is None:
            raise SpecError(f"objectives: {objective.score} has no reference; give one")
        found.append(Objective(objective.score, direction, float(reference)))
    return found


def build(study: Path, out: Path, n_replicates: int) -> None:
    """Build the table of a study.

    Args:
        study: The study file; base and sources are where it says.
        out: Folder of the two parquet files; rows in the making are beside the study.
        n_replicates: Recipes to train with a second seed.
    """
    bench = Bench.load(study)
    spec = bench.spec
    walk = Walk(bench, spec.sampler.seed)
    gc.collect()
    gc.freeze()  # The libraries' objects need not be looked through again at every collection.
    name = hashlib.sha256(f"{walk.context}{walk.hashes}{bench.suite.version}".encode()).hexdigest()
    rows = Rows.open(study.parent / f"rows-{name[:12]}.jsonl")
    everything = list(walk.recipes(Recipe()))
    print(f"{len(everything)} recipes, {len(rows.done)} done", flush=True)
    walk_all(walk, rows, Recipe(), None, Progress(len(everything), len(rows.done)))
    order = [choices_digest(recipe.stages) for recipe in everything]
    provenance = {
        "study": study.read_text(),
        "context": walk.context,
        "suite_version": bench.suite.version,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
    }
    score_names = [info.name for info in bench.suite.infos]
    arguments = (score_names, objectives_of(spec), walk.rules.max_stages, provenance)
    done = [rows.done[digest] for digest in order if digest in rows.done]
    write_table(out / "table.parquet", done, *arguments)
    again = Rows.open(study.parent / f"replicates-{name[:12]}.jsonl")
    trained = [recipe for recipe in everything if recipe.stages]
    chosen = random.Random(0).sample(trained, min(n_replicates, len(trained)))
    replicate(bench, chosen, again, spec.sampler.seed + 1)
    if again.done:
        write_table(out / "replicates.parquet", list(again.done.values()), *arguments)


def prepare(work: Path) -> Path:
    """Write study, sources and model into a folder, where they are not there yet; return the study file."""
    from small_model import write_model
    from texts import write_sources

    work.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "study.yaml", work / "study.yaml")
    write_sources(work)
    if not (work / "model").exists():
        write_model(work / "model.part")
        os.replace(work / "model.part", work / "model")
    return work / "study.yaml"


def main() -> None:
    """Build the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--replicates", type=int, default=N_REPLICATES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    build(prepare(options.work), options.out, options.replicates)


if __name__ == "__main__":
    main()
