"""Where a trial moved the model, for a terminal, from 80 columns on."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.cli.explain_text import say
from search.moved.records import (
    Cell,
    Group,
    Moved,
    StageMoved,
    by_kind,
    grouped,
    ordered_kinds,
)
from search.moved.sentences import percent, sentences
from search.report.numbers import count_text, number_text

MOST_ROWS = 32
"""Layers of a deeper model are shown in bands."""
MOST_KINDS = 8
"""Columns that fit; of more, those that moved most."""
BARS = " ▁▂▃▄▅▆▇█"
_RANKS = (
    "Effective rank of the change (exp of the entropy of its squared singular values), and after / the stable rank; "
    "means over layers, weighted by the change."
)
_PAIRS = (
    "cosine of the two changes, ± what unrelated ones have (1 sd); taken back: share of the earlier change that the "
    "later one undoes, below 0 repeats; common: share of it in weights that both move; input, output: overlap of "
    "their leading directions, in brackets that of random ones."
)


def print_moved(console: Console, moved: Moved) -> None:
    """Print a heat map per stage, ranks, what stages share, and what follows."""
    say(console, "trial", f"{moved.trial}: {moved.recipe}")
    for stage in moved.stages:
        _print_heat_map(console, moved, stage)
    if any(stage.whole.effective_rank is not None for stage in moved.stages):
        console.print()
        console.print(_ranks(moved))
        console.print(Text(_RANKS))
    if moved.pairs:
        console.print()
        console.print(_pairs(moved))
        console.print(Text(_PAIRS))
    console.print()
    for line in sentences(moved):
        say(console, "so", line)
    if moved.n_prompts:
        say(
            console,
            "probes",
            f"{count_text(moved.n_prompts, 'prompt')} with {moved.n_tokens:,} tokens from {moved.prompts_from}",
        )


def _print_heat_map(console: Console, moved: Moved, stage: StageMoved) -> None:
    kinds = _shown_kinds(stage)
    bands = _bands(moved.n_layers)
    cells = grouped(stage.cells, lambda cell: _band_and_kind(cell, bands, kinds))
    layers = grouped(stage.cells, lambda cell: _band(cell, bands))
    ends = grouped(stage.cells, lambda cell: cell.kind if cell.layer is None else None)
    sizes = [group.size for group in (*cells.values(), *layers.values(), *ends.values())]
    largest = max((size for size in sizes if size is not None), default=0.0)
    unit, factor = ("%", 100.0) if largest >= 1e-3 else ("millionths", 1e6)
    whole = stage.whole
    size = "" if whole.size is None else f": {percent(whole.size)} in all"
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for kind in (*kinds, "all"):
        table.add_column(Text(kind), justify="right", no_wrap=True)
    states = stage.activations
    if states is not None:
        table.add_column("state", justify="right", no_wrap=True)

    def number(group: Group | None) -> Text:
        return _cell(group, largest, factor)

    def state(values: tuple[float, ...]) -> list[Text]:
        return [Text(percent(sum(values) / len(values)))]

    blank = [Text("")] * len(kinds)
    if "embeddings" in ends:
        first = state(states.from_before[:1]) if states else []
        table.add_row(_short("embeddings"), *blank, number(ends["embeddings"]), *first)
    for at, band in enumerate(bands):
        row = [number(cells.get((at, kind))) for kind in kinds]
        after = state(states.from_before[1:][band.start : band.stop]) if states else []
        name = str(band.start) if len(band) == 1 else f"{band.start}-{band.stop - 1}"
        table.add_row(name, *row, number(layers.get(at)), *after)
    for kind in ordered_kinds(ends):
        if kind != "embeddings" and ends[kind].square:
            table.add_row(_short(kind), *blank, number(ends[kind]))
    console.print()
    console.print(Text(f"stage {stage.number}  {stage.label}{size}", style="bold"))
    console.print(table)
    console.print(Text(_caption(stage, unit, kinds)))


def _caption(stage: StageMoved, unit: str, kinds: tuple[str, ...]) -> str:
    moved = by_kind(stage)
    text = f"Norm of the change over that of the base's weights, in {unit}."
    if stage.activations is not None:
        text += " state: change of hidden states on the probe prompts."
    still = [kind for kind in ordered_kinds(moved) if not moved[kind].square]
    if still:
        text += f" Did not move: {', '.join(still)}."
    left_out = [
        kind
        for kind in ordered_kinds(moved)
        if moved[kind].square and kind not in (*kinds, "embeddings", "head")
    ]
    if left_out:
        text += f" Without columns: {', '.join(left_out)}."
    return text


def _shown_kinds(stage: StageMoved) -> tuple[str, ...]:
    inside = grouped(stage.cells, lambda cell: cell.kind if cell.layer is not None else None)
    moved = [kind for kind, group in inside.items() if group.square]
    most = sorted(moved, key=lambda kind: -inside[kind].square)[:MOST_KINDS]
    return ordered_kinds(most)


def _bands(n_layers: int) -> list[range]:
    step = math.ceil(n_layers / MOST_ROWS) or 1
    return [range(at, min(at + step, n_layers)) for at in range(0, n_layers, step)]


def _band(cell: Cell, bands: list[range]) -> int | None:
    return None if cell.layer is None else cell.layer // len(bands[0])


def _band_and_kind(
    cell: Cell, bands: list[range], kinds: tuple[str, ...]
) -> tuple[int, str] | None:
    band = _band(cell, bands)
    return None if band is None or cell.kind not in kinds else (band, cell.kind)


def _cell(group: Group | None, largest: float, factor: float) -> Text:
    if group is None:
        return Text("")
    if group.size is None:
        return Text("?" if group.square else ".")
    if not group.square:
        return Text(". ", style="dim")
    n_decimals = max(0, 1 - math.floor(math.log10(largest * factor))) if largest else 0
    level = math.ceil(group.size / largest * (len(BARS) - 1))
    return Text(f"{group.size * factor:.{n_decimals}f}{BARS[level]}")


def _ranks(moved: Moved) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", no_wrap=True)
    found = [by_kind(stage) for stage in moved.stages]
    kinds = [
        kind
        for kind in moved.kinds
        if any(own[kind].effective_rank is not None for own in found if kind in own)
    ]
    for kind in kinds:
        table.add_column(Text(_short(kind)), justify="right", overflow="fold")
    for stage, own in zip(moved.stages, found, strict=True):
        table.add_row(
            Text(f"{stage.number} {stage.influence}"),
            *(_rank_text(own.get(kind)) for kind in kinds),
        )
    return table


def _rank_text(group: Group | None) -> str:
    if group is None or group.effective_rank is None or group.stable_rank is None:
        return "."
    one, other = (
        f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
        for value in (group.effective_rank, group.stable_rank)
    )
    return f"{one}/{other}"


def _pairs(moved: Moved) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stages", no_wrap=True)
    for title in ("cosine", "taken back", "common", "input", "output"):
        table.add_column(title, justify="right", overflow="fold")
    for pair in moved.pairs:
        if pair.cosine is None or pair.cosine_sd is None or pair.taken_back is None:
            table.add_row(f"{pair.second} on {pair.first}", ".", ".", ".", ".", ".")
            continue
        table.add_row(
            f"{pair.second} on {pair.first}",
            f"{pair.cosine:.3f}±{number_text(pair.cosine_sd)}",
            percent(pair.taken_back),
            percent(pair.shared or 0.0),
            _overlap_text(pair.right, pair.right_chance),
            _overlap_text(pair.left, pair.left_chance),
        )
    return table


def _overlap_text(value: float | None, chance: float | None) -> str:
    return "." if value is None or chance is None else f"{value:.2f} ({chance:.2f})"


def _short(kind: str) -> str:
    return {"embeddings": "embed", "norms": "norm"}.get(kind, kind)
