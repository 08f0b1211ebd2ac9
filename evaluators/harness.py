"""Harness: tasks and groups of lm-evaluation-harness, run on the model in memory.

Claim    `<name>.<task>` is the metric of the task or group as the harness computes it: equal to the last digit to
         what its own command (`lm-eval --model hf --batch_size 8 --model_args pretrained=DIR,dtype=float32`) writes for
         the saved model, on the same device with as many threads. Batches of other sizes move log-probabilities in
         their last digits.
Data     The task's own. With `include_path` only that folder is searched, and relative paths in its task files count
         from there.
Values   Under the metric's name, the item's value; where the harness keeps a log-probability and a weight per item,
         `<metric>_0` and `<metric>_1`. score = mean of the values, exp(-mean) for `perplexity`; with R = sum of _0 over
         sum of _1, exp(-R) for word and byte perplexity and -R / ln 2 for `bits_per_byte`. A group's is its tasks'
         mean, weighted by their rows if the group says so. `details.task` names the task.
Errors   Of a mean, the harness's own: s / sqrt(N); of 0s and 1s that all agree, where that is 0, `share_estimate`'s.
         Of a group what the harness makes of its tasks'. Of perplexities and bits by the delta method, where the
         command draws a bootstrap (`perplexity`) or gives none; of other metrics none.
Version  3
Limits   Tags, and groups without a metric of their own, are refused: name the tasks. Data outside `include_path` is
         not part of the suite's version. Tasks that run code the model wrote are refused by the harness.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evaluators.base import PROMPT_CHARACTERS, Evaluator, hash_of, item, score
from evaluators.scores import Item, Measurement, Score, ScoreInfo
from evaluators.spec import HarnessSpec
from evaluators.stats import Estimate, mean_estimate, ratio_estimate, share_estimate

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

BATCH_ROWS = 8
SEED = 1234  # the harness's own default for few-shot examples, numpy and torch
PYTHON_SEED = 0  # and for Python's generator


class Harness(Evaluator):
    """One score per task or group of lm-evaluation-harness."""

    version: ClassVar[int] = 3

    def __init__(self, name: str, spec: HarnessSpec, root: Path) -> None:
        super().__init__(name, spec.infos(name))
        self.spec = spec
        self.folder = spec.with_root(root.resolve()).include_path
        if self.folder is None:
            return
        if not Path(self.folder).is_dir():
            raise ValueError(
                f"evaluator {name}: include_path {self.folder} is no folder; mend the path"
            )
        known = _task_manager(self.folder).all_tasks
        for task in spec.tasks:
            if task not in known:
                raise ValueError(
                    f"evaluator {name}: task {task!r} is not in {self.folder}; known: {', '.join(sorted(known))}"
                )

    def fingerprint(self) -> str:
        """Return a hash of versions, spec and all files of `include_path`."""
        files: list[tuple[str, str]] = []
        if self.folder is not None:
            folder = Path(self.folder)
            files = [
                (str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest())
                for path in sorted(folder.rglob("*"))
                if path.is_file() and "__pycache__" not in path.parts
            ]
        return hash_of(self.version, self.spec, [importlib.metadata.version("lm_eval"), files])

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return one score per task or group."""
        found, groups = self._evaluate(model)
        scores: list[Score] = []
        items: list[Item] = []
        for name, info in zip(self.spec.tasks, self.infos, strict=True):
            own_score, rows = self._score(info, name, found, groups)
            scores.append(own_score)
            items += [
                _item(self.name, len(items) + at, task, values, row)
                for at, (task, values, row) in enumerate(rows)
            ]
        return Measurement(scores=tuple(scores), items=tuple(items))

    def _evaluate(self, model: LoadedModel) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return what the harness found, and its groups by name."""
        from lm_eval import evaluate

        spec = self.spec
        with _quiet(), _own_randomness(), model.ready(), _same_pad_token(model.tokenizer):
            # Fresh task objects: they keep the requests and answers of the model they ran on.
            with contextlib.chdir(self.folder) if self.folder else contextlib.nullcontext():
                loaded = _task_manager(self.folder).load(list(spec.tasks))
            groups = loaded["groups"]
            for name in spec.tasks:
                if name not in loaded["tasks"] and not (
                    name in groups and groups[name].has_aggregation
                ):
                    raise ValueError(f"{name!r} has no score of its own; name its tasks")
            for task in loaded["tasks"].values():
                own = task.get_config("num_fewshot")
                # The harness never adds examples to a task that says it has none.
                if own is None or (own != 0 and spec.num_fewshot is not None):
                    task.set_config(key="num_fewshot", value=spec.num_fewshot or 0)
                task.set_fewshot_seed(seed=SEED)
            found: Mapping[str, Any] = evaluate(
                lm=_language_model(model),
                task_dict=loaded,
                limit=spec.limit,
                bootstrap_iters=0,  # standard errors are computed here from the items
                apply_chat_template=spec.apply_chat_template,
                fewshot_as_multiturn=spec.apply_chat_template,
            )
        return found, groups

    def _score(
        self, info: ScoreInfo, name: str, found: Mapping[str, Any], groups: Mapping[str, Any]
    ) -> tuple[Score, list[tuple[str, dict[str, float], Mapping[str, Any]]]]:
        """Return the score of a task or group, and its rows with their tasks and values."""
        results = found["results"][name]
        metrics = [key for key in results if "," in key and "_stderr," not in key]
        metric_key = self.spec.metric or next(iter(metrics), "of its own")
        if metric_key not in metrics:
            return Score.missing(
                info, f"{name} has no metric {metric_key}; known: {', '.join(metrics) or 'none'}"
            ), []
        group = groups.get(name)
        leaves = [name] if group is None else [task.task_name for task in group.get_all_tasks()]
        rows_of = {leaf: _rows(metric_key, found["samples"][leaf]) for leaf in leaves}
        rows = [(leaf, *row) for leaf, part in rows_of.items() for row in part]
        answers = [row["resps"] for leaf in leaves for row in found["samples"][leaf]]
        n_bad = sum(not _is_finite(each) for each in answers)
        if n_bad:
            # Of log-probabilities that are NaN the harness takes the first for the highest, and counts it.
            fault = f"log-probabilities of {n_bad} of {len(answers)} items are not finite"
            return Score.missing(info, fault), rows
        metric = metric_key.split(",", 1)[0]
        is_higher_better = found["higher_is_better"].get(name, {}).get(metric)
        if is_higher_better is not None and is_higher_better != (info.direction == "maximise"):
            better = "maximise" if is_higher_better else "minimise"
            return Score.missing(
                info, f"{name} {better}s {metric_key}; set direction: {better}"
            ), rows
        value = float(results[metric_key])
        if group is None:
            stderr = _stderr(value, [list(values.values()) for _, values, _ in rows])
        else:
            stderr = _group_stderr(group, metric_key, found["results"], rows_of)
        return score(info, Estimate(value, stderr), len(rows)), rows


@cache
def _task_manager(folder: str | None) -> Any:
    # late: keeps the harness out of start-up. Kept: indexing the harness's own tasks takes ten seconds.
    from lm_eval.tasks import TaskManager

    if folder is None:
        return TaskManager()
    return TaskManager(include_path=folder, include_defaults=False)


def _language_model(model: LoadedModel) -> Any:
    """Return the model as the harness takes it, which would write on from logits that are NaN; this one raises."""
    from lm_eval.models.huggingface import HFLM

    def check(module: Any, inputs: Any, output: Any) -> None:
        if not output.logits[:, -1].isfinite().all():
            raise FloatingPointError("the model's logits are not finite")

    class Checked(HFLM):  # type: ignore[misc]  # the harness is untyped
        def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
            hook = self.model.register_forward_hook(check)
            try:
                return super()._model_generate(*args, **kwargs)
            finally:
                hook.remove()

    return Checked(
        pretrained=model.model,
        tokenizer=model.tokenizer,
        batch_size=BATCH_ROWS,
        softmax_dtype="float32",
    )


def _is_finite(answers: Any) -> bool:
    """Return whether all numbers in an item's answers, lists of text and log-probabilities, are finite."""
    if isinstance(answers, list | tuple):
        return all(map(_is_finite, answers))
    return not isinstance(answers, float) or math.isfinite(answers)


