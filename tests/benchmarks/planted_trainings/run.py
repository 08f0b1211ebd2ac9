"""Do explanations find what was planted in real trainings of a small model, and claim what is not there?

    python tests/benchmarks/planted_trainings/run.py --worlds 0 20 [--problems useless order] [--out FOLDER]

For each problem (problems.py) and world it writes base, data and study, trains the recipe as a trial, and lets
`apportion explain` train the rest, with one seed of each recipe, with two, and for some problems with three. Lines of
results are appended to FOLDER/claims-*.jsonl as they come; called again, it goes on where it was and prints the table
over what is there.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from problems import PROBLEMS, STEP_TOKENS
from world import World

from search.attribution.dose import DoseResponse
from search.attribution.noise import ALPHA
from search.cli.main import main as apportion
from search.folders import StudyFile, StudyFolder, utc_now
from search.lab import Lab
from search.records import Proposal
from search.spec import BudgetSpec
from search.store import StageStore
from search.trial import TrialRun
from search.yaml_file import load_study
from spaces.params import Params
from spaces.space import Space

OUT = Path(__file__).parents[3] / ".demo" / "planted_trainings"
N_TRIALS = 40
"""Of a study of doses. Small doses come out as the same steps as others: 40 are some 25 trainings."""
N_SEEDS = (1, 2)
MORE_SEEDS = {name: (1, 2, 3) for name in ("redundant", "layers", "useless")}
"""Where trainings differ by more than two seeds bear."""
MARGIN = "0.1"
Result = dict[str, Any]


def run(name: str, seed: int) -> Result:
    """Train one problem in one world and return what explanations say of it."""
    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="planted-") as scratch:
        folder = Path(scratch)
        world = World(seed)
        problem = PROBLEMS[name](world)
        problem.write(folder, name, world)
        study, lab, space = opened(folder)
        is_dose = len(problem.order) == 1
        if is_dose:
            # A stage changes what was scored before it: the base is a trial too.
            train(study, lab, space, 0, {"order": "base"})
            draw = random.Random(f"doses {seed}")
            drawn = [{"order": "a", "a.dose_tokens": dose(draw)} for _ in range(N_TRIALS)]
            for number, params in enumerate(drawn, 1):
                train(study, lab, space, number, params)
            points = [
                [record.recipe.stages[0].dose_tokens, record.final_scores[f"{score}.acc"].value]
                for record in study.records()
                for score in problem.objectives[:1]
                if record.recipe.stages
            ]
            said: Result = {"doses": explained(study)["doses"], "points": points}
        else:
            train(study, lab, space, 0, {"order": " > ".join(problem.order)})
            said = {
                str(n): brief(explained(study, "0", "--train", "--order", "--seeds", str(n)))
                if name == "order"
                else brief(explained(study, "0", "--train", "--seeds", str(n)))
                for n in MORE_SEEDS.get(name, N_SEEDS)
            }
    return {"problem": name, "world": seed, "cpu": round(time.process_time() - began, 1), **said}


def dose(draw: random.Random) -> int:
    """Return a dose of 2 to 64 steps, evenly on the logarithm."""
    return round(2 * STEP_TOKENS * 32 ** draw.random())


def opened(folder: Path) -> tuple[StudyFolder, Lab, Space]:
    """Return a study without trials, what its trainings share, and its space."""
    study = StudyFolder(folder / "results")
    study.make()
    study.write_study((folder / "study.yaml").read_text())
    study.write_file(
        StudyFile(
            root=str(folder), created_at=utc_now(), study_hash="0" * 16, budget=BudgetSpec(trials=1)
        )
    )
    spec = load_study(study.study_yaml)
    lab = Lab.load(spec, folder, StageStore(study.path / "store"))
    return study, lab, Space(spec.influences, spec.order)


def train(study: StudyFolder, lab: Lab, space: Space, number: int, params: Params) -> None:
    """Train a recipe as a trial of the study."""
    trial = TrialRun(lab, study.trial(number), Proposal(number, params, space.decode(params), None))
    while not trial.step():
        pass
    if trial.record.state != "COMPLETE":
        raise RuntimeError(f"{study.path}: {trial.record.reason}")


def explained(study: StudyFolder, *words: str) -> Result:
    """Return what `apportion explain` prints."""
    text = StringIO()
    with redirect_stdout(text), redirect_stderr(StringIO()):
        code = apportion(["explain", str(study.path), *words, "--margin", MARGIN, "--json"])
    if code:
        raise RuntimeError(f"apportion explain {' '.join(words)} ended with {code}")
    found: Result = json.loads(text.getvalue())
    return found


def brief(told: Result) -> Result:
    """Return claims, effects and comparisons of an explanation."""
    order = told["order"]
    return {
        "claims": [[c["kind"], c["units"], c["score"]] for c in told["claims"]],
        "worths": [
            [
                w["kind"],
                w["score"],
                w["units"],
                *(w["effect"][k] for k in ("value", "stderr", "holm")),
            ]
            for w in told["worths"]
        ],
        "order": order
        and [
            [c["what"], score, *(effect[k] for k in ("value", "stderr", "holm"))]
            for c in order["comparisons"]
            for score, effect in c["effects"].items()
        ],
    }


def is_right(result: Result, n_seeds: int) -> bool:
    """Tell whether what is said of a problem is its truth; of one without effects, whether nothing is claimed."""
    name = result["problem"]
    if name == "dose":
        (found,) = result["doses"]
        return found["turns_at"] is not None
    if name == "no_dose":
        # Shown, as `DoseResponse.is_shown` has it, is what the curve's claims rest on.
        return not any(is_dose_shown(each) for each in result["doses"])
    told = result[str(n_seeds)]
    claims = [(kind, tuple(units), score) for kind, units, score in told["claims"]]
    of = {kind: {each[1:] for each in claims if each[0] == kind} for kind, _, _ in claims}
    if name == "useless":
        return of.get("useless") == {(("c",), None)}
    if name == "harmful":
        return of.get("harmful") == {(("b", "a"), "red.acc")}
    if name == "redundant":
        return of.get("redundant") == {(("a", "b"), "red.acc")}
    if name == "layers":
        dead, alive = ("lower", "upper") if result["world"] % 2 == 0 else ("upper", "lower")
        gives = {units for units, _ in of.get("gives", set())}
        return gives == {(alive,)} and not of.get("takes") and (dead,) not in gives
    if name == "order":
        shown = {(what, value > 0) for what, _, value, _, holm in told["order"] if is_below(holm)}
        return shown == {("b first instead of last", True), ("a once more at the end", True)}
    return not [kind for kind in of if kind != "useless"]


def is_dose_shown(response: Result) -> bool:
    """Tell whether a dose is said to play a part."""
    return DoseResponse.model_validate(response).is_shown


def is_below(holm: float | None) -> bool:
    return holm is not None and holm < ALPHA


def tell(results: list[Result]) -> None:
    """Print how often the truth was found, and of problems without effects how often nothing was claimed."""
    for name in PROBLEMS:
        own = [result for result in results if result["problem"] == name]
        if not own:
            continue
        cpu = sum(result["cpu"] for result in own)
        seeds = [int(key) for key in own[0] if key.isdecimal()]
        for n in seeds or [1]:
            # Lines of an earlier run may lack a number of seeds.
            told = [result for result in own if not seeds or str(n) in result]
            right = sum(is_right(result, n) for result in told)
            print(f"| {name} | {n} | {right} | {len(told)} | {cpu:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, nargs=2, default=(0, 20), metavar=("FIRST", "END"))
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"claims-{'-'.join(options.problems)}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(r["problem"], r["world"]) for r in map(json.loads, lines)}
    for seed in range(*options.worlds):
        for name in options.problems:
            if (name, seed) not in done:
                result = run(name, seed)
                with path.open("a") as stream:
                    stream.write(json.dumps(result) + "\n")
                print(name, seed, result["cpu"], file=sys.stderr, flush=True)
    results = [json.loads(line) for each in options.out.glob("*.jsonl") for line in each.open()]
    print(
        "| problem | seeds of each recipe | right | worlds | CPU seconds |\n|---|---|---|---|---|"
    )
    tell(results)
