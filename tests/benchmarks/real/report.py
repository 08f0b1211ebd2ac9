"""Tables of compare.py: one row per seed, then median and range."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from timeline import median_and_range

Facts = dict[str, Any]
Read = Callable[[Facts], float | None]

COLUMNS: dict[str, tuple[str, Read]] = {
    "plain: hypervolume": (".4f", lambda run: run["plain"]["hypervolume"]),
    "apportion: hypervolume at equal wall time": (
        ".4f",
        lambda run: run["apportion"]["hypervolume"],
    ),
    "ratio": (".2f", lambda run: run["hypervolume_ratio_at_equal_wall_time"]),
    "plain: wall s": (".0f", lambda run: run["plain"]["wall_seconds"]),
    "plain: s to its hypervolume": (".0f", lambda run: run["plain"]["seconds_to_it"]),
    "apportion: s to plain's hypervolume": (".0f", lambda run: run["apportion"]["seconds_to_it"]),
    "share of plain's wall s": (".2f", lambda run: run["share_of_plains_wall_seconds"]),
    "share of s plain needed": (".2f", lambda run: run["share_of_seconds_plain_needed"]),
    "plain: models": (".0f", lambda run: run["plain"]["n_models"]),
    "apportion: models": (".0f", lambda run: run["apportion"]["n_models"]),
    "plain: load average": (".1f", lambda run: run["plain"]["load_average"]),
    "apportion: load average": (".1f", lambda run: run["apportion"]["load_average"]),
    "redundancy factor": (".2f", lambda run: run["apportion"]["redundancy_factor"]),
}
"""Fact to format and where it is in a run."""
CONFIRMED: dict[str, tuple[str, Read]] = {
    "plain: hypervolume of its front trained again": (
        ".4f",
        lambda run: run["confirmed"]["plain"]["hypervolume"],
    ),
    "apportion: the same": (".4f", lambda run: run["confirmed"]["apportion"]["hypervolume"]),
    "ratio, trained again": (".2f", lambda run: run["confirmed"]["ratio"]),
}
PARTS = {"plain": "plain script", "apportion": "apportion"}


def columns(runs: Sequence[Facts]) -> dict[str, tuple[str, Read]]:
    """Return the facts that all runs have."""
    return COLUMNS | (CONFIRMED if all("confirmed" in run for run in runs) else {})


def summary(runs: Sequence[Facts]) -> dict[str, dict[str, float | str]]:
    """Return median and range of each fact over the seeds; infinite ones as the word never."""
    found = {}
    for name, (_, read) in columns(runs).items():
        values = median_and_range([read(run) for run in runs])
        words = [value if math.isfinite(value) else "never" for value in values]
        found[name] = dict(zip(("median", "smallest", "largest"), words, strict=True))
    return found


def markdown(report: Facts) -> str:
    """Return a page: what was run, one line per fact with a column per seed, and where the seconds went."""
    runs, study = report["runs"], report["study"]
    lines = [
        f"# {study['name']}: plain script against apportion ({report['sampler']})",
        "",
        f"{report['date']}, {report['machine']['cpu']}, {report['machine']['n_usable_cpus']} CPUs, "
        f"{study['concurrent_trials']} trials at a time, {report['n_trials']} trials of the plain script.",
        "",
        "| | " + " | ".join([f"seed {run['seed']}" for run in runs] + ["median", "range"]) + " |",
        "|---" * (len(runs) + 3) + "|",
    ]
    for name, (form, read) in columns(runs).items():
        values = [read(run) for run in runs]
        middle, low, high = median_and_range(values)
        cells = [_text(value, form) for value in (*values, middle)]
        lines.append(
            f"| {name} | " + " | ".join(cells) + f" | {_text(low, form)} to {_text(high, form)} |"
        )
    lines += ["", "Seconds of all workers together, first to last trial:", ""]
    for side, title in PARTS.items():
        for run in runs:
            parts = run[side]["seconds_by_part"]
            total = sum(parts.values()) or 1.0
            shares = ", ".join(
                f"{part} {value:.1f} ({value / total:.0%})" for part, value in parts.items()
            )
            first = run[side]["first_score_seconds"]
            lines.append(
                f"- {title}, seed {run['seed']}: {shares}; first score after {first:.1f} s, "
                f"{run[side]['tokens']:,} tokens trained"
            )
    return "\n".join(lines) + "\n"


def _text(value: float | None, form: str) -> str:
    return "never" if value is None or math.isinf(value) else format(value, form)
