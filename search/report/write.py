"""Write the report of a results folder: `write_report(Path("results/inner_voice"))`."""

from __future__ import annotations

from pathlib import Path

from search.folders import write_whole, write_whole_bytes
from search.report.analysis import Analysis
from search.report.html import report_html
from search.report.markdown import report_markdown
from search.report.picture import front_png
from search.report.tables import front_csv, trials_csv
from search.report.view import load_view


def write_report(folder: Path) -> Path:
    """Write report.html, report.md, front.csv, trials.csv and front.png into `folder`/report.

    Each file appears whole; a reader never sees half of one. Works on a study that is running.

    Returns:
        The path of report.html.

    Raises:
        StudyError: The folder is no results folder, or a record is damaged.
        SpecError: study.yaml is wrong.
    """
    view = load_view(folder)
    analysis = Analysis(view)
    report = view.files.report
    report.mkdir(parents=True, exist_ok=True)
    write_whole(report / "trials.csv", trials_csv(view))
    write_whole(report / "front.csv", front_csv(view))
    write_whole(report / "report.md", report_markdown(view, analysis))
    write_whole_bytes(report / "front.png", front_png(view))
    write_whole(report / "report.html", report_html(view, analysis))
    return report / "report.html"