def _values(metric: str, value: Any) -> dict[str, float]:
    """Return an item's value as numbers; a list becomes one entry per element, no number none."""
    if isinstance(value, list | tuple) and all(isinstance(part, int | float) for part in value):
        return {f"{metric}_{at}": float(part) for at, part in enumerate(value)}
    return {metric: float(value)} if isinstance(value, int | float | np.number) else {}


def _rows(
    metric_key: str, samples: Sequence[Mapping[str, Any]]
) -> list[tuple[dict[str, float], Mapping[str, Any]]]:
    """Return a task's rows that have the metric, with their values."""
    metric, filter_name = metric_key.split(",", 1)
    return [
        (_values(metric, row[metric]), row)
        for row in samples
        if row["filter"] == filter_name and metric in row
    ]


def _group_stderr(
    group: Any,
    metric_key: str,
    results: Mapping[str, Mapping[str, Any]],
    rows_of: Mapping[str, list[tuple[dict[str, float], Mapping[str, Any]]]],
) -> float | None:
    """Return what the harness makes of the standard errors of a group's tasks; None where one has none."""
    metric, filter_name = metric_key.split(",", 1)
    stderr_key = f"{metric}_stderr,{filter_name}"
    known = {}
    for task, rows in rows_of.items():
        own = results[task]
        stderr = None
        if metric_key in own:
            values_NC = [list(values.values()) for values, _ in rows]
            stderr = _stderr(float(own[metric_key]), values_NC)
        known[task] = {**own, stderr_key: "N/A" if stderr is None else stderr}
    stderr = group.aggregate(known)[stderr_key]
    return None if isinstance(stderr, str) else float(stderr)


