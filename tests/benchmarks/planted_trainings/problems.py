"""Problems with known answers: what a stage is trained on decides what it can do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from world import KEYS, N_CHOICES, VALUES, Row, World, hits, write_base

STUDY = """
name: {name}
base: {{path: model}}
sources:
{sources}
influences:
{influences}
order: {{max_stages: 2, max_repeats: 2}}
training: {{rows_per_step: 16, max_length: 16}}
suite:
{suite}
  retention: {{evaluator: retention, source: prose, max_tokens: 12}}
objectives: [{objectives}]
sampler: {{name: random, seed: {seed}, cost: tokens}}
budget: {{trials: 1}}
compute: {{device: cpu, concurrent_trials: 1, threads_per_trial: 1}}
"""
STEP_TOKENS = 16 * 7
"""Tokens of an optimizer step: 16 rows of a mark, a key, two fillers, `=`, a value and the end."""
DOSES = f"{{low: {2 * STEP_TOKENS}, high: {64 * STEP_TOKENS}, log: true}}"


@dataclass
class Problem:
    """Sources, influences and questions of one problem."""

    order: tuple[str, ...]
    """The recipe that is explained."""
    rows: dict[str, list[Row]]
    """Source to rows to train on."""
    questions: dict[str, list[Row]]
    """Score to questions."""
    influences: dict[str, str]
    """Influence to its part of the study file."""
    objectives: tuple[str, ...]
    """Scores that are explained."""
    dead_layers: tuple[int, ...] = ()
    """Layers of the base that pass on what they get."""

    def write(self, folder: Path, name: str, world: World) -> Path:
        """Write base, sources and study; return the study file."""
        write_base(world, folder / "model", self.dead_layers)
        prose = [
            {"text": f"{r['prompt']} {r['answer']}"} for r in world.questions("old", world.old, 2)
        ]
        files = {**self.rows, **{f"ask_{name}": rows for name, rows in self.questions.items()}}
        for source, rows in {**files, "prose": prose}.items():
            (folder / f"{source}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        formats = {name: "prompt-completion" for name in self.rows}
        formats |= {f"ask_{name}": "prompt" for name in self.questions} | {"prose": "text"}
        suite = {n: f"{{evaluator: multiple_choice, source: ask_{n}}}" for n in self.questions}
        text = STUDY.format(
            name=name,
            sources=_lines({n: f"{{path: {n}.jsonl, format: {f}}}" for n, f in formats.items()}),
            influences=_lines(self.influences),
            suite=_lines(suite),
            objectives=", ".join(f"{{score: {name}.acc}}" for name in self.objectives),
            seed=world.seed,
        )
        path = folder / "study.yaml"
        path.write_text(text)
        return path


def _lines(parts: dict[str, str]) -> str:
    return "\n".join(f"  {name}: {part}" for name, part in parts.items())


def influence(
    mix: str, n_steps: int | str, rate: float = 5e-3, adapter: str = "{kind: full}"
) -> str:
    """Return an influence as the study file has it."""
    dose = n_steps if isinstance(n_steps, str) else n_steps * STEP_TOKENS
    return f"{{method: sft, adapter: {adapter}, mix: {mix}, dose_tokens: {dose}, learning_rate: {rate}}}"


def useless(world: World) -> Problem:
    """a teaches the red code along with the old one; c trains on the old one, which every model here knows."""
    red = unknown(world)
    return Problem(
        order=("a", "c"),
        rows={"red": world.rows("red", red, 48), "old": world.rows("old", world.old, 48)},
        questions={"red": world.questions("red", red, 10)},
        influences={
            "a": influence("{red: 0.8, old: 0.2}", 80, 4e-3),
            "c": influence("{old: 1.0}", 8, 3e-4),
        },
        objectives=("red",),
    )


def harmful(world: World) -> Problem:
    """a teaches the red code; b teaches half of it and contradicts the other half: alone it helps, after a it takes."""
    red = unknown(world)
    contrary = world.other(red)
    mixed = {key: red[key] if key in KEYS[::2] else contrary[key] for key in KEYS}
    return Problem(
        order=("a", "b"),
        rows={"red": world.rows("red", red, 48), "mixed": world.rows("red", mixed, 48)},
        questions={"red": world.questions("red", red, 10, contrary)},
        influences={"a": influence("{red: 1.0}", 40), "b": influence("{mixed: 1.0}", 40)},
        objectives=("red",),
    )


def redundant(world: World) -> Problem:
    """a and b teach the same red code from other rows."""
    red = unknown(world)
    return Problem(
        order=("a", "b"),
        rows={"red": world.rows("red", red, 48), "more": world.rows("red", red, 48)},
        questions={"red": world.questions("red", red, 10)},
        influences={"a": influence("{red: 1.0}", 40), "b": influence("{more: 1.0}", 40)},
        objectives=("red",),
    )


def order(world: World) -> Problem:
    """a teaches the red code and b another one for the same questions: what comes last stays."""
    red = unknown(world)
    contrary = world.other(red)
    return Problem(
        order=("a", "b"),
        rows={"red": world.rows("red", red, 48), "contrary": world.rows("red", contrary, 48)},
        questions={"red": world.questions("red", red, 10, contrary)},
        influences={"a": influence("{red: 1.0}", 40), "b": influence("{contrary: 1.0}", 40)},
        objectives=("red",),
    )


def layers(world: World) -> Problem:
    """The same rows for an adapter in the lower layer and one in the upper; one of the two layers is dead."""
    red = unknown(world)
    lora = "{{kind: lora, rank: 8, alpha: 16, targets: 'q_proj,k_proj,v_proj,gate_proj,up_proj', layers: {}}}"
    part = {"lower": "0%-50%", "upper": "50%-100%"}
    return Problem(
        order=("lower", "upper"),
        rows={"red": world.rows("red", red, 48)},
        questions={"red": world.questions("red", red, 10)},
        influences={
            name: influence("{red: 1.0}", 64, 1e-2, lora.format(where))
            for name, where in part.items()
        },
        objectives=("red",),
        dead_layers=(world.seed % 2,),
    )


def dose(world: World) -> Problem:
    """Many right rows on red, few wrong ones on old: a small dose teaches the ones, a large one the others too."""
    red, wrong = unknown(world, KEYS[::2], 0.15), world.other(world.old)
    some = {key: wrong[key] for key in KEYS[1::2]}
    known = {key: world.old[key] for key in KEYS[1::2]}
    asked = [*world.questions("red", red, 10), *world.questions("old", known, 10, wrong)]
    return Problem(
        order=("a",),
        rows={"right": world.rows("red", red, 48), "wrong": world.rows("old", some, 48)},
        questions={"both": asked},
        influences={"a": influence("{right: 0.97, wrong: 0.03}", DOSES, 1e-3)},
        objectives=("both",),
    )


def nothing(world: World) -> Problem:
    """Stages on rows without anything to learn; two scores that they cannot change but by chance."""
    return Problem(
        order=("a", "b"),
        rows={name: _balanced(world) for name in ("one", "two")},
        questions=_null_questions(world),
        influences={
            name: influence(f"{{{source}: 1.0}}", 24)
            for name, source in {"a": "one", "b": "two"}.items()
        },
        objectives=("restless", "coin"),
    )


def no_dose(world: World) -> Problem:
    """A stage on rows without anything to learn, in doses that differ; the same two scores."""
    return Problem(
        order=("a",),
        rows={"one": _balanced(world)},
        questions=_null_questions(world),
        influences={"a": influence("{one: 1.0}", DOSES)},
        objectives=("restless", "coin"),
    )


def unknown(world: World, keys: tuple[str, ...] = KEYS, at_most: float = 0.3) -> dict[str, str]:
    """Return a code that the base does not know under the mark `red`: it hits a smaller share of questions."""
    for _ in range(1000):
        code = world.code(keys)
        asked = world.questions("red", code, 4)
        if sum(hits(world, asked)) < at_most * len(asked):
            return code
    raise ValueError(f"world {world.seed}: the base knows every code; take another seed")


def _balanced(world: World) -> list[Row]:
    """Return rows in which each key has each value equally often: what is learnt depends on their order alone."""
    found = [row for value in VALUES for row in world.rows("red", dict.fromkeys(KEYS, value), 6)]
    return world.shuffled(found)


def _null_questions(world: World) -> dict[str, list[Row]]:
    """Return questions whose share of hits has the same expectation for the base and after any training here.

    `coin`: right answers are drawn one by one. `restless`: those of a code that nobody teaches, of which the base hits
    a quarter, as guessing does. A training that settles on some value for a key hits its six questions or misses
    them, so trainings differ by more than the noise of questions.
    """
    for _ in range(1000):
        restless = world.questions("red", world.code(), 6)
        if abs(sum(hits(world, restless)) - len(restless) / N_CHOICES) <= 1:
            return {"restless": restless, "coin": world.coins("red", 6)}
    raise ValueError(
        f"world {world.seed}: no code of which the base hits a quarter; take another seed"
    )


PROBLEMS: dict[str, Callable[[World], Problem]] = {
    each.__name__: each
    for each in (useless, harmful, redundant, order, layers, dose, nothing, no_dose)
}
