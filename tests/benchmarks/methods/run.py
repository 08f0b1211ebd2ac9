"""One study with all methods at once, on the small model of the replay table.

    python tests/benchmarks/methods/run.py [--trials 80]

Trains the donor of the merge (a study of one baseline in the same store), then runs study.yaml; called again, it goes
on. Copies study.yaml, report.md, front.csv, trials.csv and front.png to results/all_methods/, and prints how often each
influence was tried and how often it stands on the front.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from search.folders import StudyFolder
from search.report.view import load_view
from search.yaml_file import load_study

HERE = Path(__file__).parent
TOP = HERE.parents[2]
sys.path.insert(0, str(HERE.parent / "real"))
from studies import ENVIRONMENT, apportion, prepare_study  # noqa: E402

WORK = TOP / ".demo" / "methods"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=80)
    arguments = parser.parse_args()
    if not WORK.exists():
        shutil.copytree(prepare_study("small").parent, WORK)
    study = WORK / "study.yaml"
    study.write_text((HERE / "study.yaml").read_text().replace("DONOR", donor()))
    target = run(study, "all_methods", arguments.trials)
    out = TOP / "results" / "all_methods"
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "study.yaml", out / "study.yaml")
    for name in ("report.md", "front.csv", "trials.csv", "front.png"):
        shutil.copyfile(target / "report" / name, out / name)
    tell(target)


def donor() -> str:
    """Return the digest of a stored model that knows the tone and the structure."""
    text = (HERE / "study.yaml").read_text()
    start, end = text.index("  blend:"), text.index("order:")
    text = text[:start] + text[end:]
    start, end = text.index("baselines:"), text.index("store:")
    values = "{structure.dose_tokens: 6000, structure.learning_rate: 8e-4}"
    chosen = f"baselines: [{{name: donor, order: [structure, tone], values: {values}}}]\n"
    text = text[:start] + chosen + text[end:]
    path = WORK / "donor.yaml"
    text = text.replace("name: all_methods", "name: donor").replace("trials: 80", "trials: 2")
    path.write_text(text)
    record = next(each for each in StudyFolder(run(path, "donor", 2)).records() if each.stages)
    return record.boundaries[-1].digest


def run(study: Path, name: str, n_trials: int) -> Path:
    """Run a study, or take it up again; return its folder."""
    target = WORK / "results" / name
    words = ["run", str(study)]
    if target.exists():
        words = ["resume", str(target), "--trials", str(n_trials)]
    subprocess.run([*apportion(), *words], cwd=WORK, env=ENVIRONMENT, check=True)
    return target


def tell(target: Path) -> None:
    """Print the count of each influence."""
    folder = StudyFolder(target)
    view = load_view(target)
    tried: Counter[str] = Counter()
    front: Counter[str] = Counter()
    for record in folder.records():
        used = {stage.influence for stage in record.recipe.stages}
        tried.update(used)
        front.update(used if record.number in view.front else ())
    print(f"trials {len(view.trials)}, failed {sum(each.state == 'FAIL' for each in view.trials)}")
    for name in load_study(target / "study.yaml").influences:
        print(f"{name}: in {tried[name]} trials, {front[name]} of them on the front")


if __name__ == "__main__":
    main()
