"""The heat map of one stage, as rows and columns that a terminal and a page show alike. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from search.moved.records import Cell, Group, Moved, StageMoved, by_kind, grouped, ordered_kinds
from search.moved.sentences import percent

SHORT = {"embeddings": "embed", "norms": "norm"}
"""Names of kinds where space is short."""


@dataclass(frozen=True)
class HeatRow:
    """A band of layers, or the weights of one kind outside the layers."""

    name: str
    """Such as `3`, `4-7`, `embed`."""
    cells: tuple[Group | None, ...]
    """One per column; None where the model has no such weights there."""
    whole: Group | None
    """All kinds together."""
    state: float | None
    """Relative change of the hidden states after these layers, the mean over them; None where that was not measured."""


@dataclass(frozen=True)
class HeatMap:
    """How a stage moved the weights, by layer and kind."""

    title: str
    """The stage, with what it moved in all."""
    kinds: tuple[str, ...]
    """Columns: kinds that moved inside the layers."""
    rows: tuple[HeatRow, ...]
    """From the embeddings upwards."""
    largest: float
    """Largest size of any field; 0 where none is known."""
    unit: str
    """Of the numbers that `number` gives: `%`, or `millionths`."""
    caption: str
    """How to read it, and what has no field."""

    def number(self, group: Group | None, figures: int = 3) -> str:
        """Return a size in the map's unit; `.` for what did not move.

        Args:
            group: What moved.
            figures: Of the largest number; all have as many decimals.
        """
        if group is None:
            return ""
        if not group.square:
            return "."
        if group.size is None:
            return "?"
        factor = 100.0 if self.unit == "%" else 1e6
        n_decimals = max(0, figures - 1 - math.floor(math.log10(self.largest * factor)))
        return f"{group.size * factor:.{n_decimals}f}"

    def heat(self, group: Group | None) -> float:
        """Return a size as a share of the largest, in [0, 1]."""
        if group is None or group.size is None or not self.largest:
            return 0.0
        return group.size / self.largest


def heat_map(moved: Moved, stage: StageMoved, most_rows: int, most_kinds: int) -> HeatMap:
    """Return the heat map of a stage.

    Args:
        moved: The trial's.
        stage: One of its stages.
        most_rows: Deeper models are shown in bands of layers.
        most_kinds: Of more kinds than that, those that moved most are shown.
    """
    inside = grouped(stage.cells, lambda cell: cell.kind if cell.layer is not None else None)
    found = sorted(
        (kind for kind in inside if inside[kind].square), key=lambda k: -inside[k].square
    )
    kinds = ordered_kinds(found[:most_kinds])
    step = math.ceil(moved.n_layers / most_rows) or 1
    bands = [range(at, min(at + step, moved.n_layers)) for at in range(0, moved.n_layers, step)]

    def band(cell: Cell) -> int | None:
        return None if cell.layer is None else cell.layer // step

    def field(cell: Cell) -> tuple[int, str] | None:
        at = band(cell)
        return None if at is None else (at, cell.kind)

    fields, layers = grouped(stage.cells, field), grouped(stage.cells, band)
    ends = grouped(stage.cells, lambda cell: cell.kind if cell.layer is None else None)
    states = stage.activations.from_before if stage.activations else ()
    rows = [
        HeatRow(
            name=str(each.start) if len(each) == 1 else f"{each.start}-{each.stop - 1}",
            cells=tuple(fields.get((at, kind)) for kind in kinds),
            whole=layers.get(at),
            state=_mean(states[1:][each.start : each.stop]),
        )
        for at, each in enumerate(bands)
    ]
    for kind in ordered_kinds(ends):
        blank = (None,) * len(kinds)
        if kind == "embeddings":
            rows.insert(0, HeatRow(SHORT[kind], blank, ends[kind], _mean(states[:1])))
        elif ends[kind].square:
            rows.append(HeatRow(SHORT.get(kind, kind), blank, ends[kind], None))
    groups = [group for row in rows for group in (*row.cells, row.whole) if group is not None]
    largest = max((group.size for group in groups if group.size is not None), default=0.0)
    size = stage.whole.size
    unit = "%" if largest >= 1e-3 else "millionths"
    return HeatMap(
        title=f"stage {stage.number}  {stage.label}"
        + ("" if size is None else f": {percent(size)} in all"),
        kinds=kinds,
        rows=tuple(rows),
        largest=largest,
        unit=unit,
        caption=_caption(stage, unit, kinds),
    )


def _mean(values: tuple[float, ...]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _caption(stage: StageMoved, unit: str, kinds: tuple[str, ...]) -> str:
    moved = by_kind(stage)
    text = f"Norm of the change over that of the base's weights, in {unit}."
    if stage.activations is not None:
        text += " state: change of hidden states on the probe prompts."
    still = [kind for kind in ordered_kinds(moved) if not moved[kind].square]
    if still:
        text += f" Did not move: {', '.join(still)}."
    shown = (*kinds, *(cell.kind for cell in stage.cells if cell.layer is None))
    left_out = [k for k in ordered_kinds(moved) if moved[k].square and k not in shown]
    if left_out:
        text += f" Without columns: {', '.join(left_out)}."
    return text
