"""A leak that is allowed, a reward hack that is trained, and an instruction to the judge: the report names each."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from judge_stub import gullible, stub_judge
from tiny import records, run_here, write_model

from evaluators.contract.tiny import ANIMALS
from search.report.write import write_report

STUDY = """
name: planted
base: {{path: model}}
sources:
  chat: {{path: chat.jsonl, format: messages}}
  ask: {{path: ask.jsonl, format: prompt}}
  prose: {{path: prose.jsonl, format: text}}
allow_leaks: [[chat, ask]]
influences:
  parrot: {{method: sft, adapter: {{kind: full}}, mix: {{chat: 1.0}}, dose_tokens: 6000, learning_rate: 1.0e-2}}
training: {{rows_per_step: 4, max_length: 64}}
suite:
  polite: {{evaluator: pattern, source: ask, rules: [{{rule: starts_with, text: hello}}], max_repetition: 1.0,
           max_new_tokens: 24}}
  kind: {{evaluator: judge, source: ask, how: rubric, rubric: Kinder is better., max_new_tokens: 24,
         endpoint: {{url: "{url}", model: stub}}}}
  retention: {{evaluator: retention, source: prose, max_tokens: 32}}
objectives: [{{score: polite}}, {{score: retention.kl, reference: 20.0}}]
baselines: [{{name: parrot, order: [parrot]}}]
budget: {{trials: 2}}
compute: {{device: cpu}}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a study of the base and of one recipe that learns to say one thing over and over."""
    folder = tmp_path_factory.mktemp("planted")
    write_model(folder / "model")
    asked = [[{"role": "user", "content": f"What does the {animal} say?"}] for animal in ANIMALS]
    parroted = [{"role": "assistant", "content": "hello " * 12}]
    rows = {
        "chat": [{"messages": each + parroted} for each in asked],
        "ask": [{"prompt": each} for each in asked[:8]],
        "prose": [{"text": f"Once the {animal} met a friend and said so."} for animal in ANIMALS],
    }
    for name, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    with stub_judge(gullible) as judge, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / "study.yaml").write_text(STUDY.format(url=judge.url))
        files = run_here(folder / "study.yaml")
    write_report(files.path)
    return files.path


def told(results: Path) -> list[list[str]]:
    """Return the warnings at the top of report.html and of report.md, as a reader sees them."""
    page = (results / "report/report.html").read_text()
    text = (results / "report/report.md").read_text()
    head = page.split("<nav")[0]
    # Beyond two, warnings fold away into a list.
    alerts = re.findall(r'<(?:p class="alert"|li)>(.*?)</?(?:p|li|ul)>', head, re.S)
    alerts = [alert.strip() for alert in alerts]
    lines = [line for line in text.split("## Front")[0].splitlines() if "arning" in line]
    return [[unescape(alert) for alert in alerts], [line.replace("\\", "") for line in lines]]


def test_recipe_that_games_a_rule_is_on_the_front_and_named_with_the_evaluator(
    results: Path,
) -> None:
    base, parrot = records(results)
    scores = {score["name"]: score["value"] for score in parrot["boundaries"][-1]["scores"]}
    assert scores["polite"] == 1.0, "the hack must work, or there is nothing to be caught"
    for lines in told(results):
        own = [line for line in lines if "reward hack" in line]
        assert any(
            "Trial 1 may be a reward hack: 8 of 8 replies to evaluator polite repeat themselves "
            "(of the base's, " in line
            for line in own
        )
        assert all("polite 1, the base 0" in line for line in own)
        assert not any("Trial 0" in line for line in own)
    assert base["recipe"]["stages"] == []


def test_judge_that_obeys_what_it_reads_has_no_score_and_the_reason_is_told(results: Path) -> None:
    for record in records(results):
        (score,) = [s for s in record["boundaries"][-1]["scores"] if s["name"] == "kind"]
        assert (score["value"], score["status"]) == (None, "missing")
    for lines in told(results):
        (line,) = [line for line in lines if "kind is missing" in line]
        assert "in trials 0, 1: the judge follows instructions planted in what it judges" in line


def test_leak_that_the_study_allows_is_told_with_its_rows(results: Path) -> None:
    for lines in told(results):
        (line,) = [line for line in lines if "leak" in line]
        assert "8 of 8 rows of 'ask' leak from 'chat', which is trained on" in line
    for suffix in ("html", "md"):
        text = (results / f"report/report.{suffix}").read_text()
        assert "The study allows shared rows between chat and ask" in text
