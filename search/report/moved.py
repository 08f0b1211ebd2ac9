"""The section of the report on where trials moved the model, from what `apportion moved` kept. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.explanations import ExplanationFolder
from search.folders import StudyFolder
from search.moved.heat import HeatMap, heat_map
from search.moved.records import Moved
from search.moved.sentences import percent, sentences
from search.moved.tables import PAIR_HEAD, PAIRS, RANKS, pair_rows, rank_table
from search.records import TrialRecord
from search.report.markdown_text import escaped, table

MOST_TRIALS = 12
"""Trials with heat maps; the others are named."""
MOST_ROWS, MOST_KINDS = 48, 14
"""Layers, above which they come in bands, and kinds of weight."""
HOW = (
    "Measured with apportion moved, by comparing the stored model before and after each stage. Where a stage acts is "
    "not what it does: the scores after each stage say that."
)


def moved_trials(folder: StudyFolder, trials: Mapping[int, TrialRecord]) -> list[Moved]:
    """Return what was measured of trials that are still what they were then, by number."""
    kept = [
        moved
        for moved in ExplanationFolder(folder).all_moved()
        if moved.trial in trials
        and moved.stages
        and [stage.label for stage in moved.stages]
        == [done.stage.label for done in trials[moved.trial].stages]
    ]
    return sorted(kept, key=lambda moved: moved.trial)


def moved_values(trials: list[Moved]) -> dict[str, Any] | None:
    """Return what the template needs as plain values; None where nothing was measured."""
    if not trials:
        return None
    return {
        "moved_how": HOW,
        "moved": [_trial(moved) for moved in trials[:MOST_TRIALS]],
        "moved_left_out": [moved.trial for moved in trials[MOST_TRIALS:]],
    }


def moved_markdown(trials: list[Moved]) -> list[str]:
    """Return the section as Markdown paragraphs; none where nothing was measured."""
    if not trials:
        return []
    parts = ["## Where it moved", HOW]
    for moved in trials[:MOST_TRIALS]:
        parts.append(f"### Trial {moved.trial}: {escaped(moved.recipe)}")
        parts.append("\n".join(f"- {escaped(line)}" for line in sentences(moved)))
        rows = [list(map(escaped, row)) for row in pair_rows(moved)]
        if rows:
            parts += [table(list(PAIR_HEAD), rows), escaped(PAIRS)]
    return parts


def _trial(moved: Moved) -> dict[str, Any]:
    rank_head, ranks = rank_table(moved)
    maps = [heat_map(moved, stage, MOST_ROWS, MOST_KINDS) for stage in moved.stages]
    return {
        "trial": moved.trial,
        "recipe": moved.recipe,
        "sentences": sentences(moved),
        "maps": [_map(heat) for heat in maps],
        "rank_head": rank_head,
        "ranks": ranks,
        "rank_caption": RANKS,
        "pair_head": PAIR_HEAD,
        "pairs": pair_rows(moved),
        "pair_caption": PAIRS,
        "probes": f"{moved.n_prompts} prompts with {moved.n_tokens:,} tokens from {moved.prompts_from}"
        if moved.n_prompts
        else "",
    }


def _map(heat: HeatMap) -> dict[str, Any]:
    states = [row.state for row in heat.rows if row.state is not None]
    hottest = max(states, default=0.0)
    return {
        "title": heat.title,
        "kinds": heat.kinds,
        "caption": heat.caption,
        "has_states": bool(states),
        "rows": [
            {
                "name": row.name,
                "cells": [
                    {"text": heat.number(group), "heat": round(60 * heat.heat(group))}
                    for group in (*row.cells, row.whole)
                ],
                "state": "" if row.state is None else percent(row.state),
                "state_heat": round(60 * (row.state or 0.0) / hottest) if hottest else 0,
            }
            for row in heat.rows
        ],
    }
