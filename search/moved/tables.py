"""Ranks of the changes, and what each two stages share, as tables of text. No torch."""

from __future__ import annotations

from search.moved.heat import SHORT
from search.moved.records import Group, Moved, by_kind
from search.moved.sentences import cosine_text, percent

RANKS = (
    "Effective rank of the change (exp of the entropy of its squared singular values), and after / the stable rank; "
    "means over layers, weighted by the change."
)
PAIRS = (
    "cosine of the two changes, ± what unrelated ones have (1 sd); taken back: share of the earlier change that the "
    "later one undoes, below 0 repeats; common: share of it in weights that both move; input, output: overlap of "
    "their leading directions, in brackets that of random ones."
)
PAIR_HEAD = ("stages", "cosine", "taken back", "common", "input", "output")


def rank_table(moved: Moved) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows: a row per stage, a column per kind of weight that has a rank."""
    found = [by_kind(stage) for stage in moved.stages]
    kinds = [
        kind
        for kind in moved.kinds
        if any(own[kind].effective_rank is not None for own in found if kind in own)
    ]
    rows = [
        [f"{stage.number} {stage.influence}", *(_rank_text(own.get(kind)) for kind in kinds)]
        for stage, own in zip(moved.stages, found, strict=True)
    ]
    return ["rank", *(SHORT.get(kind, kind) for kind in kinds)], rows if kinds else []


def pair_rows(moved: Moved) -> list[list[str]]:
    """Return a row per two stages, under `PAIR_HEAD`."""
    rows = []
    for pair in moved.pairs:
        cells = ["."] * 5
        if pair.cosine is not None and pair.cosine_sd is not None and pair.taken_back is not None:
            cells = [
                f"{cosine_text(pair.cosine)}±{pair.cosine_sd:.1g}",
                percent(pair.taken_back),
                percent(pair.shared or 0.0),
                _overlap_text(pair.right, pair.right_chance),
                _overlap_text(pair.left, pair.left_chance),
            ]
        rows.append([f"{pair.second} on {pair.first}", *cells])
    return rows


def _rank_text(group: Group | None) -> str:
    if group is None or group.effective_rank is None or group.stable_rank is None:
        return "."
    one, other = (
        f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
        for value in (group.effective_rank, group.stable_rank)
    )
    return f"{one}/{other}"


def _overlap_text(value: float | None, chance: float | None) -> str:
    return "." if value is None or chance is None else f"{value:.2f} ({chance:.2f})"
