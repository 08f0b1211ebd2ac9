"""Twenty recipes with and without the stage store: equal losses and scores to the last digit, and no prefix twice.

Full weights, adapters and preference pairs, with all four handoffs: what the store puts back is what training left.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import TWO_WORKERS, driver, outcome, read_log, started, write_files
from tiny import STUDY, records

from search.store import StageStore

INFLUENCES = """influences:
  form: {method: sft, adapter: {kind: full}, mix: {chat: 1.0}, dose_tokens: 300, learning_rate: 1e-3}
  part: {method: sft, adapter: {kind: full, targets: mlp, layers: 1-1}, mix: {chat: 1.0}, dose_tokens: 200,
         learning_rate: 1e-3}
  fold: {method: sft, adapter: {kind: lora, rank: 2}, mix: {chat: 1.0}, dose_tokens: 300, learning_rate: 5e-3}
  kept: {method: sft, adapter: {kind: lora, rank: 2}, mix: {chat: 1.0}, dose_tokens: 300, learning_rate: 4e-3,
         handoff: stack}
  aside: {method: sft, adapter: {kind: lora, rank: 3, dropout: 0.1}, mix: {chat: 1.0}, dose_tokens: 300,
          learning_rate: 5e-3, handoff: detach}
  go_on: {method: sft, adapter: {kind: lora, rank: 2}, mix: {chat: 1.0}, dose_tokens: 200, learning_rate: 5e-3,
          handoff: continue}
  taste: {method: dpo, adapter: {kind: lora, rank: 2}, mix: {pairs: 1.0}, dose_tokens: 300, learning_rate: 1e-2}
  will: {method: dpo, adapter: {kind: full}, mix: {pairs: 1.0}, dose_tokens: 300, learning_rate: 1e-3}
