"""Where a trial moved the model, for a terminal, from 80 columns on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.cli.explain_text import say
from search.moved.heat import HeatMap, heat_map
from search.moved.records import Group, Moved
from search.moved.sentences import percent, sentences
from search.moved.tables import PAIR_HEAD, PAIRS, RANKS, pair_rows, rank_table
from search.report.numbers import count_text

MOST_ROWS, MOST_KINDS = 32, 8
"""What fits a terminal."""
BARS = " ▁▂▃▄▅▆▇█"


def print_moved(console: Console, moved: Moved) -> None:
    """Print a heat map per stage, ranks, what stages share, and what follows."""
    say(console, "trial", f"{moved.trial}: {moved.recipe}")
    for stage in moved.stages:
        _print_heat_map(console, heat_map(moved, stage, MOST_ROWS, MOST_KINDS))
    head, rows = rank_table(moved)
    _print_table(console, head, rows, RANKS)
    _print_table(console, PAIR_HEAD, pair_rows(moved), PAIRS)
    console.print()
    for line in sentences(moved):
        say(console, "so", line)
    if moved.n_prompts:
        say(
            console,
            "probes",
            f"{count_text(moved.n_prompts, 'prompt')} with {moved.n_tokens:,} tokens from {moved.prompts_from}",
        )


def _print_heat_map(console: Console, heat: HeatMap) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    has_states = any(row.state is not None for row in heat.rows)
    for title in (*heat.kinds, "all", *(["state"] if has_states else [])):
        table.add_column(Text(title), justify="right", no_wrap=True)
    for row in heat.rows:
        cells = [_cell(heat, group) for group in (*row.cells, row.whole)]
        state = Text("" if row.state is None else percent(row.state))
        table.add_row(row.name, *cells, *([state] if has_states else []))
    console.print()
    console.print(Text(heat.title, style="bold"))
    console.print(table)
    console.print(Text(heat.caption))


def _cell(heat: HeatMap, group: Group | None) -> Text:
    text = heat.number(group, figures=2)
    if not text:
        return Text("")
    level = math.ceil(heat.heat(group) * (len(BARS) - 1))
    return Text(f"{text}{BARS[level]}", style="dim" if text == "." else "")


def _print_table(
    console: Console, head: Sequence[str], rows: Sequence[Sequence[str]], caption: str
) -> None:
    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for at, title in enumerate(head):
        table.add_column(Text(title), justify="right" if at else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print()
    console.print(table)
    console.print(Text(caption))
