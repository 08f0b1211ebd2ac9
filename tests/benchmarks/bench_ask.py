"""How long does a proposal take? The Asker over studies of many finished trials whose training is played.

    python tests/benchmarks/bench_ask.py [tpe stagewise ...] [--trials 100 1000] [--objectives 2 3 4] [--asks 3]

Prints one line per sampler, number of finished trials and number of objectives: CPU seconds of one ask (median and
largest), and which share of it the Asker itself takes, the rest being the sampler's. A study holds more observations
than trials, since inner boundaries are told as trials of the shorter recipes; both numbers are printed. Storage in
memory; `--sqlite` keeps it in a file as real studies do. 3,000 trials, or a file, take minutes to fill.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from evaluators.scores import Score
from search.records import Boundary, Proposal, StageRecord, TrialRecord
from search.sampling.asking import Asker
from search.sampling.samplers import SAMPLERS
from search.spec import ConstraintSpec, ObjectiveSpec, SamplerSpec
from search.yaml_file import load_study
from spaces.space import Space

STUDY = """
name: played
base: {path: model}
sources:
  chat: {path: chat.jsonl, format: messages}
  pairs: {path: pairs.jsonl, format: preference}
influences:
  tone: {method: sft, adapter: {kind: lora, rank: {choice: [2, 4, 8]}}, mix: {chat: 1.0},
         dose_tokens: {low: 1500, high: 10000, log: true}, learning_rate: {low: 1e-4, high: 1e-2, log: true}}
  structure: {method: sft, adapter: {kind: full}, mix: {chat: 1.0},
         dose_tokens: {low: 2000, high: 12000, log: true}, learning_rate: {low: 3e-4, high: 2e-3, log: true}}
  taste: {method: dpo, adapter: {kind: lora, rank: 4}, mix: {pairs: 1.0}, beta: {low: 0.02, high: 0.5, log: true},
         dose_tokens: {low: 1000, high: 6000, log: true}, learning_rate: {low: 3e-4, high: 3e-3, log: true}}
order: {min_stages: 1, max_stages: 3, max_repeats: 1}
suite:
  taste: {evaluator: preference, source: pairs}
