"""What each stage gave and took: a table for a trial, and one of boundaries for all trials of the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.attribution.explanation import Explanation, Kind, Worth
from search.attribution.noise import Effect, corrected_together
from search.attribution.verdicts import Verdict, verdicts
from search.report.analysis import Analysis
from search.report.numbers import count_text, interval_text

MAX_DETAILED = 6
"""Trials with a table of their own."""
COLUMNS: dict[Kind, str] = {
    "boundary": "at boundary",
    "alone": "alone",
    "left_out": "last to join",
    "shapley": "Shapley",
}
HOW = (
    "± is 95 %. At boundary: score after the stage less before. Alone: on the base. Last to join: the whole recipe "
    "less the recipe without the stage. Shapley: mean gain over all orders in which the stages may join. ! is beyond "
    "noise after Holm's correction, * rests on some orders only, ? would have to be trained."
)
ONE_SEED = (
    "Intervals are from items alone: no recipe was trained with two seeds, so what differs from training to training "
    "is not in them, and what is claimed holds for these very trainings."
)


@dataclass(frozen=True)
class Explained:
    """What is shown of one trial."""

    trial: int
    """Its number."""
    label: str
    """Its recipe in one line."""
    why: str
    """Why it is shown in full, such as `recommended`."""
    known: str
    """How much of it is measured."""
    claims: tuple[str, ...]
    """What the numbers support, a sentence each."""
    rows: tuple[tuple[str, ...], ...]
    """Score, stage, then a cell for each of `COLUMNS`."""


@dataclass(frozen=True)
class BoundaryRow:
    """What one stage of one trial changed."""

    trial: int
    """Number of the trial."""
    place: int
    """Of the stage, from 1."""
    unit: str
    """The stage's influence."""
    cells: tuple[tuple[str, str], ...]
    """Change and `better`, `worse` or empty, for each score."""


def explained(analysis: Analysis) -> tuple[Explained, ...]:
    """Return trials with a table of their own: the recommended one, and those that were asked about."""
    asked = set(analysis.asked)
    recommended = analysis.recommended.number if analysis.recommended is not None else None
    wanted = [
        each for each in analysis.explanations if each.trial == recommended or each.trial in asked
    ]
    return tuple(
        Explained(
            trial=each.trial,
            label=analysis.by_number[each.trial].recipe.label(),
            why="recommended" if each.trial == recommended else "asked for",
            known=known_text(each),
            claims=tuple(claim.text for claim in claims(each)),
            rows=worth_rows(each),
        )
        for each in (wanted or analysis.explanations[:1])[:MAX_DETAILED]
    )


def claims(explanation: Explanation) -> list[Verdict]:
    """Return what the numbers support."""
    return verdicts(explanation)


def known_text(explanation: Explanation) -> str:
    """Return how many of the recipes of its stages are scored."""
    n, of = explanation.n_measured, explanation.n_subsets
    text = f"{n} of {count_text(of, 'recipe')} of its stages are scored"
    return (
        text
        if n >= of - len(explanation.illegal)
        else f"{text}; `apportion explain` trains the rest"
    )


def worth_rows(explanation: Explanation) -> tuple[tuple[str, ...], ...]:
    """Return the table of a trial."""
    rows = []
    for score, direction in explanation.scores.items():
        arrow = "↑" if direction == "maximise" else "↓"
        for unit in explanation.units:
            cells = (worth_text(explanation.worth(kind, score, unit)) for kind in COLUMNS)
            rows.append((f"{score} {arrow}", unit, *cells))
    return tuple(rows)


def worth_text(worth: Worth | None) -> str:
    """Return a worth with its marks."""
    if worth is None:
        return "?"
    return change_text(worth.effect) + ("*" if worth.is_partial else "")


def change_text(effect: Effect) -> str:
    """Return a change with the half-width of its interval, and a mark if it is shown."""
    mark = "!" if effect.is_shown else ""
    if effect.low is None or effect.high is None:
        return f"{effect.value:+.3g}{mark}"
    # Without blanks: a narrow column would break the line there.
    text = interval_text(effect.value, (effect.high - effect.low) / 2 / 1.96).replace(" ", "")
    return f"{'' if text.startswith('-') else '+'}{text}{mark}"


def boundary_effects(explanation: Explanation) -> dict[tuple[str, str], Effect]:
    """Return the change at every boundary by score and stage, with Holm's correction over all of the trial's."""
    found = [worth for worth in explanation.worths if worth.kind == "boundary"]
    effects = corrected_together([worth.effect for worth in found])
    return {
        (worth.score, worth.units[0]): effect for worth, effect in zip(found, effects, strict=True)
    }


def boundary_rows(explanations: Sequence[Explanation]) -> tuple[BoundaryRow, ...]:
    """Return what every stage of these trials changed."""
    rows = []
    for each in explanations:
        effects = boundary_effects(each)
        for place, unit in enumerate(each.units, start=1):
            cells = []
            for score, direction in each.scores.items():
                effect = effects.get((score, unit))
                sign = 1.0 if direction == "maximise" else -1.0
                verdict = ""
                if effect is not None and effect.is_shown:
                    verdict = "better" if effect.value * sign > 0 else "worse"
                cells.append((change_text(effect) if effect is not None else "?", verdict))
            rows.append(BoundaryRow(each.trial, place, unit, tuple(cells)))
    return tuple(rows)
