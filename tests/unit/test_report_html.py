"""Claims about report.html: one file, no network, and found text that stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import FORMULA, HOSTILE, write_scored, write_study, write_two_objectives

from search.report import samples
from search.report.html import report_html
from search.report.payload import script_json
from search.report.view import load_view
from search.report.write import write_report


class Page(HTMLParser):
    """Elements, their attributes and their text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data
        elif self._inside[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    @property
    def data(self) -> dict:
        (content,) = [text for attrs, text in self.scripts if attrs.get("id") == "data"]
        return json.loads(content)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = write_study(tmp_path_factory.mktemp("report") / "study").path
    return Page(report_html(load_view(folder)))


def test_hostile_text_adds_no_element_and_no_handler(page: Page) -> None:
    assert [attrs.get("id") for attrs, _ in page.scripts] == ["data", "charts", None]
    assert "img" not in {tag for tag, _ in page.elements}
    handlers = [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert handlers == []
    assert HOSTILE in page.text  # the reason of a failed trial, in the table
    assert any(trial["reason"] == f"StageError: {HOSTILE}" for trial in page.data["trials"])
    outputs = [row[1] for rows in page.data["samples"].values() for row in rows]
    assert HOSTILE in outputs
    assert any(prompt["prompt"].endswith(HOSTILE) for prompt in page.data["prompts"])


def test_json_in_a_script_cannot_end_the_script() -> None:
    hostile = {"a": f"</script><!-- {HOSTILE} ]]> \u2028 & é"}
    text = script_json(hostile)
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == hostile


def test_page_refers_to_nothing_outside_itself(page: Page) -> None:
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base")
        assert "src" not in attrs
        assert attrs.get("href", "#").startswith("#")


def test_policy_allows_exactly_the_scripts_of_the_page(page: Page) -> None:
    (policy,) = [
        attrs["content"] for _, attrs in page.elements if "http-equiv" in attrs and attrs["content"]
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert policy.count("unsafe-inline") == 1  # styles
    run = [text for attrs, text in page.scripts if attrs.get("id") != "data"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes


def test_headline_front_failures_and_provenance_are_text_without_scripts(page: Page) -> None:
    assert "The front holds 5 of 10 feasible trials" in page.text
    assert "The study is still running" in page.text
    assert "14 trials: 11 complete (1 of them infeasible), 2 failed, 1 running." in page.text
    assert "The knee is trial 8" in page.text
    assert "loss is not finite at step 12" in page.text
    assert "retention.kl is above 0.45" in page.text
    assert "apportion resume results/inner_voice" in page.text
    assert "torch 2.13.0" in page.text
    assert "do not correct for having picked" in " ".join(page.text.split())
    assert "/somewhere/private" not in page.text


def test_every_section_says_how_to_read_it(page: Page) -> None:
    sections = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    assert sections == [
        "start", "front", "routes", "attribution", "order", "degree", "generations", "holdout", "trials", "detail",
        "progress", "failures", "space", "provenance",
    ]  # fmt: skip
    n_how = sum(tag == "p" and attrs.get("class") == "how" for tag, attrs in page.elements)
    assert n_how >= len(sections)


def test_payload_holds_scores_after_each_stage_and_reasons_for_missing_ones(page: Page) -> None:
    data = page.data
    trial = data["trials"][11]
    assert [boundary["n"] for boundary in trial["boundaries"]] == [0, 1, 2]
    assert len(trial["boundaries"][2]["scores"]) == len(data["scores"]) == 8
    margin = [info["name"] for info in data["holdout"]].index("taste_unseen.margin")
    assert trial["holdout"][margin] == "the judge was away"
    assert data["trials"][13]["holdout"][0] is None
    assert data["knee"] == 8
    assert set(data["front"]) == {0, 2, 6, 8, 11}
    assert [stage["trained"] is None for stage in data["trials"][4]["stages"]] == [False, True]


def test_samples_stand_beside_the_base_on_the_same_prompt(page: Page) -> None:
    data = page.data
    at, output, values = data["samples"]["8"][0]
    assert data["prompts"][at]["prompt"] == "What is the capital of Finland?"
    assert "Trial 8 says so" in output
    assert "Trial 0 says so" in data["prompts"][at]["base"]
    assert set(values) == {"satisfied"}
    evaluators = [data["prompts"][row[0]]["evaluator"] for row in data["samples"]["8"]]
    assert evaluators == ["tone"] * 6 + ["tone_unseen"] * 6


def test_generations_are_embedded_for_a_limited_number_of_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MAX_TRIALS", 4)
    view = load_view(write_study(tmp_path / "study").path)
    assert list(samples.load_samples(view)) == [0, 8, 11, 6]  # base, knee, then the front
    assert samples.shortened("x" * 5000).startswith("x" * 1200 + " [... 3,800 more")


@pytest.mark.parametrize(
    "options",
    [
        {"n_trials": 0},
        {"n_trials": 1},
        {"n_objectives": 1},
        {"n_objectives": 5},
        {"kl_at_most": -1.0},
    ],
    ids=str,
)
def test_unusual_studies_have_a_report(tmp_path: Path, options: dict[str, float]) -> None:
    folder = write_study(tmp_path / "study", **options).path
    path = write_report(folder)
    assert path == folder / "report" / "report.html"
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "front.csv", "front.png", "report.html", "report.md", "trials.csv",
    ]  # fmt: skip
    assert (path.parent / "front.png").read_bytes().startswith(b"\x89PNG")
    # Whoever may read the page may read its picture.
    assert len({each.stat().st_mode for each in path.parent.iterdir()}) == 1
    assert len(Page(path.read_text()).data["trials"]) == options.get("n_trials", 14)


def test_study_with_running_trials_alone_has_a_report(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, None, None, state="RUNNING")
    page = Page(write_report(tmp_path).read_text())
    assert "No trial has finished yet" in page.text
    assert "1 trial: 0 complete, 1 running." in page.text


def test_report_is_written_again_over_an_older_one(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    path = write_report(tmp_path)
    write_scored(files, 0, None, None, state="FAIL", reason=FORMULA)
    assert write_report(tmp_path) == path
    assert FORMULA in Page(path.read_text()).text
    assert FORMULA not in (path.parent / "trials.csv").read_text().replace("'=", "")
