"""Does a full SFT stage eat what a LoRA stage taught? A designed experiment over handoffs and orders.

    python tests/benchmarks/handoffs/run.py --seeds 0 1 2 3 4

Runs study.yaml once per seed on the small model of the replay table (made where it is not there yet), and writes
results/notes_handoffs.json and the tables of results/notes_handoffs.md to standard output. An effect is a score minus
the same score of the same stages in another way, within one seed; its interval is Student's t over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

from search.folders import StudyFolder
from search.yaml_file import dump_yaml, load_study

HERE = Path(__file__).parent
TOP = HERE.parents[2]
sys.path.insert(0, str(HERE.parent / "real"))
from studies import ENVIRONMENT, apportion, prepare_study  # noqa: E402

SCORES = (
    "tone",
    "tone_memory",
    "format",
    "structure",
    "content_memory",
    "retention.bits_per_byte_change",
)
Table = dict[str, dict[str, list[float]]]
"""Recipe to score to values, one per seed."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=TOP / "results" / "notes_handoffs.json")
    arguments = parser.parse_args()
    table: Table = {}
    for seed in arguments.seeds:
        for name, scores in run_seed(seed).items():
            for score, value in scores.items():
                table.setdefault(name, {}).setdefault(score, []).append(value)
    arguments.out.write_text(
        json.dumps({"seeds": arguments.seeds, "scores": table}, indent=1) + "\n"
    )
    print("\n".join(lines(table)))


def run_seed(seed: int) -> dict[str, dict[str, float]]:
    """Run the study with a seed, or take up where it was left; return final scores by recipe."""
    folder = prepare_study("small").parent
    spec = load_study(_copied(folder))
    path = folder / f"handoffs-{seed}.yaml"
    sampler = spec.sampler.model_copy(update={"seed": seed})
    changed = spec.model_copy(update={"name": f"handoffs-{seed}", "sampler": sampler})
    path.write_text(dump_yaml(changed.model_dump(mode="json", exclude_none=True)))
    results = TOP / ".demo" / "handoffs"
    results.mkdir(parents=True, exist_ok=True)
    target = results / "results" / f"handoffs-{seed}"
    words = ["resume", str(target)] if target.exists() else ["run", str(path)]
    subprocess.run([*apportion(), *words], cwd=results, env=ENVIRONMENT, check=True)
    study = StudyFolder(target)
    found = {}
    for record in study.records():
        if record.baseline is None:
            continue
        values = {name: record.final_scores[name].value for name in SCORES}
        found[record.baseline] = {
            name: value for name, value in values.items() if value is not None
        }
    return found


def lines(table: Table) -> list[str]:
    """Return two Markdown tables: final scores, and what the handoff or the order changed."""
    text = ["| recipe | " + " | ".join(SCORES) + " |", "|---|" + "---|" * len(SCORES)]
    for name, scores in table.items():
        cells = [f"{_mean(scores[score]):.3f}" for score in SCORES]
        text.append(f"| {name} | {' | '.join(cells)} |")
    text += ["", "| compared | " + " | ".join(SCORES) + " |", "|---|" + "---|" * len(SCORES)]
    for one, other in COMPARISONS:
        cells = [interval(table[one][score], table[other][score]) for score in SCORES]
        text.append(f"| {one} - {other} | {' | '.join(cells)} |")
    return text


COMPARISONS = (
    *((f"tone_{way}_full_{dose}", "tone") for dose in ("5k", "12k") for way in ("merge", "stack", "detach")),
    *((f"tone_{way}_full_{dose}", f"tone_merge_full_{dose}") for dose in ("5k", "12k") for way in ("stack", "detach")),
    *((f"full_{dose}_tone", f"tone_merge_full_{dose}") for dose in ("5k", "12k")),
    *((f"tone_{way}_low", "tone") for way in ("merge", "stack", "detach", "continue")),
    *((f"tone_{way}_low", "tone_merge_low") for way in ("stack", "detach", "continue")),
    *((f"low_{way}_tone", f"tone_{way}_low") for way in ("merge", "stack", "detach", "continue")),
    *((f"low_{way}_tone", "low") for way in ("merge", "stack", "detach", "continue")),
)  # fmt: skip
"""Left minus right."""


def interval(left: Sequence[float], right: Sequence[float]) -> str:
    """Return the mean paired difference over seeds with its 95 % interval (Student's t)."""
    gains = [one - other for one, other in zip(left, right, strict=True)]
    if len(gains) < 2:
        return f"{gains[0]:+.3f}"
    half = stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
    mark = "" if abs(_mean(gains)) > half else " (n.s.)"
    return f"{_mean(gains):+.3f} ± {half:.3f}{mark}"


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def _copied(folder: Path) -> Path:
    for name in ("warm", "thoughts"):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        answers = [{"text": row["messages"][-1]["content"]} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in answers)
        (folder / f"{name}_answers.jsonl").write_text(text)
    return Path(shutil.copyfile(HERE / "study.yaml", folder / "handoffs.yaml"))


if __name__ == "__main__":
    main()
