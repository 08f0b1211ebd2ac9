"""How long does a suite take on one model, against one evaluator after another with transformers' own `generate`?

    apportion init .demo/inner_voice
    python tests/benchmarks/bench_evaluate.py [STUDY] [--stage FOLDER] [--repeats 3] [--rows 24] [--batches 8 16 32]

STUDY is .demo/inner_voice/study.yaml unless given; it may have `pattern`, `diversity`, `preference`, `likelihood` and
`retention` evaluators, and an influence `structure` with `mix`. The model is the base after a stage of `structure` on
all weights, so that replies have the format that is scored; FOLDER holds such a stage's files, else it is trained.

All sides measure this model with one thread, in turn, and in the same precision. The plain side takes the rows in
batches in their order, pads them, lets `generate` write (in the batch size that is quickest for it), and takes the
whole logits of teacher-forced text, eight rows at once. It is spared loading, casting the weights, and what it must
know of the base. Between plain and ours stand two steps: `shared` is plain and generates once for equal prompts;
`loop` also generates with our loop, in our batches; `ours` adds the head on only the positions that count.

Prints CPU seconds (user and system) and wall seconds of each, their ratios, in how many replies the sides differ, and
how far the scores do. Target: a ratio of 2 between plain and ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor

from evaluators.base import Reply
from evaluators.models import LoadedModel
from evaluators.suite import Reference, Suite
from evaluators.tokens import (
    Logp,
    TextChange,
    TextNats,
    TokenSequence,
    completion_sequences,
    prompt_ids,
    text_windows,
)
from search.sources import read_source
from search.spec import StudySpec
from search.stages.base_model import ResidentBase
from search.stages.model_ref import ModelRef
from search.stages.persist import restore_stage
from search.stages.run import run_stage
from search.yaml_file import load_study
from spaces.recipe import Full, Stage

LOGITS_ROWS = 8
DOSE_TOKENS, LEARNING_RATE = 1789, 1e-4

Found = dict[str, float | None]
Texts = dict[str, list[str]]
"""Replies by evaluator."""


class PlainModel:
    """What evaluators ask of a model, answered as a script would: see above."""

    def __init__(
        self, model: Any, tokenizer: Any, base_logps: dict[str, Tensor], batch_rows: int = 8
    ) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, model.device
        self.batch_rows = batch_rows
        self.base_logps = base_logps
        """Text to the base's log-probabilities (T, V) of all its windows."""

    def generate(self, conversations: Sequence[Any], max_new_tokens: Any) -> list[Reply]:
        limit = max_new_tokens if isinstance(max_new_tokens, int) else max_new_tokens[0]
        replies = []
        for start in range(0, len(conversations), self.batch_rows):
            part = conversations[start : start + self.batch_rows]
            rows = [prompt_ids(self.tokenizer, each) for each in part]
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            with torch.inference_mode():
                written = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=limit,
                    do_sample=False,
                    pad_token_id=self.tokenizer.eos_token_id,
                )
            texts = self.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
            replies += [Reply(text) for text in texts]
        return replies

    def logps(self, sequences: Sequence[TokenSequence]) -> list[Tensor]:
        """Return the log-probabilities (T, V) of every position of each sequence."""
        found = []
        for start in range(0, len(sequences), LOGITS_ROWS):
            rows = [each.ids for each in sequences[start : start + LOGITS_ROWS]]
            width = max(map(len, rows))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
            with torch.inference_mode():
                logits_BTV = self.model(input_ids=ids, attention_mask=mask).logits
                logp_BTV = logits_BTV.float().log_softmax(dim=-1)
            found += [logp_BTV[at, : len(row) - 1] for at, row in enumerate(rows)]
        return found

    def completion_logps(self, rows: Sequence[Any]) -> list[tuple[Logp, ...]]:
        sequences = [
            each
            for index, row in enumerate(rows)
            for each in completion_sequences(self.tokenizer, index, *row)
        ]
        sums = [
            Logp(float(_chosen(logps, each)[each.first - 1 :].sum()), len(each.ids) - each.first)
            for logps, each in zip(self.logps(sequences), sequences, strict=True)
        ]
        pairs = iter(sums)
        return [tuple(next(pairs) for _ in completions) for _, completions in rows]

    def text_nats(self, texts: Sequence[str], max_tokens: int) -> list[TextNats]:
        return [
            TextNats(each.nats, each.n_tokens, each.n_bytes)
            for each in self.text_changes(texts, max_tokens, None)
        ]

    def text_changes(self, texts: Sequence[str], max_tokens: int, _: Any) -> list[TextChange]:
        windows = text_windows(self.tokenizer, texts, max_tokens)
        found = self.logps(windows)
        changes = []
        for owner, text in enumerate(texts):
            own = [
                (logps, each)
                for logps, each in zip(found, windows, strict=True)
                if each.owner == owner
            ]
            logp_TV = torch.cat([logps for logps, _ in own])
            base_TV = self.base_logps.get(text, logp_TV)
            nats = -sum(float(_chosen(logps, each).double().sum()) for logps, each in own)
            targets = torch.tensor([token for _, each in own for token in each.ids[1:]])
            base_nats = -float(base_TV.gather(1, targets[:, None]).double().sum())
            kl = float((base_TV.exp() * (base_TV - logp_TV)).sum(dim=-1).double().sum())
            changes.append(TextChange(nats, base_nats, kl, len(targets), len(text.encode())))
        return changes


