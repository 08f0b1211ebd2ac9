"""Several ways to one place, side by side: scores, holdout, retention, cost and what the models wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evaluators.scores import Score
from search.attribution.routes import Route, Routes
from search.attribution.verdicts import effect_text
from search.report.analysis import Analysis
from search.report.numbers import count_text, duration_text, score_text, tokens_text

MAX_PROMPTS = 3
"""Prompts whose replies stand side by side."""


@dataclass(frozen=True)
class RouteSample:
    """What each route wrote for one prompt."""

    where: str
    """Evaluator, and whether the sampler never sees it."""
    prompt: str
    """What was asked."""
    outputs: tuple[str, ...]
    """One a route."""


@dataclass(frozen=True)
class RouteTable:
    """Routes as columns."""

    numbers: tuple[int, ...]
    """Trials."""
    labels: tuple[str, ...]
    """Their recipes."""
    groups: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]
    """Title of a group of rows, and its rows: name and a cell for each route."""
    differences: tuple[str, ...]
    """How each route's scores differ from the first one's, a sentence each."""
    samples: tuple[RouteSample, ...]
    """Replies to prompts that all of them were asked."""


def routes_sentence(analysis: Analysis) -> str:
    """Return how many other ways there are; empty where there is nothing to match."""
    found = analysis.routes
    if found is None:
        return ""
    first, n_others = found.routes[0].trial, found.n_equivalent - 1
    within = ", ".join(f"{name} ±{margin:.2g}" for name, margin in found.margins.items())
    if not n_others:
        text = f"No other trial is shown to score like trial {first} within {within}"
        if found.n_undecided:
            differ = "differs" if found.n_undecided == 1 else "differ"
            text += (
                f"; {count_text(found.n_undecided, 'trial')} {differ} by less, but noise may hide more: more items, or "
                "replicates with other seeds, would tell"
            )
        return f"{text}."
    return (
        f"{count_text(n_others, 'other trial')} of {found.n_candidates:,} {'is' if n_others == 1 else 'are'} shown to "
        f"score like trial {first} within {within}, by two one-sided tests at 5 % each."
    )


def another_way(analysis: Analysis) -> str:
    """Return the route that is made most differently, and what it costs; empty where there is none."""
    found = analysis.routes
    if found is None or len(found.routes) < 2:
        return ""
    first, other = found.routes[0], found.routes[1]
    return (
        f"Trial {other.trial} ({analysis.by_number[other.trial].recipe.order_label()}) is shown to score like trial "
        f"{first.trial} and is made differently: {tokens_text(other.dose_tokens)} tokens against "
        f"{tokens_text(first.dose_tokens)}."
    )


def route_table(analysis: Analysis) -> RouteTable | None:
    """Return the routes side by side; None where there is but one."""
    found = analysis.routes
    if found is None or len(found.routes) < 2:
        return None
    return RouteTable(
        numbers=tuple(route.trial for route in found.routes),
        labels=tuple(route.recipe for route in found.routes),
        groups=tuple(_groups(found)),
        differences=tuple(_differences(found)),
        samples=_samples(analysis, found),
    )


def _groups(found: Routes) -> Iterator[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]]:
    suite = dict.fromkeys(score.name for route in found.routes for score in route.scores)
    matched = [name for name in suite if name in found.margins]
    kept = [name for name in suite if name.startswith("retention.") and name not in matched]
    others = [name for name in suite if name not in {*matched, *kept}]
    for title, names in (("matched", matched), ("other scores", others), ("retention", kept)):
        if names:
            yield title, tuple((n, tuple(_cell(r.scores, n) for r in found.routes)) for n in names)
    held = dict.fromkeys(score.name for route in found.routes for score in route.holdout)
    if held:
        yield "holdout", tuple((n, tuple(_cell(r.holdout, n) for r in found.routes)) for n in held)
    yield (
        "cost",
        (
            ("dose", tuple(f"{tokens_text(r.dose_tokens)} tokens" for r in found.routes)),
            ("training", tuple(duration_text(r.train_seconds) for r in found.routes)),
        ),
    )
    yield "made", (("distance", tuple(_distance(route) for route in found.routes)),)


def _cell(scores: tuple[Score, ...], name: str) -> str:
    return score_text(next((score for score in scores if score.name == name), None))


def _distance(route: Route) -> str:
    return "" if route.distance is None else f"{route.distance.total:.2f}"


def _differences(found: Routes) -> Iterator[str]:
    first = found.routes[0]
    for route in found.routes[1:]:
        changes = (f"{name} {effect_text(each)}" for name, each in route.differences.items())
        yield f"Trial {route.trial} for trial {first.trial}: {', '.join(changes)}."


def _samples(analysis: Analysis, found: Routes) -> tuple[RouteSample, ...]:
    by_route = []
    for route in found.routes:
        samples = analysis.samples.get(route.trial, [])
        by_route.append({(s.is_holdout, s.evaluator, s.index, s.prompt): s for s in samples})
    common = [key for key in by_route[0] if all(key in other for other in by_route)]
    return tuple(
        RouteSample(
            where=f"{key[1]}{', holdout' if key[0] else ''}",
            prompt=key[3],
            outputs=tuple(other[key].output for other in by_route),
        )
        for key in common[:MAX_PROMPTS]
    )
