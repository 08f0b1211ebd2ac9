"""Where a trial moved the model, as a PNG: a heat map per stage, layers by kinds. No browser, no display."""

from __future__ import annotations

import io
import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from search.moved.records import Moved, StageMoved, grouped
from search.moved.sentences import percent

_INK = "#22272e"
MOST_NUMBERS = 40
"""Layers up to which each field has its number."""


def moved_png(moved: Moved) -> bytes:
    """Return the heat maps of all stages side by side, on one scale of colours."""
    maps = [_map(moved, stage) for stage in moved.stages]
    kinds = maps[0][1]
    largest = max(
        (float(np.nanmax(sizes)) for sizes, _ in maps if np.isfinite(sizes).any()), default=0
    )
    width = 1.2 + len(maps) * (0.62 * len(kinds) + 0.4)
    height = min(60.0, 1.6 + 0.24 * moved.n_layers)
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"trial {moved.trial}: size of the change, % of the base's weights", color=_INK)
    for at, (stage, (sizes_LK, _)) in enumerate(zip(moved.stages, maps, strict=True)):
        axes = figure.add_subplot(1, len(maps), at + 1)
        image = axes.imshow(
            100 * sizes_LK, cmap="Blues", vmin=0, vmax=100 * largest or 1, aspect="auto"
        )
        axes.set_xticks(range(len(kinds)), kinds, rotation=45, ha="right", color=_INK)
        axes.set_yticks(range(moved.n_layers))
        axes.tick_params(labelsize=7)
        size = stage.whole.size
        told = "" if size is None else f"\n{percent(size)} in all"
        axes.set_title(f"{stage.number} {stage.influence}{told}", fontsize=9, color=_INK)
        if at == 0:
            axes.set_ylabel("layer", color=_INK)
        if moved.n_layers <= MOST_NUMBERS:
            _write_numbers(axes, sizes_LK, largest)
    figure.colorbar(image, ax=figure.axes, shrink=0.6, label="%")
    text = io.BytesIO()
    figure.savefig(text, format="png", metadata={"Software": None})
    return text.getvalue()


def _map(moved: Moved, stage: StageMoved) -> tuple[np.ndarray, list[str]]:
    """Return sizes by layer and kind, nan where the model has no such weights, and the kinds."""
    inside = {cell.kind for cell in stage.cells if cell.layer is not None}
    kinds = [kind for kind in moved.kinds if kind in inside]
    groups = grouped(
        stage.cells, lambda cell: None if cell.layer is None else (cell.layer, cell.kind)
    )
    sizes_LK = np.full((moved.n_layers, len(kinds)), np.nan)
    for (layer, kind), group in groups.items():
        sizes_LK[layer, kinds.index(kind)] = math.nan if group.size is None else group.size
    return sizes_LK, kinds


def _write_numbers(axes: object, sizes_LK: np.ndarray, largest: float) -> None:
    for (layer, kind), size in np.ndenumerate(sizes_LK):
        if np.isfinite(size):
            ink = "white" if largest and size > 0.6 * largest else _INK
            text = f"{100 * size:.2g}" if size else "0"
            axes.text(kind, layer, text, ha="center", va="center", fontsize=6, color=ink)  # type: ignore[attr-defined]
