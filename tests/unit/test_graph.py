"""A recipe's graph says what handoffs do, and untrusted names stay text in Mermaid and in SVG."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import report_fixture

from evaluators.scores import Score
from search.cli.main import main
from search.folders import StudyFile, StudyFolder
from search.graph.build import Graph, Node, recipe_graph
from search.graph.mermaid import escaped, mermaid_text
from search.graph.picture import _layout, graph_picture
from search.records import Boundary, TrialRecord
from search.spec import BudgetSpec
from spaces.influence import InfluenceSpec
from spaces.loss import Term
from spaces.order import OrderSpec
from spaces.recipe import Full, Lora, Recipe, Stage
from spaces.space import Space

HOSTILE = '"]; click a "javascript:x"\n<script>alert(1)</script> %%{init: {}}%% `**b**` #quot; $x_1$ [[a|b]] --> end'


def stage(name: str = "tone", handoff: str = "merge", **changes: Any) -> Stage:
    given = {
        "influence": name,
        "method": "sft",
        "adapter": Lora(rank=8, alpha=16.0),
        "mix": {"chat": 1.0},
        "dose_tokens": 12_000,
        "learning_rate": 5e-4,
        "handoff": handoff,
    }
    return Stage.model_validate(given | changes)


def graph_of(*stages: Stage, record: TrialRecord | None = None) -> Graph:
    return recipe_graph(Recipe(stages=stages), "example/tiny", "a title", record)


def results(folder: Path) -> StudyFolder:
    """Write a study of 14 trials, some of two stages."""
    study = report_fixture.write_study(folder / "results")
    study.write_file(
        StudyFile(root=".", created_at="now", study_hash="0", budget=BudgetSpec(trials=14))
    )
    return study


def node(graph: Graph, key: str) -> Node:
    (found,) = [node for node in graph.nodes if node.key == key]
    return found


def edges(graph: Graph, source: str) -> dict[str, tuple[str, str]]:
    return {edge.target: (edge.kind, edge.label) for edge in graph.edges if edge.source == source}


def test_stage_shows_influence_method_adapter_place_dose_rate_and_mix() -> None:
    adapter = Lora(rank=4, alpha=16.0, targets="attention", layers="50%-100%", dora=True)
    drawn = graph_of(stage(adapter=adapter, mix={"chat": 0.7, "plain": 0.3}))
    assert node(drawn, "stage1").lines == (
        "stage 1, tone",
        "sft, lora r4, alpha 16, dora",
        "on attention, layers 50%-100%",
        "12,000 tokens, rate 0.0005",
        "mix chat 70%, plain 30%",
    )


def test_detached_adapter_is_off_for_one_stage_and_joins_the_one_after() -> None:
    drawn = graph_of(stage(handoff="detach"), stage("form", adapter=Full()), stage("late"))
    assert node(drawn, "adapter1").kind == "aside"
    assert edges(drawn, "adapter1") == {
        "stage2": ("aside", "off while it trains"),
        "stage3": ("joins", "back, active from here on"),
    }
    assert "beside" not in " ".join(node(drawn, "stage2").lines)
    assert "beside tone's lora r8 (stage 1), frozen" in node(drawn, "stage3").lines
    assert "with tone's lora r8 (stage 1)" in node(drawn, "model").lines


def test_stacked_adapter_lies_beside_every_later_stage_and_on_the_model() -> None:
    drawn = graph_of(stage(handoff="stack"), stage("form"), stage("late"))
    assert node(drawn, "adapter1").kind == "adapter"
    assert edges(drawn, "adapter1") == {"stage2": ("joins", "active from here on")}
    for key in ("stage2", "stage3"):
        assert "beside tone's lora r8 (stage 1), frozen" in node(drawn, key).lines
    assert "with tone's lora r8 (stage 1)" in node(drawn, "model").lines


def test_merged_adapter_leaves_no_node_and_continued_one_is_trained_on() -> None:
    drawn = graph_of(stage(handoff="continue"), stage("more", "merge"))
    assert [one.key for one in drawn.nodes] == ["base", "stage1", "stage2", "model"]
    assert edges(drawn, "stage1") == {"stage2": ("then", "continue, trained on")}
    assert "trains on the adapter of stage 1" in node(drawn, "stage2").lines
    assert node(drawn, "model").lines == ("model", "24,000 tokens in all")


def test_terms_of_a_joint_stage_have_their_weights_on_the_edges() -> None:
    terms = {
        "sft": Term(weight=0.7, mix={"chat": 1.0}),
        "dpo": Term(weight=0.3, end_weight=1.0, beta=0.1, mix={"pairs": 1.0}),
        "kl": Term(weight=0.05),
    }
    drawn = graph_of(stage(method="joint", mix={}, terms=terms, arbitration="pcgrad"))
    assert node(drawn, "stage1").lines[1] == "joint (pcgrad), lora r8, alpha 16"
    assert node(drawn, "stage1dpo").lines == ("dpo", "mix pairs 100%", "beta 0.1")
    weights = {edge.source: edge.label for edge in drawn.edges if edge.kind == "joins"}
    assert weights == {
        "stage1sft": "weight 0.7",
        "stage1dpo": "weight 0.3 to 1",
        "stage1kl": "weight 0.05",
    }


def test_trial_shows_scores_at_its_boundaries_and_what_it_did_not_train(tmp_path: Path) -> None:
    whole = next(record for record in results(tmp_path).records() if len(record.stages) == 2)
    measured = Boundary(
        n_stages=1,
        digest="d",
        scores=(
            Score(name="tone", unit="share", direction="maximise", value=0.25, stderr=0.05, n=80),
            Score(name="kl", unit="nats", direction="minimise", value=None, n=0, reason="no rows"),
        ),
        evaluate_seconds=1.0,
    )
    cut = whole.model_copy(
        update={"state": "PRUNED", "stages": whole.stages[:1], "boundaries": (measured,)}
    )
    drawn = recipe_graph(whole.recipe, "tiny", "t", cut)
    assert node(drawn, "scores1").lines == (
        "scores after stage 1",
        "tone 0.250 ± 0.098 share",  # 1.96 * 0.05
        "kl missing",
    )
    assert edges(drawn, "stage1")["scores1"] == ("scores", "")
    assert node(drawn, "stage1").is_done
    assert not node(drawn, "stage2").is_done
    assert "not trained" in node(drawn, "stage2").lines


def test_hostile_names_are_text_in_mermaid() -> None:
    harmless = mermaid_text(graph_of(stage("a", mix={"b": 1.0})))
    text = mermaid_text(graph_of(stage(HOSTILE, mix={HOSTILE: 1.0})))
    assert len(text.splitlines()) == len(harmless.splitlines())
    for line in text.splitlines():
        label = re.fullmatch(r'    stage1\["(.*)"\]', line)
        if label is None:
            assert "script" not in line
            continue
        inner = label.group(1).replace("<br/>", "")
        # What stands between the quotes has no character that means anything but codes.
        assert re.fullmatch(r"(?:[^\"\[\]{}<>|&;:`*$#\\]|#\d+;)*", inner)
    assert "%%{" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<b", "a#60;b"),
        ('say "hi"', "say #34;hi#34;"),
        ("my_name", "my_name"),
        ("_name_", "#95;name#95;"),
        ("#quot;", "#35;quot#59;"),
    ],
)
def test_character_codes_are_decimal(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_hostile_names_are_text_in_svg() -> None:
    drawn = graph_of(stage(HOSTILE), stage("tone_$x^2$"))
    root = ElementTree.fromstring(graph_picture(drawn, "svg"))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert "script" not in tags
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]
    assert any("<script>alert(1)</script>" in text for text in texts)
    assert any("tone_$x^2$" in text for text in texts)


def test_equal_graphs_give_equal_pictures() -> None:
    drawn = graph_of(stage(handoff="stack"), stage("form"))
    for form in ("svg", "png"):
        assert graph_picture(drawn, form) == graph_picture(drawn, form)
    assert graph_picture(drawn, "png")[:8] == b"\x89PNG\r\n\x1a\n"


def test_boxes_do_not_overlap_and_lie_inside_the_picture() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    terms = {"sft": Term(weight=1.0, mix={"chat": 1.0}), "kl": Term(weight=0.1)}
    drawn = graph_of(
        stage(handoff="detach"), stage("both", "stack", method="joint", mix={}, terms=terms)
    )
    boxes, width, height = _layout(drawn, FigureCanvasAgg(Figure(dpi=72)).get_renderer())
    assert len(boxes) == len(drawn.nodes) == 8
    for at, box in enumerate(boxes.values()):
        assert box.left >= 0
        assert box.top >= 0
        assert box.right <= width
        assert box.bottom <= height
        for other in list(boxes.values())[at + 1 :]:
            is_beside = box.right <= other.left or other.right <= box.left
            assert is_beside or box.bottom <= other.top or other.bottom <= box.top
    centres = [boxes[key].middle for key in ("base", "stage1", "stage2", "model")]
    assert all(abs(one - two) < 0.01 for one, two in pairwise(centres))


def write_recipe(folder: Path, influence: str = "tone") -> Path:
    path = folder / "recipe.yaml"
    data = {
        "base": {"hub": "example/tiny"},
        "sources": {"chat": {"path": "chat.jsonl", "format": "messages"}},
        "training": {},
        "seed": 1,
        "stages": [stage(influence).model_dump(mode="json", exclude_none=True)],
    }
    path.write_text(json.dumps(data))  # JSON is YAML.
    return path


def test_command_prints_mermaid_and_writes_what_the_file_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["graph", str(recipe)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1] == "flowchart TB"
    assert 'base(["base<br/>example/tiny"])' in text
    for name, start in (("g.png", b"\x89PNG"), ("g.svg", b"<?xml"), ("g.mmd", b"%% recipe")):
        assert main(["graph", str(recipe), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert capsys.readouterr().out.splitlines()[-1] == f"graph: {tmp_path / 'g.mmd'}"


def test_command_draws_a_trial_with_its_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results(tmp_path).path
    assert main(["graph", str(folder), "0"]) == 0
    text = capsys.readouterr().out
    assert "scores of the base" in text
    assert text.startswith("%% study inner_voice, trial 0, COMPLETE")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["{recipe}", "--to", "pdf"], "choose mermaid, svg or png"),
        (["{recipe}", "--to", "png"], "add --out FILE"),
        (["{folder}"], "add the number of a trial"),
        (["{study}", "99"], "no trial 99; known: "),
        (["{recipe}", "--out", "{folder}/no/g.svg"], "name another place"),
    ],
)
def test_wrong_words_end_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], remedy: str
) -> None:
    places = {
        "recipe": write_recipe(tmp_path),
        "folder": tmp_path,
        "study": results(tmp_path).path,
    }
    assert main(["graph", *(word.format(**places) for word in words)]) == 2
    error = capsys.readouterr().err
    assert remedy in error
    assert len(error.splitlines()) == 1


def test_each_run_of_an_influence_has_its_own_dose_in_the_graph() -> None:
    influences = {
        "tone": InfluenceSpec.model_validate(
            {
                "method": "sft",
                "adapter": {"kind": "lora"},
                "mix": {"chat": 1.0},
                "dose_tokens": 12_000,
                "learning_rate": 5e-4,
                "repeat": {"dose_factor": 0.5},
            }
        )
    }
    space = Space(influences, OrderSpec(max_repeats=3))
    drawn = graph_of(*space.decode({"order": "tone > tone > tone"}).stages)
    for key, tokens in (("stage1", "12,000"), ("stage2", "6,000"), ("stage3", "3,000")):
        assert f"{tokens} tokens, rate 0.0005" in node(drawn, key).lines
    assert "21,000 tokens in all" in node(drawn, "model").lines
