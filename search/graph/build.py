"""Recipe, and what a trial made of it, as nodes and edges. No torch; nothing here knows how it will be drawn.

One node for the base, one per stage and one for the resulting model, in a row of their own each. Beside them: terms of
a joint stage, branches of a parallel one, stored models of a merge, the adapters that a handoff leaves on the model or
sets aside, the scores at a boundary.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from evaluators.scores import Score
from search.messages import one_line
from search.records import Boundary, TrialRecord
from spaces.adapter import Full, LowRank, adapter_label
from spaces.loss import SETTINGS, Term, mix_text
from spaces.recipe import Branch, Merge, Parallel, Recipe, Stage

NodeKind = Literal["base", "stage", "result", "term", "branch", "adapter", "aside", "scores"]
EdgeKind = Literal["then", "aside", "joins", "scores"]
HANDOFF_WORDS = {
    "merge": "merge, folded into the weights",
    "stack": "stack, stays active and frozen",
    "detach": "detach, set aside for one stage",
    "continue": "continue, trained on",
}
MAX_CHARS, MAX_LINES = 42, 6
"""Of a text inside a node, before it is wrapped and cut."""


@dataclass(frozen=True)
class Node:
    """A box."""

    key: str
    """Unique; letters and digits."""
    kind: NodeKind
    """What it shows."""
    row: int
    """0 is the base, k the k-th stage, and the last one the resulting model."""
    lines: tuple[str, ...]
    """Its text, the heading first; printable characters only."""
    is_done: bool = True
    """False for stages that a trial did not finish."""


@dataclass(frozen=True)
class Edge:
    """An arrow."""

    source: str
    """Key of a node."""
    target: str
    """Key of a node."""
    kind: EdgeKind
    """`then` from model to model, `aside` to or past an adapter that is off, `joins` what becomes or is a part,
    `scores` to what was measured."""
    label: str = ""
    """Text on it."""


@dataclass(frozen=True)
class Graph:
    """A recipe to be drawn."""

    title: str
    """One line."""
    nodes: tuple[Node, ...]
    """By row, the model's own node first in each."""
    edges: tuple[Edge, ...]
    """Between keys of the nodes."""


def recipe_graph(
    recipe: Recipe,
    base: str,
    title: str,
    record: TrialRecord | None = None,
) -> Graph:
    """Return the graph of a recipe.

    Args:
        recipe: Stages in order; none for the untouched base.
        base: Name of the base model.
        title: What is drawn.
        record: The trial that trained it; gives scores at boundaries and what was not trained.
    """
    n_stages = len(recipe.stages)
    n_done = n_stages if record is None or record.state == "COMPLETE" else len(record.stages)
    nodes = [Node("base", "base", 0, _wrapped(["base", base]))]
    edges: list[Edge] = []
    stays: list[str] = []
    for number, stage in enumerate(recipe.stages, 1):
        before = recipe.stages[number - 2] if number > 1 else None
        is_done = number <= n_done
        beside = stays
        if before is not None and before.handoff == "detach":
            beside = stays[:-1]
        lines = _stage_lines(number, stage, beside, before)
        if not is_done:
            lines.append("not trained")
        nodes.append(Node(f"stage{number}", "stage", number, _wrapped(lines), is_done))
        parent = _key(number - 1, n_stages)
        if isinstance(stage, Stage):
            edges.append(Edge(parent, f"stage{number}", "then", _label(before)))
        for node, more in _parts(number, stage, parent):
            nodes.append(replace(node, is_done=is_done))
            edges += more
        if isinstance(stage, Stage) and _leaves_adapter(stage, is_last=number == n_stages):
            stays = [*stays, f"{stage.influence}'s {adapter_label(stage.adapter)} (stage {number})"]
            node, more = _adapter(number, stage, n_stages)
            nodes.append(replace(node, is_done=is_done))
            edges += more
    last = recipe.stages[-1] if recipe.stages else None
    result = ["model", *(f"with {text}" for text in stays)] if recipe.stages else ["model"]
    tokens = sum(stage.dose_tokens for stage in recipe.stages)
    result.append(f"{tokens:,} tokens in all" if recipe.stages else "the untouched base")
    nodes.append(Node("model", "result", n_stages + 1, _wrapped(result), n_done == n_stages))
    edges.append(Edge(_key(n_stages, n_stages), "model", "then", _label(last)))
    if record is not None:
        measured = [_scores(boundary) for boundary in record.boundaries]
        nodes += measured
        edges += [Edge(_key(node.row, n_stages), node.key, "scores") for node in measured]
    ordered = sorted(
        nodes, key=lambda node: (node.row, node.kind not in ("base", "stage", "result"))
    )
    return Graph(one_line(title), tuple(ordered), tuple(edges))


