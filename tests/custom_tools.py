"""A package with an evaluator of the user's own, written where Python finds it."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

import pytest

MARKS = """
from evaluators.base import score
from evaluators.replies import ReplyEvaluator
from evaluators.reply_specs import ReplySpec
from evaluators.scores import Measurement, Score, ScoreInfo
from evaluators.stats import mean_estimate


class MarksSpec(ReplySpec):
    mark: str = "!"
    at_most: int | None = None

    def infos(self, name):
        return (ScoreInfo(name=name, unit="marks/reply", direction="minimise"),)


class Marks(ReplyEvaluator):
    version = 1
    spec_class = MarksSpec

    def __init__(self, name, spec, rows):
        super().__init__(name, spec, rows)
        self.spec = spec

    def measure(self, model, reference, outputs):
        counts = [output.count(self.spec.mark) for output in outputs]
        items = [self.reply_item(at, output, {"marks": counts[at]}) for at, output in enumerate(outputs)]
        marks = score(self.infos[0], mean_estimate(counts), len(counts))
        return Measurement(scores=(marks,), items=tuple(items))
"""
_numbers = itertools.count()


class Package:
    """A folder on Python's path; every module in it has a name of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        monkeypatch.syspath_prepend(str(folder))

    def add(self, text: str) -> str:
        """Write a module and return its name."""
        name = f"users_module_{next(_numbers)}"
        (self.folder / f"{name}.py").write_text(textwrap.dedent(text))
        return name

    def marks(self, *changes: tuple[str, str], more: str = "") -> str:
        """Write MARKS with parts replaced and more methods; return the module's name."""
        text = MARKS
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return self.add(text + textwrap.indent(textwrap.dedent(more), "    "))
