"""The answer in five sentences, each made by code from the records: reached, decided, order, degree, holds.

Nothing is called a gain inside the noise; where data are thin, the sentence says what it would take.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.report.analysis import Analysis
from search.report.answer.decided import decided
from search.report.answer.degree import degree
from search.report.answer.holds import holds
from search.report.answer.order import order
from search.report.answer.reached import reached
from search.report.routes import another_way


@dataclass(frozen=True)
class Sentence:
    """One part of the answer."""

    title: str
    """The question in a word."""
    text: str
    """The answer."""


def summary(analysis: Analysis) -> tuple[Sentence, ...]:
    """Return the answer; with another way to the same scores, if there is one."""
    parts = [
        Sentence("Reached", reached(analysis)),
        Sentence("Decided by", decided(analysis)),
        Sentence("Order", order(analysis)),
        Sentence("Degree", degree(analysis)),
        Sentence("Holds", holds(analysis)),
    ]
    other = another_way(analysis)
    return (*parts, Sentence("Another way", other)) if other else tuple(parts)