def _key(row: int, n_stages: int) -> str:
    return "base" if row == 0 else f"stage{row}" if row <= n_stages else "model"


def _label(stage: Stage | Parallel | Merge | None) -> str:
    if stage is None:
        return ""
    if not isinstance(stage, Stage):
        return "one set of weights"
    if isinstance(stage.adapter, Full):
        return "merge, the weights themselves"
    return HANDOFF_WORDS.get(stage.handoff, stage.handoff)


def _stage_lines(
    number: int,
    stage: Stage | Parallel | Merge,
    beside: Sequence[str],
    before: Stage | Parallel | Merge | None,
) -> list[str]:
    if not isinstance(stage, Stage):
        folded = [f"takes in {text}" for text in beside]
        tokens = (
            f"{stage.dose_tokens:,} tokens in its branches" if stage.dose_tokens else "no tokens"
        )
        return [f"stage {number}, {stage.influence}", stage.method_text, tokens, *folded]
    adapter = stage.adapter
    how: str = stage.method
    if stage.arbitration != "sum":
        how += f" ({stage.arbitration})"
    lines = [
        f"stage {number}, {stage.influence}",
        f"{how}, {adapter_label(adapter)}{_flags(adapter)}",
        f"on {adapter.targets}, layers {adapter.layers}",
        f"{stage.dose_tokens:,} tokens, rate {stage.learning_rate:.3g}",
        _settings(stage),
        f"mix {mix_text(stage)}" if stage.mix else "",
    ]
    if before is not None and before.handoff == "continue":
        lines.append(
            f"trains on the adapter of stage {number - 1}"
            if number
            else f"trains on the adapter of {before.influence}"
        )
        beside = [text for text in beside if f"(stage {number - 1})" not in text]
    lines += [f"beside {text}, frozen" for text in beside]
    return [line for line in lines if line]


def _flags(adapter: Full | LowRank) -> str:
    """Return the settings of an adapter that are neither defaults nor in its label, such as `, dora, init pissa`."""
    shown = {"kind", "rank", "init_rank", "target_rank", "targets", "layers"}
    told = adapter.model_dump(exclude=shown, exclude_defaults=True)
    parts = [name if value is True else f"{name} {_short(value)}" for name, value in told.items()]
    return "".join(f", {part}" for part in parts)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_short(one)}" for name, one in value.items())
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _settings(holder: Stage | Term) -> str:
    given = {name: getattr(holder, name) for name in SETTINGS}
    return ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in given.items() if value is not None
    )


def _parts(
    number: int, stage: Stage | Parallel | Merge, parent: str
) -> Iterator[tuple[Node, list[Edge]]]:
    """Yield what becomes the stage: losses, branches from the parent, or stored models."""
    if isinstance(stage, Stage):
        for loss, term in stage.terms.items():
            node, edge = _term(number, loss, term)
            yield node, [edge]
    elif isinstance(stage, Parallel):
        active = [(name, branch) for name, branch in stage.branches.items() if branch.is_active]
        for at, (name, branch) in enumerate(active, 1):
            yield _branch(number, at, name, branch, parent)
    else:
        stored = [(name, each) for name, each in stage.models.items() if each.weight]
        for at, (name, each) in enumerate(stored, 1):
            key, where = f"stage{number}model{at}", "as received"
            if each.digest is not None:
                where = f"stored stage {each.digest[:12]}"
            joins = Edge(key, f"stage{number}", "joins", f"weight {each.weight:.3g}")
            starts = [] if each.digest is not None else [Edge(parent, key, "then")]
            yield Node(key, "branch", number, _wrapped([name, where])), [*starts, joins]