def _chosen(logp_TV: Tensor, sequence: TokenSequence) -> Tensor:
    return logp_TV.gather(1, torch.tensor(sequence.ids[1:])[:, None])[:, 0]


class SharingModel(PlainModel):
    """Writes once for equal prompts of a suite, with `generate` or with our loop."""

    def __init__(self, *args: Any, loop: LoadedModel | None = None) -> None:
        super().__init__(*args)
        self.loop = loop
        self.known: dict[str, Reply] = {}

    def generate(self, conversations: Sequence[Any], max_new_tokens: Any) -> list[Reply]:
        new = {repr(each): each for each in conversations if repr(each) not in self.known}
        write = super().generate if self.loop is None else self.loop.generate
        if new:
            written = write(list(new.values()), max_new_tokens)
            self.known.update(zip(new, written, strict=True))
        return [self.known[repr(each)] for each in conversations]


def in_turn(suite: Suite, model: PlainModel, reference: Reference) -> tuple[Found, Texts]:
    """Measure one evaluator after the other."""
    found: Found = {}
    replies: Texts = {}
    for evaluator in suite.evaluators:
        prompts = evaluator.prompts()
        outputs: list[Reply] = []
        if prompts:
            outputs = model.generate(
                [each.conversation for each in prompts], prompts[0].max_new_tokens
            )
            replies[evaluator.name] = [str(each) for each in outputs]
        part = reference.parts.get(evaluator.name)
        measured = evaluator.measure(model, part, outputs)  # type: ignore[arg-type]
        found.update({score.name: score.value for score in measured.scores})
    return found, replies


def ours(suite: Suite, model: LoadedModel, reference: Reference) -> tuple[Found, Texts]:
    """Measure as a trial does."""
    measured = suite.measure(model, reference)
    replies = {
        each.name: [item.output or "" for item in measured[each.name].items]
        for each in suite.evaluators
        if each.prompts()
    }
    return {score.name: score.value for each in measured.values() for score in each.scores}, replies


def trained(ref: ModelRef, spec: StudySpec, root: Path, folder: Path | None) -> None:
    """Bring the base to where a stage of the influence `structure` on all its weights leaves it."""
    mix: Any = spec.influences["structure"].mix
    stage = Stage(
        influence="structure",
        method="sft",
        adapter=Full(),
        mix=dict(mix),
        dose_tokens=DOSE_TOKENS,
        learning_rate=LEARNING_RATE,
    )
    if folder is not None:
        restore_stage(ref, stage, folder)
        return
    sources = {name: read_source(name, spec.sources[name], root) for name in mix}
    run_stage(ref, stage, sources, spec.training, seed=0)


