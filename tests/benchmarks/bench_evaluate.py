"""How long does a suite take on one model, against one evaluator after another with transformers' own `generate`?

    apportion init .demo/inner_voice
    python tests/benchmarks/bench_evaluate.py [STUDY] [--precision bfloat16] [--repeats 3] [--rows 24] [--suite both]

STUDY is .demo/inner_voice/study.yaml unless given; it may have `pattern`, `preference`, `likelihood` and `retention`
evaluators. Both sides measure the same model (the base with its weights moved a little), with one thread, in turn, and
in the same precision. Prints CPU seconds of each, their ratio, and how far the scores differ. Target: a ratio of 2.

The plain side takes the rows in batches of eight in their order, pads them, lets `generate` write, and takes the whole
logits of teacher-forced text. It is spared loading, casting the weights, and what it must know of the base.
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
from search.yaml_file import load_study

BATCH_ROWS = 8


class PlainModel:
    """What evaluators ask of a model, answered as a script would: see above."""

    def __init__(self, model: Any, tokenizer: Any, base_logps: dict[str, Tensor]) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, model.device
        self.base_logps = base_logps
        """Text to the base's log-probabilities (T, V) of all its windows."""

    def generate(self, conversations: Sequence[Any], max_new_tokens: Any) -> list[Reply]:
        limit = max_new_tokens if isinstance(max_new_tokens, int) else max_new_tokens[0]
        replies = []
        for start in range(0, len(conversations), BATCH_ROWS):
            part = conversations[start : start + BATCH_ROWS]
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
        for start in range(0, len(sequences), BATCH_ROWS):
            rows = [each.ids for each in sequences[start : start + BATCH_ROWS]]
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


def plain(suite: Suite, model: PlainModel, reference: Reference) -> dict[str, float | None]:
    """Measure one evaluator after the other, each with generations of its own."""
    found = {}
    for evaluator in suite.evaluators:
        prompts = evaluator.prompts()
        outputs: list[Reply] = []
        if prompts:
            outputs = model.generate(
                [each.conversation for each in prompts], prompts[0].max_new_tokens
            )
        part = reference.parts.get(evaluator.name)
        measured = evaluator.measure(model, part, outputs)  # type: ignore[arg-type]
        found.update({score.name: score.value for score in measured.scores})
    return found


def ours(suite: Suite, model: LoadedModel, reference: Reference) -> dict[str, float | None]:
    """Measure as a trial does."""
    measured = suite.measure(model, reference).values()
    return {score.name: score.value for each in measured for score in each.scores}


def timed(
    call: Callable[[], dict[str, float | None]],
) -> tuple[float, float, dict[str, float | None]]:
    """Return CPU seconds, wall seconds and what came of it."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = call()
    return time.process_time() - cpu, time.perf_counter() - wall, found


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
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, help="at most so many rows of each source")
    parser.add_argument("--suite", choices=["suite", "holdout", "both"], default="suite")
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
    generator = torch.Generator().manual_seed(0)
    for parameter in base.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.02 * parameter.data.std() * noise
    half.load_state_dict(base.model.state_dict())
    loaded = LoadedModel(base.model, tokenizer, "cpu", options.precision)
    plain_model = PlainModel(half, tokenizer, base_logps)
    sides = {
        "plain": lambda: plain(suite, plain_model, reference),
        "ours": lambda: ours(suite, loaded, reference),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    scores: dict[str, dict[str, float | None]] = {}
    for number in range(options.repeats):
        for name, call in sides.items():
            cpu, wall, scores[name] = timed(call)
            seconds[name].append(cpu)
            print(f"repeat {number}  {name:5}  {cpu:6.1f} CPU s  {wall:6.1f} wall s", flush=True)
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["ours"], strict=True)]
    print(f"ratio of CPU seconds: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}")
    for name, value in scores["ours"].items():
        other = scores["plain"][name]
        print(f"{name:24} ours {value:.6g}  plain {other:.6g}  difference {abs(value - other):.2g}")


if __name__ == "__main__":
    main()