objectives: [{score: taste.accuracy}]
budget: {trials: 1}
"""
SCORES = ("tone", "structure", "taste", "retention")
"""Names of objectives: the first three are maximised, the last is lost with every token."""
WORKERS = 2


@dataclass
class Played:
    """A study without training: Optuna's storage, and the records that the Asker reads back."""

    space: Space
    n_objectives: int
    url: str | None
    records: dict[int, TrialRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self._names()
        self.study = optuna.create_study(
            study_name="played",
            storage=self.url,
            directions=["minimize" if name == "retention" else "maximize" for name in names],
        )
        self._draw = random.Random(0)

    def _names(self) -> list[str]:
        return [*SCORES[: self.n_objectives - 1], "retention"]

    def asker(self, sampler: str) -> Asker:
        """Return an Asker on this study as a launch makes one."""
        objectives = [
            ObjectiveSpec(score=name, reference=1.5 if name == "retention" else 0.0)
            for name in self._names()
        ]
        arguments: list[Any] = [
            self.study,
            self.space,
            SamplerSpec(name=sampler, seed=1),  # type: ignore[arg-type]
            objectives,
            [ConstraintSpec(score="retention", at_most=1.2)],
            WORKERS,
            self.records.get,
        ]
        return Asker(*arguments, references=[objective.reference for objective in objectives])

    def fill(self, n_trials: int) -> None:
        """Play trials at random until there are so many."""
        asker = self.asker("random")
        while len(self.records) < n_trials:
            self.play(asker)
        asker.ask()  # Tells the inner boundaries of what has ended.

    def play(self, asker: Asker) -> float:
        """Ask for a proposal, play it, tell it; return the CPU seconds of the ask."""
        began = time.process_time()
        proposal = asker.ask()
        seconds = time.process_time() - began
        assert proposal is not None
        self.records[proposal.number] = self._record(proposal)
        asker.tell(self.records[proposal.number])
        return seconds

    def _record(self, proposal: Proposal) -> TrialRecord:
        stages = proposal.recipe.stages
        return TrialRecord(
            number=proposal.number,
            state="COMPLETE",
            params=proposal.params,
            recipe=proposal.recipe,
            seed=1,
            stages=tuple(self._stage(stage) for stage in stages),
            boundaries=tuple(self._boundary(proposal, n) for n in range(len(stages) + 1)),
            started_at="2026-11-24T00:00:00+00:00",
        )

    def _stage(self, stage: Any) -> StageRecord:
        return StageRecord(
            stage=stage,
            digest="d",
            seed=1,
            trained_tokens=stage.dose_tokens,
            n_steps=1,
            n_rows=1,
            tokens_by_source={},
            passes_by_source={},
            loss_by_step=(1.0,),
            n_trainable=1,
            micro_batch_rows=1,
            train_seconds=stage.dose_tokens / 1000,
            setup_seconds=0.1,
        )

    def _boundary(self, proposal: Proposal, n_stages: int) -> Boundary:
        """Score a model in which each influence saturates, erodes what came before, and drifts."""
        levels = dict.fromkeys(SCORES, 0.1)
        for stage in proposal.recipe.stages[:n_stages]:
            strength = (stage.dose_tokens / 12000) ** 0.5 * (stage.learning_rate / 1e-2) ** 0.25
            levels = {name: level * (1 - 0.2 * strength) for name, level in levels.items()}
            levels[stage.influence] += 0.8 * strength
            levels["retention"] += 0.5 * strength**2
        scores = tuple(
            Score(
                name=name,
                value=levels[name] + self._draw.gauss(0, 0.02),
                n=32,
                unit="share",
                direction="minimise" if name == "retention" else "maximise",
            )
            for name in self._names()
        )
        return Boundary(n_stages=n_stages, digest="d", scores=scores, evaluate_seconds=1.0)


@contextmanager
def sampler_clock(spent: list[float]) -> Iterator[None]:
    """Add up the CPU seconds that `Study.ask` and the sampler's own methods take within an ask."""
    originals = {
        name: getattr(optuna.samplers.BaseSampler, name, None)
        for name in ("infer_relative_search_space", "sample_relative", "sample_independent")
    }
    classes = {cls for cls in _subclasses(optuna.samplers.BaseSampler)}
    patched = [(cls, name) for cls in classes for name in originals if name in vars(cls)]
    depth = [0]

    def counted(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            depth[0] += 1
            began = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                depth[0] -= 1
                if not depth[0]:
                    spent[0] += time.process_time() - began

        return call

    kept = {(cls, name): vars(cls)[name] for cls, name in patched}
    try:
        for cls, name in patched:
            setattr(cls, name, counted(kept[cls, name]))
        yield
    finally:
        for (cls, name), method in kept.items():
            setattr(cls, name, method)


def _subclasses(cls: type) -> Iterator[type]:
    yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)


def bench(played: Played, sampler: str, n_asks: int) -> None:
    """Time asks of one sampler on a filled study."""
    n_trials, asker = len(played.records), played.asker(sampler)
    seconds, own = [], []
    for _ in range(n_asks):
        spent = [0.0]
        with sampler_clock(spent):
            seconds.append(played.play(asker))
        own.append(seconds[-1] - spent[0])
    n_observed = len(played.study.get_trials(deepcopy=False)) - n_asks
    print(
        f"{sampler:10} {played.n_objectives} objectives {n_trials:6} trials {n_observed:6} observations"
        f"   ask {1e3 * statistics.median(seconds):7.0f} ms (largest {1e3 * max(seconds):7.0f})"
        f"   of that the Asker {1e3 * statistics.median(own):6.1f} ms",
        flush=True,
    )


def main() -> None:
    """Time all that was asked for."""
    known = list(dict.fromkeys([*SAMPLERS, "stagewise"]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samplers", nargs="*", metavar="SAMPLER", help=f"of {', '.join(known)}")
    parser.add_argument("--trials", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--objectives", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--asks", type=int, default=3)
    parser.add_argument("--sqlite", action="store_true")
    options = parser.parse_args()
    if set(options.samplers) - set(known):
        parser.error(f"samplers are {', '.join(known)}")
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(STUDY)
        spec = load_study(path)
        space = Space(spec.influences, spec.order)
        for n_objectives in options.objectives:
            url = f"sqlite:///{folder}/{n_objectives}.db" if options.sqlite else None
            played = Played(space, n_objectives, url)
            for n_trials in sorted(options.trials):
                began = time.process_time()
                played.fill(n_trials)
                print(f"filled to {n_trials} trials in {time.process_time() - began:.1f} s of CPU")
                for sampler in options.samplers or ["tpe", "stagewise"]:
                    bench(played, sampler, options.asks)


if __name__ == "__main__":
    main()