def suite_of(spec: StudySpec, root: Path, which: str, n_rows: int | None) -> Suite:
    """Return the study's suite, holdout or both, of so many rows."""
    specs = {"suite": spec.full_suite, "holdout": dict(spec.holdout)}
    chosen = {**specs["suite"], **specs["holdout"]} if which == "both" else specs[which]
    if n_rows is not None:
        chosen = {
            name: each.model_copy(
                update={"limit": min(n_rows, getattr(each, "limit", None) or n_rows)}
            )
            for name, each in chosen.items()
        }
    rows = {name: read_source(name, source, root).rows for name, source in spec.sources.items()}
    return Suite(chosen, rows, root)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, nargs="?", default=Path(".demo/inner_voice/study.yaml"))
    parser.add_argument("--stage", type=Path, help="files of a kept stage; else it is trained")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, help="at most so many rows of each source")
    parser.add_argument("--suite", choices=["suite", "holdout", "both"], default="suite")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32])
    options = parser.parse_args()
    spec, root = load_study(options.study), options.study.absolute().parent
    suite = suite_of(spec, root, options.suite, options.rows)
    base = ResidentBase.load(spec.base, root, "cpu", options.precision, 1)
    tokenizer = base.tokenizer
    reference = suite.reference(LoadedModel(base.model, tokenizer, "cpu", options.precision))
    dtype = getattr(torch, options.precision)
    half = type(base.model)(base.model.config).to(dtype)  # a second model: `generate` wants its own
    half.load_state_dict(base.model.state_dict())
    half.eval()
    texts = [text for each in suite.evaluators for text in getattr(each, "texts", ())]
    limits = [each.spec.max_tokens for each in suite.evaluators if hasattr(each, "texts")]
    base_logps: dict[str, Tensor] = {}
    for text in texts:
        windows = text_windows(tokenizer, [text], limits[0])
        base_logps[text] = torch.cat(PlainModel(half, tokenizer, {}).logps(windows))
    trained(base.fresh(), spec, root, options.stage)
    half.load_state_dict(base.model.state_dict())
    loaded = LoadedModel(base.model, tokenizer, "cpu", options.precision)
    prompts = [each.conversation for one in suite.evaluators for each in one.prompts()]
    unique = list({repr(each): each for each in prompts}.values())
    n_new = max(each.max_new_tokens for one in suite.evaluators for each in one.prompts())
    print(f"{len(prompts)} prompts, {len(unique)} different, {len(texts)} texts", flush=True)
    n_rows = best_batch(PlainModel(half, tokenizer, base_logps), unique, n_new, options.batches)
    plain = (half, tokenizer, base_logps, n_rows)
    sides: dict[str, Callable[[], tuple[Found, Texts]]] = {
        "plain": lambda: in_turn(suite, PlainModel(*plain), reference),
        "ours": lambda: ours(suite, loaded, reference),
        "shared": lambda: in_turn(suite, SharingModel(*plain), reference),
        "loop": lambda: in_turn(suite, SharingModel(*plain, loop=loaded), reference),
    }
    compare(sides, options.repeats)


def best_batch(model: PlainModel, prompts: list[Any], n_new: int, sizes: list[int]) -> int:
    """Return the batch size in which `generate` takes the least CPU time."""
    seconds = {}
    for model.batch_rows in sizes if len(sizes) > 1 else ():
        started = time.process_time()
        model.generate(prompts, n_new)
        seconds[model.batch_rows] = time.process_time() - started
        print(f"generate, batch {model.batch_rows:3}  {seconds[model.batch_rows]:6.1f} CPU s")
    return min(seconds, key=lambda size: seconds[size], default=sizes[0])


def compare(sides: dict[str, Callable[[], tuple[Found, Texts]]], repeats: int) -> None:
    """Run all sides in turn, and print times, ratios and differences after each repeat."""
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, tuple[Found, Texts]] = {}
    for number in range(repeats):
        for name, call in sides.items():
            cpu_start, wall_start = time.process_time(), time.perf_counter()
            found[name] = call()
            cpu[name].append(time.process_time() - cpu_start)
            wall[name].append(time.perf_counter() - wall_start)
            print(
                f"repeat {number}  {name:6}  {cpu[name][-1]:6.1f} CPU s  {wall[name][-1]:6.1f} wall s",
                flush=True,
            )
        for name in sides:
            print(f"{name:6}  {times(cpu, wall, name)}; {apart(found, name)}", flush=True)
    for score, value in found["plain"][0].items():
        print(f"{score:26} plain {value}  ours {found['ours'][0][score]}")
    print(f"a reply: {next(iter(found['ours'][1].values()))[0]!r}")


def times(cpu: dict[str, list[float]], wall: dict[str, list[float]], name: str) -> str:
    """Return a side's medians, and its CPU time over ours."""
    ratios = [a / b for a, b in zip(cpu[name], cpu["ours"], strict=True)]
    return (
        f"median {statistics.median(cpu[name]):.1f} CPU s, {statistics.median(wall[name]):.1f} wall s; "
        f"CPU over ours {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def apart(found: dict[str, tuple[Found, Texts]], name: str) -> str:
    """Return how far a side's replies and scores are from ours."""
    (scores, replies), (own_scores, own_replies) = found[name], found["ours"]
    pairs = [
        pair for each in replies for pair in zip(replies[each], own_replies[each], strict=True)
    ]
    distances = {
        score: abs((value or 0.0) - (own_scores[score] or 0.0)) for score, value in scores.items()
    }
    farthest = max(distances, key=lambda score: distances[score])
    return (
        f"{sum(a != b for a, b in pairs)} of {len(pairs)} replies differ; "
        f"farthest score {farthest}, by {distances[farthest]:.2g}"
    )


if __name__ == "__main__":
    main()
