"""`check` and `plan` on a study's fidelity: what would do nothing or mislead is refused, and what it saves is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.check import all_problems
from search.cli.main import main
from search.plan import Speeds
from spaces.recipe import Full, Recipe, Stage

HACKS = "hacks: {evaluator: diversity, source: asks}\n  price: {evaluator: cost}\n  choice: {e"
OBJECTIVE = "  - score: style\n"


@pytest.mark.parametrize(
    ("fidelity", "objective", "text"),
    [
        (
            "{items: 0.5, evaluators: {stile: 0.2}}",
            "",
            "fidelity.evaluators.stile: 'stile' is no evaluator of the suite; did you mean 'style'?",
        ),
        (
            "{items: 0.5, evaluators: {price: 0.2}}",
            "",
            "fidelity.evaluators.price: 0.2 has no effect: cost reads no rows of sources; remove it",
        ),
        (
            "{items: 1.0}",
            "",
            "fidelity.items: 1 leaves all items to be asked at once; give less than 1, or remove fidelity",
        ),
        (
            "{items: 0.5, evaluators: {retention: 1.0}}",
            "",
            "fidelity.items: 0.5 takes all items of every evaluator, as there are so few (8 at least are asked); "
            "give more items, or remove fidelity",
        ),
        (
            "{items: 0.5}",
            "hacks.self_bleu",
            "objectives[1].score: hacks.self_bleu depends on how many replies there are, so part of the items does "
            "not estimate it; set fidelity.evaluators.hacks: 1",
        ),
        ("{items: 0.0}", "", "fidelity.items"),
        ("{item: 0.5}", "", "fidelity"),
        ("{items: 0.5, evaluators: {style: 2}}", "", "fidelity.evaluators.style"),
    ],
)
def test_a_fidelity_that_does_nothing_or_misleads_is_refused_in_one_line(
    fidelity: str, objective: str, text: str, good_study: Path
) -> None:
    study = good_study.read_text().replace("choice: {e", HACKS)
    if objective:
        study = study.replace(
            OBJECTIVE, f"{OBJECTIVE}  - {{score: {objective}, reference: 100.0}}\n"
        )
    good_study.write_text(f"{study}fidelity: {fidelity}\n")
    (problem,) = (each for each in all_problems(good_study) if not each.is_warning)
    assert text in str(problem)
    assert str(problem).count("\n") == 0


def test_a_fidelity_is_accepted_and_plan_says_what_it_saves(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(json.dumps({"prompt": f"What is {n}?"}) + "\n" for n in range(32))
    (good_study.parent / "data" / "asks.jsonl").write_text(rows)
    text = "fidelity: {items: 0.25}\nstopping: {rungs: [0.5]}\n"
    good_study.write_text(good_study.read_text() + text)
    assert [each for each in all_problems(good_study) if not each.is_warning] == []
    assert main(["plan", str(good_study), "--n", "0"]) == 0
    # Nothing was measured: 10 s a suite, three quarters of it left out.
    line = (
        "fidelity    25 % of the items first: saves about 8 s of the suite for each recipe that ends there, and as "
        "much at each of 1 rungs; how many do is known after some trials, and counted as none here"
    )
    assert line in capsys.readouterr().out
    assert main(["plan", str(good_study), "--n", "0", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["fidelity"], plan["given_up_share"]) == (0.25, None)


def test_seconds_of_a_recipe_count_first_items_at_rungs_and_for_those_given_up() -> None:
    stage = Stage(
        influence="a",
        method="sft",
        adapter=Full(),
        mix={"chat": 1.0},
        dose_tokens=1000,
        learning_rate=1e-3,
    )
    speeds = Speeds(
        tokens_per_second={("sft", "full"): 100.0},  # type: ignore[dict-item]
        evaluate_seconds=8.0,
        rest_seconds=1.0,
        n_measured={},
        n_rungs=1,
        fidelity=0.25,
        given_up_share=0.5,
        n_screened=10,
    )
    # Two stages of 10 s; at each a rung of 2 s and a boundary of 8 s, but half of all recipes end at 2 s.
    assert speeds.recipe_seconds(Recipe(stages=(stage, stage))) == pytest.approx(
        20 + 2 * 2 + 8 + 0.5 * 8 + 0.5 * 2 + 1
    )