def _branch(
    number: int, at: int, name: str, branch: Branch, parent: str
) -> tuple[Node, list[Edge]]:
    key = f"stage{number}branch{at}"
    lines = [f"branch {name}"]
    for place, stage in enumerate(branch.stages):
        _, *told = _stage_lines(0, stage, (), branch.stages[place - 1] if place else None)
        lines += [f"{place + 1}. {stage.influence}", *told]
    if not branch.stages:
        lines.append("the model as received")
    joins = Edge(key, f"stage{number}", "joins", f"weight {branch.weight:.3g}")
    return Node(key, "branch", number, _wrapped(lines)), [Edge(parent, key, "then"), joins]


def _term(number: int, name: str, term: Term) -> tuple[Node, Edge]:
    key = f"stage{number}{name}"
    weight = f"{term.weight:.3g}"
    if term.end_weight is not None:
        weight += f" to {term.end_weight:.3g}"
    source = f"mix {mix_text(term)}" if term.mix else "to the model as received"
    lines = [name, source, *([text] if (text := _settings(term)) else [])]
    node = Node(key, "term", number, _wrapped(lines))
    return node, Edge(key, f"stage{number}", "joins", f"weight {weight}")


def _leaves_adapter(stage: Stage, is_last: bool) -> bool:
    if isinstance(stage.adapter, Full):
        return False
    return stage.handoff in ("stack", "detach") or (stage.handoff == "continue" and is_last)


def _adapter(number: int, stage: Stage, n_stages: int) -> tuple[Node, list[Edge]]:
    """Return the node of an adapter that outlives its stage, in the next row, and its edges."""
    key, row = f"adapter{number}", number + 1
    is_aside = stage.handoff == "detach" and number < n_stages
    state = "set aside" if is_aside else "active, frozen"
    lines = [f"{stage.influence}'s {adapter_label(stage.adapter)}", f"of stage {number}, {state}"]
    node = Node(key, "aside" if is_aside else "adapter", row, _wrapped(lines))
    edges = [Edge(f"stage{number}", key, "aside" if is_aside else "joins")]
    following = _key(row, n_stages)
    if number == n_stages:
        edges.append(Edge(key, "model", "joins", "lies on it"))
    elif stage.handoff == "stack":
        edges.append(Edge(key, following, "joins", "active from here on"))
    else:
        edges.append(Edge(key, following, "aside", "off while it trains"))
        edges.append(Edge(key, _key(row + 1, n_stages), "joins", "back, active from here on"))
    return node, edges


def _scores(boundary: Boundary) -> Node:
    n_stages = boundary.n_stages
    heading = f"scores after stage {n_stages}" if n_stages else "scores of the base"
    lines = [heading, *_score_lines(boundary.scores)]
    if boundary.holdout:
        lines += ["holdout", *_score_lines(boundary.holdout)]
    return Node(f"scores{n_stages}", "scores", n_stages, tuple(map(one_line, lines)))


def _score_lines(scores: Sequence[Score]) -> Iterator[str]:
    from search.report.numbers import (
        score_text,
    )  # It brings numpy and moocore, which recipes can do without.

    for score in scores:
        unit = one_line(score.unit) if score.value is not None else ""
        yield f"{_cut(score.name)} {score_text(score)} {unit}".strip()


def _wrapped(lines: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for line in lines:
        parts = textwrap.wrap(one_line(line), MAX_CHARS, subsequent_indent="") or [""]
        if len(parts) > MAX_LINES:
            parts = [*parts[: MAX_LINES - 1], "..."]
        found += parts
    return tuple(part for part in found if part)


def _cut(text: str) -> str:
    plain = one_line(text)
    return plain if len(plain) <= MAX_CHARS else f"{plain[: MAX_CHARS - 3]}..."
