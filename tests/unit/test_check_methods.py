"""What `check` finds wrong with methods and their sources."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from search.check_methods import METHOD_FORMATS, method_findings, stage_source_problem
from search.messages import place_text
from search.spec import StudySpec
from search.stages.joint import LOSSES
from spaces.recipe import Stage

SFT: dict[str, Any] = {"weight": 1.0, "mix": {"chat": 1.0}}
DPO: dict[str, Any] = {"weight": 1.0, "mix": {"pairs": 1.0}}
COMMON: dict[str, Any] = {"adapter": {"kind": "full"}, "dose_tokens": 100, "learning_rate": 1e-3}


def found(rows_per_step: int = 8, **influence: Any) -> list[tuple[str, str]]:
    study = StudySpec.model_validate(
        {
            "name": "demo",
            "base": {"path": "model"},
            "sources": {
                "chat": {"path": "chat.jsonl", "format": "messages"},
                "pairs": {"path": "pairs.jsonl", "format": "preference"},
            },
            "influences": {"x": {**COMMON, **influence}},
            "training": {"rows_per_step": rows_per_step},
            "suite": {"english": {"evaluator": "likelihood", "source": "chat"}},
            "objectives": ({"score": "english"},),
            "budget": {"trials": 1},
        }
    )
    return [(place_text(finding.place), finding.text) for finding in method_findings(study)]


def test_a_sound_joint_influence_has_no_findings() -> None:
    assert found(method="joint", terms={"sft": SFT, "dpo": DPO, "kl": {"weight": 0.1}}) == []


@pytest.mark.parametrize(
    ("influence", "place", "text"),
    [
        ({"method": "kto", "mix": {"chat": 1.0}}, "influences.x.mix.chat",
         "kto reads preference or unpaired-preference; name another"),
        ({"method": "joint", "terms": {"sft": SFT, "orpo": SFT}}, "influences.x.terms.orpo.mix.chat",
         "format messages, and orpo reads preference"),
        ({"method": "joint", "terms": {"sft": {"weight": 1.0, "mix": {"chet": 1.0}}}},
         "influences.x.terms.sft.mix.chet", "did you mean 'chat'?"),
        ({"method": "sft", "mix": {"start": {"chat": 1.0}, "end": {"pairs": 1.0}}},
         "influences.x.mix.end.pairs", "sft reads messages"),
        ({"method": "sft", "mix": {"temperature": 2.0, "sources": ("chat", "pairs")}},
         "influences.x.mix.sources[1]", "sft reads messages"),
        ({"method": "sft", "mix": {"temperature": {"low": 0.0, "high": 2.0}, "sources": ("chat",)}},
         "influences.x.mix.temperature.low", "0.0 is not possible; write a number above 0"),
        ({"method": "simpo", "mix": {"pairs": 1.0}, "gamma": -1.0}, "influences.x.gamma",
         "-1.0 is not possible; write a number of at least 0"),
        ({"method": "joint", "terms": {"dpo": {**DPO, "beta": {"choice": (0.1, 0.0)}}}},
         "influences.x.terms.dpo.beta.choice[1]", "write a number above 0"),
        ({"method": "joint", "terms": {"dpo": {**DPO, "weight": {"start": 1.0, "end": -1.0}}}},
         "influences.x.terms.dpo.weight.end", "at least 0"),
        ({"method": "sft", "mix": {"start": {"chat": 1.0}, "end": {"chat": 1.0}}},
         "influences.x.mix", "start and end are equal"),
        ({"method": "kto", "mix": {"pairs": 1.0}, "rows_per_step": 1}, "training.rows_per_step",
         "too few for kto"),
        ({"method": "joint", "terms": {"kto": DPO}, "rows_per_step": 1}, "training.rows_per_step",
         "too few for kto"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_found_at_its_place(
    influence: dict[str, Any], place: str, text: str
) -> None:
    ((where, what),) = found(**influence)
    assert where == place
    assert text in what


def test_formats_are_those_that_the_stages_read() -> None:
    assert set(METHOD_FORMATS) == set(LOSSES)
    for name, module in LOSSES.items():
        assert METHOD_FORMATS[name] == import_module(module).FORMATS


def test_sources_of_a_decided_stage_are_checked_loss_by_loss() -> None:
    terms = {"sft": SFT, "dpo": {**DPO, "beta": 0.1}}
    stage = Stage.model_validate({**COMMON, "influence": "x", "method": "joint", "terms": terms})
    assert stage_source_problem(stage, {"chat": "messages", "pairs": "preference"}) is None
    text = stage_source_problem(stage, {"chat": "messages", "pairs": "text"})
    assert text is not None
    assert "source 'pairs' of the mix has format text, and dpo reads preference" in text
    text = stage_source_problem(stage, {"chat": "messages", "pear": "preference"})
    assert text is not None
    assert "not among the sources" in text
