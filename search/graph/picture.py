"""A graph drawn with matplotlib, as SVG or PNG: no browser, no display.

Rows run downwards, the model's own nodes in the middle. On their left are terms of joint stages and branches, on
their right adapters that outlive their stage, and scores on the far right. Sizes are in points; y grows downwards.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from search.graph.build import Edge, Graph, Node

_INK, _QUIET, _PAPER = "#22272e", "#6b7580", "#ffffff"
_FILLS = {
    "base": "#e3e6ea",
    "stage": "#dcecf6",
    "result": "#e3e6ea",
    "term": "#fdf0e3",
    "branch": "#dcecf6",
    "adapter": "#e6f3e6",
    "aside": "#e6f3e6",
    "scores": "#ffffff",
}
_COLUMNS = {
    "term": 0,
    "branch": 0,
    "base": 1,
    "stage": 1,
    "result": 1,
    "adapter": 2,
    "aside": 2,
    "scores": 3,
}
_SIZE, _LINE, _PAD, _TITLE = 9.0, 13.0, 8.0, 30.0
_ROW_GAP, _NODE_GAP, _MARGIN = 38.0, 10.0, 16.0
_COLUMN_GAPS = (70.0, 120.0, 50.0)
"""Between the four columns; the widest holds the labels of an adapter's edges."""
_MAX_DPI_SIDE = 20_000
"""Pixels of a side of a PNG; Agg draws at most 65,536."""


@dataclass(frozen=True)
class Box:
    """Where a node is drawn."""

    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """x of its middle."""
        return self.left + self.width / 2

    @property
    def centre(self) -> float:
        """y of its middle."""
        return self.top + self.height / 2

    @property
    def right(self) -> float:
        """x of its right side."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """y of its lower side."""
        return self.top + self.height


def graph_picture(graph: Graph, form: Literal["svg", "png"]) -> bytes:
    """Return the graph as a picture; equal graphs give equal bytes."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    figure = Figure(dpi=72)
    canvas: Any = FigureCanvasAgg(figure)
    with warnings.catch_warnings(), matplotlib.rc_context(_SETTINGS):
        warnings.filterwarnings("ignore", message="Glyph")  # A name in letters that the font lacks.
        boxes, width, height = _layout(graph, canvas.get_renderer())
        figure.set_size_inches(width / 72, height / 72)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_axis_off()
        _write(
            axes, _MARGIN, _MARGIN + _LINE / 2, graph.title, color=_INK, ha="left", weight="bold"
        )
        kinds = {node.key: str(node.kind) for node in graph.nodes}
        for edge in graph.edges:
            _draw_edge(axes, edge, boxes, kinds)
        for node in graph.nodes:
            _draw_node(axes, node, boxes[node.key])
        stream = io.BytesIO()
        if form == "svg":
            figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        else:
            dpi = min(144.0, _MAX_DPI_SIDE / (max(width, height) / 72))
            figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "apportion", "font.family": "DejaVu Sans"}


def _layout(graph: Graph, renderer: Any) -> tuple[dict[str, Box], float, float]:
    """Return boxes by key, and width and height of the whole."""
    fonts = [FontProperties(size=_SIZE), FontProperties(size=_SIZE, weight="bold")]
    sizes: dict[str, tuple[float, float]] = {}
    widths = [0.0] * 4
    for node in graph.nodes:
        texts = [
            renderer.get_text_width_height_descent(line, fonts[at == 0], ismath=False)[0]
            for at, line in enumerate(node.lines)
        ]
        sizes[node.key] = (max(texts) + 2 * _PAD, len(node.lines) * _LINE + 2 * _PAD)
        column = _COLUMNS[node.kind]
        widths[column] = max(widths[column], sizes[node.key][0])
    lefts, left = [], _MARGIN
    for column, width in enumerate(widths):
        lefts.append(left)
        if width:
            left += width + (
                _COLUMN_GAPS[column] if column < 3 and any(widths[column + 1 :]) else 0
            )
    boxes: dict[str, Box] = {}
    top = _MARGIN + _TITLE
    for row in range(max(node.row for node in graph.nodes) + 1):
        members = [node for node in graph.nodes if node.row == row]
        by_column: dict[int, list[Node]] = {}
        for node in members:
            by_column.setdefault(_COLUMNS[node.kind], []).append(node)
        heights = {
            column: sum(sizes[node.key][1] for node in nodes) + _NODE_GAP * (len(nodes) - 1)
            for column, nodes in by_column.items()
        }
        tallest = max(heights.values())
        for column, nodes in by_column.items():
            y = top + (tallest - heights[column]) / 2
            for node in nodes:
                width, height = sizes[node.key]
                x = lefts[column] + (widths[column] - width) / 2 if column == 1 else lefts[column]
                boxes[node.key] = Box(x, y, width, height)
                y += height + _NODE_GAP
        top += tallest + _ROW_GAP
    title, _, _ = renderer.get_text_width_height_descent(graph.title, fonts[1], ismath=False)
    width = max(left, title + _MARGIN) + _MARGIN
    return boxes, width, top - _ROW_GAP + _MARGIN


