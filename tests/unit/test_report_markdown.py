"""Claims about report.md: the same facts, and found text that cannot become markup."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import HOSTILE, write_study, write_two_objectives

from search.report.markdown import report_markdown
from search.report.markdown_text import escaped, fenced
from search.report.view import load_view


def outside_fences(text: str) -> str:
    """Return the text without its code fences, which end at a line with as many backticks."""
    kept, fence = [], ""
    for line in text.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif match := re.match(r"(`{3,})text$", line):
            fence = match[1]
        else:
            kept.append(line)
    assert not fence
    return "\n".join(kept)


def test_fence_is_longer_than_any_run_of_backticks_inside() -> None:
    assert fenced("a ``` b ````` c").startswith("``````text\n")
    assert fenced("plain") == "```text\nplain\n```"


def test_escaped_text_is_one_line_without_live_markup() -> None:
    assert escaped("a|b\n<img> *c* `d` [e](f)") == r"a\|b \<img\> \*c\* \`d\` \[e\](f)"


def test_markdown_holds_front_recipes_failures_budget_and_provenance(tmp_path: Path) -> None:
    view = load_view(write_study(tmp_path / "study").path)
    text = report_markdown(view)
    for heading in (
        "Front",
        "Recipes of the front",
        "Failed, infeasible and stopped trials",
        "Provenance",
    ):
        assert f"\n## {heading}\n" in text
    table = text.split("## Front\n")[1].split("\n\n")[1].splitlines()
    numbers = [int(line.split("|")[1]) for line in table[2:]]
    assert numbers == [trial.number for trial in view.front_trials]
    assert len({line.count(" | ") for line in table}) == 1
    assert "| trials finished | 13 of 16 |" in text
    assert "loss is not finite at step 12" in text
    assert "do not correct for having picked" in text


def test_model_output_stays_inside_fences(tmp_path: Path) -> None:
    text = report_markdown(load_view(write_study(tmp_path / "study").path))
    assert HOSTILE in text
    outside = outside_fences(text)
    assert "<script" not in outside.replace("\\<", "")
    assert "\n# heading" not in outside
    assert "window.pwned" in outside  # the reason of a failure, escaped


def test_markdown_of_an_empty_study_says_so(tmp_path: Path) -> None:
    write_two_objectives(tmp_path)
    text = report_markdown(load_view(tmp_path))
    assert "No trial has finished yet" in text
    assert "## Front" not in text
