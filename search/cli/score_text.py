"""The scores of one model, for a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from search.cli.compare_text import score_text
from search.cli.explain_text import ARROWS
from search.measuring import Scored


def scores_alone(scored: Scored) -> Table:
    """Return a table of scores with their intervals; why one is missing stands beside it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("score", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("items", justify="right")
    table.add_column("", overflow="fold")
    for result, held in ((scored.suite, ""), (scored.holdout, " (holdout)")):
        for score in result.scores:
            table.add_row(
                Text(f"{score.name} {ARROWS[score.direction]}{held}"),
                score_text(score.value, score.stderr),
                f"{score.n:,}",
                Text(score.reason or ""),
            )
    return table
