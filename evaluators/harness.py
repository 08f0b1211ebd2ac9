"""Harness: tasks of lm-evaluation-harness, run on the model in memory.

Claim    `<name>.<task>` is the task's metric as the harness computes it.
Data     The task's own. With `include_path` only that folder is searched, and relative paths in its task files count
         from there.
Values   Under the metric's name, the item's value; where the harness keeps a log-probability and a weight per item,
         `<metric>_0` and `<metric>_1`. score = mean of the values, exp(-mean) for `perplexity`; with R = sum of _0 over
         sum of _1, exp(-R) for word and byte perplexity and -R / ln 2 for `bits_per_byte`. Standard errors by `stats`,
         through the derivative of exp where there is one; none for other metrics. `details.task` names the task.
Version  1
Limits   Groups of tasks are refused: name the tasks. Data outside `include_path` is not part of the suite's version.
         Tasks that run code the model wrote are refused by the harness.
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
SEED = 1234  # the harness's own default for few-shot examples


class Harness(Evaluator):
    """One score per task of lm-evaluation-harness."""

    version: ClassVar[int] = 1

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
        """Return one score per task."""
        found = self._evaluate(model)
        scores: list[Score] = []
        items: list[Item] = []
        for task, info in zip(self.spec.tasks, self.infos, strict=True):
            task_score, rows = self._score(info, task, found)
            scores.append(task_score)
            items += [
                _item(self.name, len(items) + at, task, values, row)
                for at, (values, row) in enumerate(rows)
            ]
        return Measurement(scores=tuple(scores), items=tuple(items))

    def _evaluate(self, model: LoadedModel) -> Mapping[str, Any]:
        from lm_eval import evaluate
        from lm_eval.models.huggingface import HFLM

        spec = self.spec
        with _quiet(), _own_randomness(), model.ready(), _same_pad_token(model.tokenizer):
            # Among answers that are all NaN the harness picks one, and counts it; this raises instead.
            model.generate(["1"], 1)
            # Fresh task objects: they keep the requests and answers of the model they ran on.
            with contextlib.chdir(self.folder) if self.folder else contextlib.nullcontext():
                loaded = _task_manager(self.folder).load(list(spec.tasks))
            for task in spec.tasks:
                if task not in loaded["tasks"]:
                    raise ValueError(f"{task!r} is a group of tasks; name its tasks")
            for task in loaded["tasks"].values():
                if spec.num_fewshot is not None or task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=spec.num_fewshot or 0)
                task.set_fewshot_seed(seed=SEED)
            found: Mapping[str, Any] = evaluate(
                lm=HFLM(
                    pretrained=model.model,
                    tokenizer=model.tokenizer,
                    batch_size=BATCH_ROWS,
                    softmax_dtype="float32",
                ),
                task_dict=loaded,
                limit=spec.limit,
                bootstrap_iters=0,  # standard errors are computed here from the items
                apply_chat_template=spec.apply_chat_template,
                fewshot_as_multiturn=spec.apply_chat_template,
            )
        return found

    def _score(
        self, info: ScoreInfo, task: str, found: Mapping[str, Any]
    ) -> tuple[Score, list[tuple[dict[str, float], Mapping[str, Any]]]]:
        """Return a task's score, and its rows with their values."""
        results = found["results"][task]
        metrics = [key for key in results if "," in key and "_stderr," not in key]
        metric_key = self.spec.metric or metrics[0]
        if metric_key not in metrics:
            return Score.missing(
                info, f"{task} has no metric {metric_key}; known: {', '.join(metrics)}"
            ), []
        metric, filter_name = metric_key.split(",", 1)
        rows = [
            (_values(metric, row[metric]), row)
            for row in found["samples"][task]
            if row["filter"] == filter_name and metric in row
        ]
        is_higher_better = found["higher_is_better"][task].get(metric)
        if is_higher_better is not None and is_higher_better != (info.direction == "maximise"):
            better = "maximise" if is_higher_better else "minimise"
            return Score.missing(
                info, f"{task} {better}s {metric_key}; set direction: {better}"
            ), rows
        value = float(results[metric_key])
        stderr = _stderr(value, [list(values.values()) for values, _ in rows])
        return score(info, Estimate(value, stderr), len(rows)), rows


@cache
def _task_manager(folder: str | None) -> Any:
    # late: keeps the harness out of start-up. Kept: indexing the harness's own tasks takes ten seconds.
    from lm_eval.tasks import TaskManager

    if folder is None:
        return TaskManager()
    return TaskManager(include_path=folder, include_defaults=False)


def _values(metric: str, value: Any) -> dict[str, float]:
    """Return an item's value as numbers; a list becomes one entry per element, no number none."""
    if isinstance(value, list | tuple) and all(isinstance(part, int | float) for part in value):
        return {f"{metric}_{at}": float(part) for at, part in enumerate(value)}
    return {metric: float(value)} if isinstance(value, int | float | np.number) else {}


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
    if set(column) <= {0.0, 1.0} and math.isclose(value, mean.value, rel_tol=1e-6):
        return share_estimate(column).stderr
    candidates = ((mean.value, 1.0), (_exp(-mean.value), _exp(-mean.value)))
    return _scaled(value, candidates, mean.stderr)


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
            random.seed(SEED)
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