"""
BEFORE = "[[form, go_on], [part, go_on], [aside, go_on], [will, go_on]]"
"""What may follow `go_on`, whose adapter is trained on, must have an equal one."""
RECIPES = (
    "form",
    "form > taste",
    "form > taste > fold",
    "form > fold > will",
    "form > kept > taste",
    "part > taste > form",
    "fold > taste",
    "fold > taste > form",
    "fold > will",
    "kept > taste",
    "kept > taste > fold",
    "kept > form > taste",
    "aside > taste",
    "aside > taste > form",
    "aside > fold > taste",
    "go_on > taste",
    "go_on > fold > taste",
    "go_on > taste > kept",
    "taste > kept > aside",
    "taste > kept > form",
)
N_TRIALS = len(RECIPES) + 1
"""The untouched base is one."""


def write_study(folder: Path, changes: dict[str, str] | None = None) -> Path:
    before, after = STUDY.split("influences:\n")[0], STUDY[STUDY.index("order:") :]
    text = before + INFLUENCES + after
    baselines = [
        f"  - {{name: recipe_{number}, order: [{recipe.replace(' > ', ', ')}]}}\n"
        for number, recipe in enumerate(RECIPES)
    ]
    wanted = {
        "{max_stages: 2}": "{max_stages: 3, before: " + BEFORE + "}",
        "sampler:": "baselines:\n" + "".join(baselines) + "sampler:",
        "{trials: 6}": f"{{trials: {N_TRIALS}}}",
    }
    for old, new in (wanted | (changes or {})).items():
        assert old in text
        text = text.replace(old, new)
    return write_files(folder, text)


def run(folder: Path, name: str, store: str) -> tuple[Path, Path]:
    """Run the study in a process of its own; returns its results and its log."""
    changes = {"name: tiny": f"name: {name}", "compute:": f"store: {store}\ncompute:"}
    study, log = write_study(folder / name, changes), folder / f"{name}.log"
    process = driver(study, folder / "results", log)
    process.join(280)
    assert process.exitcode == 0
    return folder / "results" / name, log


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module")
def uncached(folder: Path) -> tuple[Path, Path]:
    """Results and log of the study that trains every stage of every recipe."""
    return run(folder, "uncached", "{enabled: false}")


@pytest.fixture(scope="module")
def cold(folder: Path) -> tuple[Path, Path]:
    """Results and log of the study that finds an empty store."""
    return run(folder, "cold", f"{{path: {folder / 'store'}}}")


def digests(results: Path, is_wanted: Callable[[int], bool] = bool) -> set[str]:
    """Return the prefixes of all recipes whose number of stages is wanted."""
    return {
        stage["digest"]
        for record in records(results)
        for number, stage in enumerate(record["stages"], 1)
        if is_wanted(number)
    }


def trained(log: Path) -> Counter[str]:
    return Counter(event.digest for event in read_log(log) if event.kind == "trained")


def measured(results: Path) -> Counter[str]:
    """Count by model how often the suite has measured it."""
    return Counter(
        boundary["digest"]
        for record in records(results)
        for boundary in record["boundaries"]
        if not boundary["is_stored"]
    )


def copied(source: Path, target: Path, wanted: set[str]) -> Path:
    """Copy stages to a new store, and no scores."""
    StageStore(str(target))
    for digest in wanted:
        place = f"entries/{digest[:2]}/{digest}"
        shutil.copytree(source / place, target / place)
    return target


def once(prefixes: set[str]) -> dict[str, int]:
    return dict.fromkeys(prefixes, 1)


def test_an_uncached_run_trains_every_stage_of_every_recipe(uncached: tuple[Path, Path]) -> None:
    results, log = uncached
    told = records(results)
    assert [record["state"] for record in told] == ["COMPLETE"] * N_TRIALS
    orders = [" > ".join(stage["influence"] for stage in r["recipe"]["stages"]) for r in told]
    assert orders == ["", *RECIPES]
    assert trained(log).total() == sum(recipe.count(">") + 1 for recipe in RECIPES)
    assert not (results / "store").exists()
    kinds = [
        (s["method"], s["adapter"]["kind"], s["handoff"])
        for r in told
        for s in r["recipe"]["stages"]
    ]
    assert {"full", "lora"} == {kind for method, kind, _ in kinds if method == "dpo"}
    assert {"merge", "stack", "detach", "continue"} == {handoff for *_, handoff in kinds}


def test_a_cold_store_trains_each_prefix_once_and_changes_no_digit(
    cold: tuple[Path, Path], uncached: tuple[Path, Path]
) -> None:
    results, log = cold
    assert trained(log) == once(digests(results))
    assert trained(log).total() < trained(uncached[1]).total()
    assert outcome(results) == outcome(uncached[0])


def test_a_warm_store_trains_and_measures_nothing_and_changes_no_digit(
    folder: Path, cold: tuple[Path, Path], uncached: tuple[Path, Path]
) -> None:
    results, log = run(folder, "warm", f"{{path: {folder / 'store'}}}")
    assert trained(log).total() == 0
    assert measured(results).total() == 0
    assert outcome(results) == outcome(uncached[0])


def test_restored_models_score_as_the_trained_ones_to_the_last_digit(
    folder: Path, cold: tuple[Path, Path], uncached: tuple[Path, Path]
) -> None:
    everything = digests(cold[0])
    store = copied(folder / "store", folder / "unscored", everything)
    results, log = run(folder, "restored", f"{{path: {store}}}")
    assert trained(log).total() == 0
    assert everything < set(measured(results))  # and the base
    assert outcome(results) == outcome(uncached[0])


def test_stages_trained_on_restored_models_are_those_of_an_uncached_run(
    folder: Path, cold: tuple[Path, Path], uncached: tuple[Path, Path]
) -> None:
    firsts = digests(cold[0], lambda number: number == 1)
    store = copied(folder / "store", folder / "firsts", firsts)
    results, log = run(folder, "half", f"{{path: {store}}}")
    assert trained(log) == once(digests(cold[0], lambda number: number > 1))
    assert outcome(results) == outcome(uncached[0])


def avoided_share(results: Path, log: Path) -> tuple[float, str]:
    """Return the share of avoidable tokens that a study did not train, and the figures in words.

    Avoidable is what an oracle avoids that trains each distinct prefix once.
    """
    told = [stage for record in records(results) for stage in record["stages"]]
    n_tokens = {stage["digest"]: stage["trained_tokens"] for stage in told}
    n_asked = sum(stage["trained_tokens"] for stage in told)
    n_trained = sum(n_tokens[digest] * count for digest, count in trained(log).items())
    n_oracle = sum(n_tokens.values())
    assert n_trained == sum(s["trained_tokens"] for s in told if not s["is_stored"])
    share = (n_asked - n_trained) / (n_asked - n_oracle)
    words = f"{n_asked} tokens asked for, {n_trained} trained, {n_oracle} by the oracle"
    return share, f"{words}: {share:.1%} of the redundant ones avoided"


@pytest.mark.slow
def test_two_workers_avoid_what_an_oracle_avoids_and_change_no_digit(
    folder: Path, uncached: tuple[Path, Path]
) -> None:
    study, log = write_study(folder / "two", TWO_WORKERS), folder / "two/log"
    with started(("run", str(study)), folder / "two", log) as program:
        assert program.process.wait(280) == 0
    results = folder / "two/results/tiny"
    assert len({event.pid for event in read_log(log)}) == 2, "one worker did it all"
    assert outcome(results) == outcome(uncached[0])
    share, words = avoided_share(results, log)
    print(f"\n{words}")
    assert share >= 0.95
    assert avoided_share(*uncached)[0] == 0
