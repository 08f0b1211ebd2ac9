"""How long does `apportion report` take on a large study? Made-up records, real report.

    python tests/benchmarks/bench_report.py [--trials 2000] [--objectives 3] [--repeats 3]

Prints wall and CPU seconds of each report, and of its parts; one process with everything imported. Target: 5 s for
2,000 trials with three objectives.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from report_fixture import write_study

from search.report.html import report_html
from search.report.markdown import report_markdown
from search.report.picture import front_png
from search.report.tables import front_csv, trials_csv
from search.report.view import StudyView, load_view
from search.report.write import write_report

PARTS: dict[str, Callable[[StudyView], object]] = {
    "trials.csv": trials_csv,
    "front.csv": front_csv,
    "report.md": report_markdown,
    "front.png": front_png,
    "report.html": report_html,
}


def say(what: str, action: Callable[[], object]) -> None:
    """Run an action and print its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:28} {wall:6.2f} s wall {cpu:6.2f} s CPU", flush=True)


def main() -> None:
    """Time reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--objectives", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "study"
        write_study(folder, options.trials, options.objectives)
        print(f"{options.trials} trials, {options.objectives} objectives")
        for number in range(options.repeats):
            say(f"report {number + 1}", lambda: write_report(folder))
        say("of that reading the folder", lambda: load_view(folder))
        view = load_view(folder)
        for part, make in PARTS.items():
            say(f"of that {part}", lambda make=make: make(view))  # type: ignore[misc]


if __name__ == "__main__":
    main()
