"""Checks of what can be tried: names, orders, baselines, and the recipes that the space draws. No torch, no Optuna."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from search.check_adapters import Finding
from search.check_combining import names_in_branches
from search.messages import KeyPath, suggest, value_text
from search.spec import StudySpec
from spaces.decode import BASE_LABEL
from spaces.order import RESERVED_NAMES
from spaces.params import Params
from spaces.space import Space

N_DRAWN_RECIPES = 256
"""Recipes that are tried out, each legal order among them where there are no more than that."""
N_DRAWN_FILLINGS = 32
"""Ways to fill the gaps of a baseline that are tried out."""

TABLE_COLUMNS = frozenset(
    (
        *("number", "state", "reason", "baseline", "recipe", "order", "on_front", "is_feasible"),
        *("is_knee", "n_stages_scored", "dose_tokens", "trained_tokens", "seed", "device"),
        *("started_at", "finished_at"),
    )
)
"""Columns that trials.csv has for every study, beside those that end in `_seconds`."""
FRONT_COLUMNS = frozenset(("ties", "warnings"))
"""Columns that front.csv has besides, beside those of confirmed scores."""
_TABLE_ENDINGS = ("_seconds", "_stderr", "_confirmed")


def name_findings(spec: StudySpec) -> Iterator[Finding]:
    """Yield names of influences, evaluators and baselines that mean something else already."""
    for name in spec.influences:
        if name in RESERVED_NAMES:
            text = f"is the name of {RESERVED_NAMES[name]}; choose another for the influence"
            yield Finding(("influences", name), text)
    for group, evaluators in (("suite", spec.suite), ("holdout", spec.holdout)):
        for name in evaluators:
            if name in TABLE_COLUMNS | FRONT_COLUMNS or name.endswith(_TABLE_ENDINGS):
                text = "is the name of a column of trials.csv or front.csv; choose another for the evaluator"
                yield Finding((group, name), text)
    names: set[str] = set()
    for index, baseline in enumerate(spec.baselines):
        place = ("baselines", index, "name")
        if baseline.name in names:
            yield Finding(place, f"{baseline.name!r} is there twice; choose another")
        elif baseline.name == BASE_LABEL and baseline.order:
            text = f"{BASE_LABEL!r} is the name of the untouched base, and this has stages; choose another"
            yield Finding(place, text)
        names.add(baseline.name)


def order_findings(spec: StudySpec) -> Iterator[Finding]:
    """Yield unknown influences in orders, and influences that never run."""
    for index, name in enumerate(spec.order.influences or ()):
        yield from _influence_name(spec, ("order", "influences", index), name)
    for index, pair in enumerate(spec.order.before):
        for side, name in enumerate(pair):
            yield from _influence_name(spec, ("order", "before", index, side), name)
    for index, baseline in enumerate(spec.baselines):
        for position, name in enumerate(baseline.order):
            yield from _influence_name(spec, ("baselines", index, "order", position), name)
    for name, influence in spec.training_influences.items():
        if influence.repeat is not None and spec.order.max_repeats == 1:
            text = "is never used, since no influence runs again; raise order.max_repeats, or remove it"
            yield Finding(("influences", name, "repeat"), text, True)
    if spec.order.influences is not None:
        in_branches = names_in_branches(spec)
        for name in spec.influences:
            if name not in spec.order.influences and name not in in_branches:
                text = "never runs: it is in neither order.influences nor a branch"
                yield Finding(("influences", name), text, True)


def _influence_name(spec: StudySpec, place: KeyPath, name: str) -> Iterator[Finding]:
    if name not in spec.influences:
        hint = suggest(name, spec.influences)
        yield Finding(place, f"{value_text(name)} is not an influence; {hint}")


def space_findings(spec: StudySpec) -> Iterator[Finding]:
    """Let the space itself judge orders, baselines and many of its recipes."""
    try:
        space = Space(spec.influences, spec.order)
    except ValueError as error:
        yield _placed(("order",), str(error), "order")
        return
    yield from _baseline_findings(spec, space)
    for params in _drawn(space):
        try:
            space.decode(params)
        except ValueError as error:
            yield Finding(("influences",), str(error).removeprefix("influences."))
            return


def _baseline_findings(spec: StudySpec, space: Space) -> Iterator[Finding]:
    seen: list[tuple[Params, str]] = []
    for index, baseline in enumerate(spec.baselines):
        place = ("baselines", index)
        try:
            params = space.encode(baseline.order, baseline.values)
            for seed in range(N_DRAWN_FILLINGS):
                space.decode(space.fill(params, seed))
        except ValueError as error:
            yield _placed(place, str(error), "values")
            continue
        twin = next((name for other, name in seen if other == params), None)
        if twin is not None:
            text = f"has the order and values of {twin!r}; remove one, or give it other values"
            yield Finding(place, text)
        seen.append((params, baseline.name))


def _drawn(space: Space) -> Iterator[Params]:
    """Yield params of recipes: each legal order as often as the number of draws allows, or draws from all orders."""
    n_sequences = space.rules.n_sequences()
    if n_sequences > N_DRAWN_RECIPES:
        yield from map(space.sample, range(N_DRAWN_RECIPES))
        return
    fixed = [space.encode(sequence, {}) for sequence in space.rules.sequences()]
    for seed, params in enumerate(itertools.islice(itertools.cycle(fixed), N_DRAWN_RECIPES)):
        yield space.fill(params, seed)


def _placed(place: KeyPath, text: str, stem: str) -> Finding:
    """Take the key that a message begins with, such as `order.before` or `values.tone.rank`, as the place."""
    found = re.match(rf"{stem}\.([\w.@-]+) (.*)", text)
    if found is None:
        return Finding(place, text)
    key = (found[1],) if place[-1] == stem else (stem, found[1])
    return Finding((*place, *key), found[2])