def _draw_node(axes: Any, node: Node, box: Box) -> None:
    is_round = node.kind in ("base", "result")
    axes.add_patch(
        FancyBboxPatch(
            (box.left, box.top),
            box.width,
            box.height,
            boxstyle=f"round,pad=0,rounding_size={12 if is_round else 3}",
            facecolor=_FILLS[node.kind] if node.is_done else _PAPER,
            edgecolor=_QUIET if node.kind == "scores" or not node.is_done else _INK,
            linewidth=0.8,
            linestyle="solid" if node.is_done and node.kind != "aside" else (0, (4, 3)),
            zorder=2,
        )
    )
    for at, line in enumerate(node.lines):
        y = box.top + _PAD + (at + 0.5) * _LINE
        is_heading = at == 0 or (node.kind == "scores" and line == "holdout")
        color = _INK if node.is_done else _QUIET
        weight = "bold" if is_heading else "normal"
        _write(axes, box.left + _PAD, y, line, color=color, ha="left", weight=weight)


def _draw_edge(axes: Any, edge: Edge, boxes: dict[str, Box], kinds: dict[str, str]) -> None:
    source, target = boxes[edge.source], boxes[edge.target]
    start, end = _ends(edge, source, target, (kinds[edge.source], kinds[edge.target]))
    is_model = edge.kind == "then"
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-" if edge.kind == "scores" else "-|>",
            mutation_scale=11,
            shrinkA=0,
            shrinkB=0,
            color=_INK if is_model else _QUIET,
            linewidth=1.6 if is_model else 0.9,
            linestyle=(0, (4, 3)) if edge.kind in ("aside", "scores") else "solid",
            zorder=1,
        )
    )
    if edge.label:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        patch = {"facecolor": _PAPER, "edgecolor": "none", "pad": 1.0}
        _write(axes, x, y, edge.label, color=_QUIET, ha="center", bbox=patch, size=_SIZE - 1)


def _ends(
    edge: Edge, source: Box, target: Box, kinds: tuple[str, str]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return where an edge leaves its source and meets its target, given the kinds of both nodes."""
    if kinds[1] == "branch":
        return (source.middle, source.bottom), (target.right - 10, target.top)
    if edge.kind == "then":
        return (source.middle, source.bottom), (target.middle, target.top)
    if edge.kind == "scores":
        # High enough to pass above an adapter in the same row.
        y = source.top + 8
        return (source.right, y), (target.left, min(max(y, target.top + 6), target.bottom - 6))
    if kinds[0] in ("term", "branch"):
        y = min(max(source.centre, target.top + 8), target.bottom - 8)
        return (source.right, source.centre), (target.left, y)
    if kinds[1] in ("adapter", "aside"):
        return (source.right, source.bottom - 10), (target.middle, target.top)
    if target.top > source.bottom:
        return (source.middle, source.bottom), (target.right, target.top + 14)
    return (source.left, source.centre), (target.right, source.centre)


def _write(axes: Any, x: float, y: float, text: str, size: float = _SIZE, **style: Any) -> None:
    # A name with dollar signs is no formula.
    axes.text(x, y, text, fontsize=size, va="center", parse_math=False, **style)
