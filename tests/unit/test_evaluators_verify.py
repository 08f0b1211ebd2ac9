"""`apportion evaluators verify`: passes what keeps its promises, and names each promise that is broken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from custom_tools import Package

from evaluators.contract.checks import CHECKS, SkippedError, Trial, default_settings, verify
from evaluators.contract.rows import good_rows
from search.cli.main import main

COUNTS = "counts = [output.count(self.spec.mark) for output in outputs]"
SCORE = "marks = score(self.infos[0], mean_estimate(counts), len(counts))"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    return Package(tmp_path / "package", monkeypatch)


def faults(name: str, **settings: Any) -> dict[str, str]:
    outcomes = verify(name, settings or default_settings(name), {})
    return {each.claim: each.fault for each in outcomes if each.fault and not each.is_skipped}


def test_good_evaluator_keeps_all_promises(package: Package) -> None:
    assert faults(f"{package.marks()}:Marks") == {}


BROKEN: dict[str, tuple[tuple[tuple[str, str], ...], str, str]] = {
    "refuses keys it does not know": (
        (("class Marks(", "MarksSpec.model_validate_json = lambda s: MarksSpec.model_construct("
          "source='rows', mark='!', max_new_tokens=4, limit=None, system=None)\n\n\nclass Marks("),),
        "",
        "takes no_such_key",
    ),
    "refuses bad rows, and says which": (
        (("super().__init__", "rows = [r if r.get('prompt') else {'prompt': 'x'} for r in rows];"
          " super().__init__"),),
        "",
        "it takes a row without keys",
    ),
    "gives the scores it announces, each with unit, direction and n": (
        ((SCORE, SCORE.replace("len(counts)", "0")),),
        "",
        "it has n = 0",
    ),
    "numbers its items": ((("self.reply_item(at,", "self.reply_item(0,"),), "", "from 0"),
    "says the same of the same model": (
        ((COUNTS, "type(self).calls = getattr(type(self), 'calls', 0) + 1\n"
          "        counts = [type(self).calls] * len(outputs)"),),
        "",
        "it: once 1",
    ),
    "says of the base what measuring it like any model gives": (
        (("version = 1", "version = 1\n    needs_reference = True"),),
        """
        def reference(self, base):
            return 1

        def measure_base(self, base, reference, outputs):
            return self.measure(base, reference, ["!" for _ in outputs])
        """,
        "it: once",
    ),
    "has scores that follow from its items": (
        ((SCORE, SCORE.replace("(counts)", "([n + 1 for n in counts])")),),
        "",
        "and means of item values are",
    ),
    "has scores and items that survive JSON": (
        (("counts[at]}) for", "counts[at]}, {'at': (1, 2)}) for"),),
        "",
        "change when written as JSON",
    ),
    "can be pickled": ((("self.spec = spec", "self.spec = spec; self.f = lambda: 1"),), "", "pickle"),
    "keeps what it knows of the base": (
        (
            ("version = 1", "version = 1\n    needs_reference = True"),
            (COUNTS, "counts = [reference] * len(outputs)"),
        ),
        """
        def reference(self, base):
            return 1

        def write_reference(self, reference):
            return b"2"

        def read_reference(self, data, base):
            return int(data)
        """,
        "it: once 1.0, once 2.0",
    ),
    "has the same fingerprint in every process": (
        (),
        "def fingerprint(self): return str(hash('marks')) + str(self.rows)",
        "another process gets another fingerprint",
    ),
    "has another fingerprint for other rows": (
        (),
        "def fingerprint(self): return 'one for all'",
        "other rows give the same fingerprint",
    ),
    "gives missing scores with a reason where weights are not finite": (
        (("def measure(", "def prompts(self):\n        return ()\n\n    def measure("),
         (COUNTS, "outputs = ['!'] * len(self.rows); counts = [1] * len(outputs)")),
        "",
        "it is 1 for a model whose weights are not numbers",
    ),
    "copes with a model that says nothing": (
        ((COUNTS, "counts = [len(o) / len(o) for o in outputs]"),),
        "",
        "division by zero",
    ),
    "leaves the model as it was": (
        ((COUNTS, COUNTS + "\n        next(model.model.parameters()).data.add_(1)"),),
        "",
        "weights are others",
    ),
}  # fmt: skip


def test_every_check_has_an_evaluator_that_fails_it() -> None:
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize("claim", CHECKS)
def test_broken_promise_is_named(claim: str, package: Package) -> None:
    changes, more, fault = BROKEN[claim]
    name = f"{package.marks(*changes, more=more)}:Marks"
    trial = Trial(name, {"source": "rows", "max_new_tokens": 4}, {})
    with pytest.raises(Exception, match=re.escape(fault)) as caught:
        CHECKS[claim](trial)
    assert not isinstance(caught.value, SkippedError)


def test_command_says_each_outcome_and_fails_with_2(
    package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluators", "verify", f"{package.marks()}:Marks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKS)
    assert {line[:4] for line in lines} == {"ok  ", "skip"}
    broken = package.marks(more="def fingerprint(self): return 'one for all'")
    assert main(["evaluators", "verify", f"{broken}:Marks", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["is_fine"] is False


def test_rows_of_a_file_are_used(package: Package, tmp_path: Path) -> None:
    rows = {"rows": [{"prompt": "a"}, {"prompt": "b"}]}
    trial = Trial(f"{package.marks()}:Marks", {"source": "rows"}, rows)
    assert len(trial.evaluator.prompts()) == 2
    with pytest.raises(ValueError, match=r"source 'other' is not among its sources; known: rows"):
        Trial(trial.name, {"source": "rows"}, {"other": []})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--spec", "{"], "--spec is not JSON"),
        (["--spec", "[]"], "--spec is no JSON object"),
        (["--spec", '{"source": "rows", "mrk": 1}'], "mrk: is not a key here"),
        (["--rows", "rows"], "write SOURCE=FILE.jsonl"),
        (["--rows", "rows=nowhere.jsonl"], "nowhere.jsonl: No such file"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], message: str, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluators", "verify", f"{package.marks()}:Marks", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("name", "format_name", "settings"),
    [
        ("pattern", "prompt", {"rules": [{"rule": "regex", "pattern": "a"}]}),
        ("preference", "preference", {}),
        ("likelihood", "text", {}),
    ],
)
def test_rows_made_up_for_a_trial_suit_our_own(
    name: str, format_name: str, settings: dict[str, Any]
) -> None:
    trial = Trial(name, {"source": "rows", **settings}, {})
    assert trial.rows == {"rows": good_rows(format_name)}
    assert all(score.value is not None for score in trial.measurement.scores)