def _stderr(value: float, values_NC: list[list[float]]) -> float | None:
    """Return the standard error of a score whose formula is known from its items, else None."""
    if not values_NC or any(len(row) != len(values_NC[0]) for row in values_NC):
        return None
    if len(values_NC[0]) == 2 and sum(row[1] for row in values_NC) > 0:
        ratio = ratio_estimate([row[0] for row in values_NC], [row[1] for row in values_NC])
        candidates = (
            (math.exp(-ratio.value), math.exp(-ratio.value)),
            (-ratio.value / math.log(2), 1 / math.log(2)),
        )
        return _scaled(value, candidates, ratio.stderr)
    if len(values_NC[0]) != 1:
        return None
    column = [row[0] for row in values_NC]
    mean = mean_estimate(column)
    if len(column) > 1 and math.isclose(value, mean.value, rel_tol=1e-6):
        from lm_eval.api.metrics import mean_stderr

        # All 0 or all 1: the harness's 0 claims to be certain.
        is_unanimous = set(column) in ({0.0}, {1.0})
        return share_estimate(column).stderr if is_unanimous else float(mean_stderr(column))
    return _scaled(value, ((_exp(-mean.value), _exp(-mean.value)),), mean.stderr)


def _scaled(
    value: float, candidates: Sequence[tuple[float, float]], stderr: float | None
) -> float | None:
    """Return the standard error times the factor (the derivative) of the formula that gives the value."""
    for candidate, factor in candidates:
        if stderr is not None and math.isclose(value, candidate, rel_tol=1e-6):
            return stderr * factor
    return None


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _item(
    evaluator: str, index: int, task: str, values: dict[str, float], row: Mapping[str, Any]
) -> Item:
    details = {"task": task, "doc_id": row["doc_id"], "target": _text(row["target"])}
    answers = row["filtered_resps"]
    output = str(answers[0]) if len(answers) == 1 and isinstance(answers[0], str) else None
    if output is None:
        details["answers"] = _text(answers)
    prompt = str(row["arguments"][0][0])[-PROMPT_CHARACTERS:]
    return item(evaluator, index, values, prompt=prompt, output=output, details=details)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and advice out of the log; errors are raised, not printed."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Run with fixed global seeds and put all generators back afterwards."""
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(PYTHON_SEED)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def _same_pad_token(tokenizer: Any) -> Iterator[None]:
    """Put the pad token back, which the harness sets where there is none."""
    pad_token = tokenizer.pad_token
    try:
        yield
    finally:
        tokenizer.pad_token = pad_token
