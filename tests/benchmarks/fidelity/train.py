"""Train recipes of the small model and keep what each item said: the data behind results/benchmarks/fidelity.md.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
        .venv/bin/python tests/benchmarks/fidelity/train.py --recipes 60

The space of the replay table without its largest doses, and a larger suite: 128 questions, 96 pairs and 60 passages
that no influence is taught. Everything is kept in .demo/fidelity and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
sys.path[:0] = [str(HERE.parent / "replay"), str(HERE.parent / "confirm")]

import texts  # noqa: E402
from build_table import prepare, stage_grid  # noqa: E402
from real import searched  # noqa: E402

from evaluators.behaviours.retention import prose_passages  # noqa: E402
from search.folders import StudyFolder  # noqa: E402
from search.lab import Lab  # noqa: E402
from search.spec import StudySpec  # noqa: E402
from search.yaml_file import load_study  # noqa: E402
from spaces.recipe import Recipe  # noqa: E402

N_PROMPTS, N_PAIRS, N_PASSAGES = 128, 96, 60
LARGEST = {"tone": 4000, "structure": 5000, "taste": 2500}


def write_study(replay: Path, work: Path) -> Path:
    """Write the study with its larger suite, and return its file."""
    work.mkdir(parents=True, exist_ok=True)
    for name in ("study.yaml", "thoughts.jsonl", "warm.jsonl", "pairs.jsonl"):
        shutil.copyfile(replay / name, work / name)
    text = (work / "study.yaml").read_text().replace("path: model", f"path: {replay / 'model'}")
    text = text.replace("source: prose}", f"source: prose, limit: {N_PASSAGES}}}")
    (work / "study.yaml").write_text(text)
    _, _, *taught = texts._splits()
    known = {each.question for part in taught for each in part}
    free = [each for each in texts._exchanges() if each.question not in known]
    # Where there are too few, some questions are asked by both.
    asked, paired = free[:N_PROMPTS], free[-N_PAIRS:]
    sources = {
        "prompts": [
            {"prompt": texts._ask(each), "kind": each.asked, "thought": texts._named(each)}
            for each in asked
        ],
        "unseen_pairs": [texts._pair(each) for each in paired],
        "prose": [{"text": passage[:300]} for passage in prose_passages()[:N_PASSAGES]],
    }
    for name, rows in sources.items():
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return work / "study.yaml"


def drawn(spec: StudySpec, n_recipes: int, seed: int) -> list[Recipe]:
    """Return different recipes of one to three stages, each order as likely as any other."""
    grid = {
        name: [stage for stage in stages if stage.dose_tokens <= LARGEST[name]]
        for name, stages in stage_grid(spec).items()
    }
    draw = random.Random(seed)
    found: dict[str, Recipe] = {}
    while len(found) < n_recipes:
        order = draw.sample(sorted(grid), draw.randint(1, len(grid)))
        recipe = Recipe(stages=tuple(draw.choice(grid[name]) for name in order))
        found[recipe.prefix_digests()[-1]] = recipe
    return list(found.values())


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=TOP / ".demo" / "fidelity")
    parser.add_argument("--recipes", type=int, default=60)
    options = parser.parse_args()
    study = write_study(prepare(TOP / ".demo" / "replay").parent, options.work)
    spec, root = load_study(study), study.parent
    spec = spec.model_copy(update={"store": spec.store.model_copy(update={"enabled": False})})
    folder = StudyFolder(options.work / "results")
    folder.make()
    records = searched(Lab.load(spec, root, None), folder, drawn(spec, options.recipes, seed=1))
    print(f"{len(records)} of {options.recipes} recipes trained")


if __name__ == "__main__":
    main()
