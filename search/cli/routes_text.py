"""Routes side by side for a terminal, from 80 columns on."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluators.scores import Score
from search.attribution.routes import Route, Routes
from search.attribution.verdicts import effect_text
from search.cli.explain_text import say
from search.cli.output import duration
from search.report.numbers import count_text, score_text, tokens_text


def print_routes(console: Console, found: Routes, n_seeds: int) -> None:
    """Print what there is: routes as columns, scores, holdout and cost as rows."""
    first = found.routes[0]
    within = ", ".join(f"{name} ±{margin:.2g}" for name, margin in found.margins.items())
    say(console, "alike", f"within {within}, by two one-sided tests at 5 % each")
    n_others = found.n_equivalent - 1
    text = f"{count_text(n_others, 'other trial')} of {found.n_candidates} shown to score like trial {first.trial}"
    if found.n_undecided:
        text += f"; {count_text(found.n_undecided, 'more', 'more')} within the margins, but noise may hide differences"
    say(console, "found", text)
    if n_seeds < 2:
        say(
            console,
            "noise",
            "intervals are from items alone, and not from trainings with other seeds",
        )
    for route in found.routes:
        say(console, f"trial {route.trial}", route.recipe)
    console.print()
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold", min_width=16)
    for route in found.routes:
        table.add_column(f"trial {route.trial}", justify="right", no_wrap=True)
    for name in dict.fromkeys(score.name for route in found.routes for score in route.scores):
        mark = " *" if name in found.margins else ""
        table.add_row(Text(f"{name}{mark}"), *(_cell(route.scores, name) for route in found.routes))
    for name in dict.fromkeys(score.name for route in found.routes for score in route.holdout):
        cells = (_cell(route.holdout, name) for route in found.routes)
        table.add_row(Text(f"holdout {name}"), *cells)
    table.add_row("dose", *(tokens_text(route.dose_tokens) for route in found.routes))
    table.add_row("training", *(duration(route.train_seconds) for route in found.routes))
    table.add_row("distance", *(_distance(route) for route in found.routes))
    console.print(table)
    say(
        console, "", "* matched. Distance: from the nearest route to the left, 0 (made alike) to 1."
    )
    for route in found.routes[1:]:
        changes = (f"{name} {effect_text(each)}" for name, each in route.differences.items())
        say(console, "so", f"trial {route.trial} for trial {first.trial}: {', '.join(changes)}.")


def _cell(scores: tuple[Score, ...], name: str) -> Text:
    score = next((score for score in scores if score.name == name), None)
    # Without blanks: a narrow terminal would break the line there.
    return Text(score_text(score).replace(" ", ""))


def _distance(route: Route) -> str:
    return "" if route.distance is None else f"{route.distance.total:.2f}"
