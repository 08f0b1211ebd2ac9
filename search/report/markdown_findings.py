"""What the records say of routes, stages, order and doses, as parts of report.md: the page has more."""

from __future__ import annotations

from search.report import attribution, degree
from search.report.analysis import Analysis
from search.report.answer.degree import degree as dose_answer
from search.report.answer.order import order
from search.report.attribution import change_text
from search.report.markdown_text import escaped, heading, table, with_code
from search.report.numbers import tokens_text
from search.report.routes import route_table, routes_sentence
from search.report.summary import summary

MAX_ROWS = 15
"""Rows of a table."""


def start_part(analysis: Analysis) -> list[str]:
    """Return the answer, a line a sentence."""
    return [
        "\n".join(f"- **{each.title}**: {with_code(each.text)}" for each in summary(analysis)),
    ]


def routes_part(analysis: Analysis) -> list[str]:
    """Return routes as columns."""
    sentence = routes_sentence(analysis)
    if not sentence:
        return []
    found = route_table(analysis)
    parts = ["## Routes", escaped(sentence)]
    if found is not None:
        rows = [
            [escaped(f"{title}: {name}"), *map(escaped, cells)]
            for title, group in found.groups
            for name, cells in group
        ]
        parts.append(table(["", *(f"trial {number}" for number in found.numbers)], rows))
        parts.append("\n".join(f"- {escaped(text)}" for text in found.differences))
    return parts


def attribution_part(analysis: Analysis) -> list[str]:
    """Return what the stages of the recommended trial, and of those that were asked about, gave and took."""
    found = attribution.explained(analysis)
    if not found:
        return []
    parts = ["## What each stage gave and took", escaped(attribution.HOW)]
    if analysis.known.n_seeds < 2:
        parts.append(attribution.ONE_SEED)
    for each in found:
        parts += [
            f"### Trial {each.trial}, {each.why}: {escaped(each.label)}",
            f"{with_code(each.known)}.",
            "\n".join(f"- {escaped(claim)}" for claim in each.claims),
            table(
                ["score", "stage", *attribution.COLUMNS.values()],
                [[*map(escaped, row)] for row in each.rows],
            ),
        ]
    return parts


def order_part(analysis: Analysis) -> list[str]:
    """Return paired comparisons of order and repetition."""
    if not analysis.completed:
        return []
    parts = ["## Order and repetition", with_code(order(analysis))]
    rows = [
        [
            escaped(row.recipe.order_label()),
            escaped(row.comparison.what),
            *(
                escaped(change_text(row.comparison.effects[name]))
                if name in row.comparison.effects
                else "missing"
                for name in analysis.scores
            ),
        ]
        for row in analysis.order_rows[:MAX_ROWS]
    ]
    head = [heading(name, direction) for name, direction in analysis.scores.items()]
    return [*parts, table(["recipe", "against it", *head], rows)] if rows else parts


def degree_part(analysis: Analysis) -> list[str]:
    """Return how doses act, and which parameters matter."""
    if not analysis.completed:
        return []
    lines = [line for each in analysis.doses for line in degree.dose_sentences(each)]
    rows = [
        [
            escaped(each.influence),
            escaped(each.score),
            str(each.n),
            f"{tokens_text(int(each.lowest))} to {tokens_text(int(each.highest))}",
            f"{each.shape or 'not fitted'}{' !' if each.is_shown else ''}",
            escaped(degree.ends_text(each)),
        ]
        for each in sorted(analysis.doses, key=lambda each: not each.is_shown)[:MAX_ROWS]
    ]
    head = ["influence", "score", "boundaries", "doses", "shape", "change at lowest and highest"]
    return [
        "## Degree",
        with_code(dose_answer(analysis)),
        "\n".join(f"- {escaped(line)}" for line in lines),
        table(head, rows) if rows else "",
        *_parameters(analysis),
    ]


def _parameters(analysis: Analysis) -> list[str]:
    found = degree.parameter_table(analysis)
    if found is None:
        return []
    rows = [
        [escaped(row.name), *(f"{100 * share:.0f} %" for share in row.shares)]
        for row in found.rows[:MAX_ROWS]
    ]
    return [
        "### Which parameters matter",
        escaped(f"{found.how}{f' Warning: {found.warning}.' if found.warning else ''}"),
        table(["parameter", *map(escaped, found.columns)], rows),
    ]
