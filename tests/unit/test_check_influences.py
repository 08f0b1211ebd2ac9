"""Each kind of influence as a study file writes it: what `check` accepts, and what it refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.check import all_problems
from search.cli.main import main

LORA = "{kind: lora, rank: 8}"


def study_with(study: Path, influence: str, base: str = "{path: model}", more: str = "") -> Path:
    """Put an influence in the place of the good study's two, with rows for every format beside it."""
    text = study.read_text().replace("base: {path: model}", f"base: {base}")
    head, rest = text.split("influences:\n")
    tail = rest.split("suite:\n")[1].split("baselines:\n")[0]
    unpaired = [
        {"prompt": "Sky?", "completion": word, "label": word == "Up."} for word in ("Up.", "No.")
    ]
    Path("data/thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unpaired))
    head += "  thumbs: {path: data/thumbs.jsonl, format: unpaired-preference}\n"
    body = "".join(f"    {line}\n" for line in influence.strip().splitlines())
    dose = "    dose_tokens: 1000\n    learning_rate: 1e-4\n"
    text = f"{head}influences:\n  x:\n{body}{dose}{more}suite:\n{tail}budget: {{trials: 4}}\n"
    study.write_text(text)
    return study


def errors(study: Path) -> list[str]:
    return [str(problem) for problem in all_problems(study) if not problem.is_warning]


JOINT = f"""method: joint
adapter: {LORA}
terms:
  sft: {{mix: {{chat: 1.0}}}}
  dpo: {{mix: {{pairs: 1.0}}, beta: {{low: 0.05, high: 0.5, log: true}}}}
  kl: {{}}
weights: {{simplex: {{sft: {{low: 0.2}}, dpo: {{}}, kl: {{high: 0.3}}}}}}
arbitration: {{choice: [sum, pcgrad, normalised]}}"""
RAMP = f"""method: joint
adapter: {LORA}
terms:
  sft: {{weight: 1.0, mix: {{chat: 1.0}}}}
  kto: {{weight: {{start: 0.0, end: {{low: 0.2, high: 1.0}}}}, mix: {{thumbs: 1.0}}}}"""
GOOD = {
    "joint": JOINT,
    "joint with a ramp": RAMP,
    "kto": f"method: kto\nadapter: {LORA}\nmix: {{thumbs: 1.0}}\nbeta: 0.1\n"
    "undesirable_weight: {low: 0.5, high: 2.0}",
    "kto on pairs": f"method: kto\nadapter: {LORA}\nmix: {{pairs: 0.5, thumbs: 0.5}}",
    "orpo": f"method: orpo\nadapter: {LORA}\nmix: {{pairs: 1.0}}\nbeta: {{low: 0.05, high: 0.5, log: true}}",
    "simpo": f"method: simpo\nadapter: {LORA}\nmix: {{pairs: 1.0}}\nbeta: 2.0\ngamma: {{choice: [0.5, 1.0]}}",
    "ipo": f"method: ipo\nadapter: {LORA}\nmix: {{pairs: 1.0}}\nbeta: 0.1",
    "adalora": "method: sft\nadapter: {kind: adalora, init_rank: 12, target_rank: {low: 2, high: 8}}\n"
    "mix: {chat: 1.0}\nhandoff: stack",
    "pissa": "method: sft\nadapter: {kind: lora, rank: 8, init: {choice: [default, pissa]}}\nmix: {chat: 1.0}",
    "lora+": "method: sft\nadapter: {kind: lora, rank: 8, lr_ratio: {low: 1.0, high: 16.0, log: true}}\n"
    "mix: {chat: 1.0}",
    "ranks": "method: sft\nadapter: {kind: lora, ranks: {attention: 4, mlp: {low: 4, high: 16}}, exclude: o_proj}\n"
    "mix: {chat: 1.0}",
    "curriculum": f"method: sft\nadapter: {LORA}\n"
    "mix: {start: {chat: 0.8, plain: 0.2}, end: {simplex: {chat: {}, plain: {}}}}",
    "temperature": f"method: sft\nadapter: {LORA}\n"
    "mix: {temperature: {low: 1.0, high: 5.0}, sources: [chat, plain]}\nmax_passes: 4.0",
}
SPLIT = """  y:
    method: dpo
    adapter: {kind: full, layers: {below: {low: 0.25, high: 0.75}, split: middle}}
    mix: {pairs: 1.0}
    dose_tokens: 1000
    learning_rate: 1e-5
"""
ABOVE = (
    "method: sft\nadapter: {kind: lora, layers: {above: {low: 0.25, high: 0.75}, split: middle}}\n"
    "mix: {chat: 1.0}"
)


@pytest.mark.parametrize("influence", GOOD.values(), ids=GOOD)
def test_every_method_and_adapter_passes(influence: str, good_study: Path) -> None:
    assert errors(study_with(good_study, influence)) == []


def test_two_influences_share_a_split_of_one_range_and_no_other(good_study: Path) -> None:
    text = good_study.read_text()
    assert errors(study_with(good_study, ABOVE, more=SPLIT)) == []
    good_study.write_text(text)
    (only,) = errors(study_with(good_study, ABOVE, more=SPLIT.replace("0.75", "0.5")))
    assert "influences x and y give the split 'middle' different ranges" in only


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("", "label is missing"),
        (', "label": 1', "label: is the number 1; write true or false"),
        (', "label": "true"', "label: is text ('true'); write true or false"),
        (', "label": null', "label is missing"),
    ],
)
def test_kto_demands_a_truth_as_the_label_of_unpaired_rows(
    label: str, found: str, good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_with(good_study, GOOD["kto"])
    with Path("data/thumbs.jsonl").open("a") as file:
        file.write('{"prompt": "Sky?", "completion": "Up."' + label + "}\n")
    assert main(["check", "study.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: data/thumbs.jsonl:3: ")
    assert err.count("\n") == 1
    assert found in err


QUANTISED = "{path: model, bits: 4}"
DETACHED = f"method: sft\nadapter: {LORA}\nmix: {{chat: 1.0}}\nhandoff: detach"


def test_base_of_4_bits_takes_lora_that_is_not_merged(good_study: Path) -> None:
    assert errors(study_with(good_study, DETACHED, QUANTISED)) == []


@pytest.mark.parametrize(
    ("influence", "found"),
    [
        (
            DETACHED.replace("detach", "merge"),
            "x.handoff: merging into a quantised base would round",
        ),
        (
            DETACHED.replace("detach", "{choice: [stack, merge]}"),
            "x.handoff.choice[1]: merging into a quantised base",
        ),
        (DETACHED.replace("rank: 8", "rank: 8, init: pissa"), "x.adapter.init: init pissa"),
        (
            DETACHED.replace("rank: 8", "rank: 8, dora: {choice: [true, false]}"),
            "x.adapter.dora: init pissa, olora and dora need the weights",
        ),
        (DETACHED.replace("lora, rank: 8", "adalora"), "x.adapter.kind: AdaLoRA does not run"),
        (
            DETACHED.replace("kind: lora, rank: 8", "kind: full").replace("detach", "merge"),
            "x.adapter.kind: full weights of a quantised base",
        ),
    ],
)
def test_base_of_4_bits_refuses_what_needs_its_weights(
    influence: str, found: str, good_study: Path
) -> None:
    (only,) = errors(study_with(good_study, influence, QUANTISED))
    assert f"influences.{found}" in only


def test_base_of_8_bits_needs_cuda(good_study: Path) -> None:
    study_with(good_study, DETACHED, "{path: model, bits: 8}")
    good_study.write_text(good_study.read_text() + "compute: {device: cpu}\n")
    (only,) = errors(good_study)
    assert only.startswith("study.yaml:2: base.bits: 8-bit weights need CUDA")


@pytest.mark.parametrize(
    ("influence", "is_legal"),
    [
        (GOOD["pissa"], True),
        (GOOD["pissa"].replace("sft", "dpo").replace("chat", "pairs"), False),
        (JOINT.replace("rank: 8", "rank: 8, init: olora"), False),
        (JOINT.replace("rank: 8", "rank: 8, init: gaussian"), True),
        (GOOD["orpo"].replace("rank: 8", "rank: 8, init: pissa"), True),
    ],
)
def test_adapters_that_begin_on_weights_need_float32_where_there_is_a_reference(
    influence: str, is_legal: bool, good_study: Path
) -> None:
    study_with(good_study, influence)
    assert errors(good_study) == []
    good_study.write_text(good_study.read_text() + "training: {precision: bfloat16}\n")
    found = errors(good_study)
    assert len(found) == (0 if is_legal else 1)
    assert is_legal or "reaches only in float32" in found[0]
