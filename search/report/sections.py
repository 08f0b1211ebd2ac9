"""The sections of report.html in their order: a template each, and what it shows.

A section of your own: a function from an `Analysis` to the values that its template needs, or None where the study has
nothing to show there; a template in templates/ with a `section` element of that id; a line in `SECTIONS`. A script for
it is listed in `html.SCRIPTS`, what the script reads in `payload.payload`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evaluators.scores import ScoreInfo
from search.records import TrialRecord
from search.report import attribution, confirmation, degree, describe, start
from search.report.analysis import MIN_TRIALS, Analysis
from search.report.answer.degree import degree as dose_answer
from search.report.answer.order import order
from search.report.kinds import HEADINGS, kind_rows, kinds_sentence
from search.report.moved import moved_values
from search.report.orders import order_counts
from search.report.routes import route_table, routes_sentence
from search.report.stopping import stopped_rows, stopping_sentence
from search.report.study_file import facts, launches, versions
from search.report.summary import summary
from search.report.view import StudyView, hypervolumes

MAX_HOLDOUT_ROWS = 60
"""Front members in the holdout table; front.csv has all."""
MAX_ORDER_ROWS = 30
"""Comparisons, and orders, in a table."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    name: str
    """Id of the section, and name of its template."""
    title: str
    """As the contents have it."""
    values: Callable[[Analysis], Values | None]
    """What the template needs beside `view`; None leaves the section out."""


def _start(analysis: Analysis) -> Values:
    view = analysis.view
    return {
        "sentences": summary(analysis),
        "figure": start.figure(analysis),
        "width": start.WIDTH,
        "height": start.HEIGHT,
        "front": describe.front_sentence(view),
        "searched": describe.searched_sentence(view),
        "trials": describe.trials_sentence(view),
        "budget": describe.budget_sentence(view),
        "stopping": stopping_sentence(view),
        "interval_note": describe.INTERVAL_NOTE,
    }


def _front(analysis: Analysis) -> Values:
    return {"knee": describe.knee_sentence(analysis.view)}


def _trials(analysis: Analysis) -> Values:
    view = analysis.view
    return {
        "rows": _table_order(view),
        "shown": _shown_scores(view),
        "objective_names": {objective.name for objective in view.objectives},
        "confirmation": confirmation,
    }


def _nothing(analysis: Analysis) -> Values:
    return {}


def _routes(analysis: Analysis) -> Values | None:
    sentence = routes_sentence(analysis)
    return {"sentence": sentence, "table": route_table(analysis)} if sentence else None


def _attribution(analysis: Analysis) -> Values | None:
    if not analysis.completed:
        return None
    of_front = [each for each in analysis.explanations if each.trial in analysis.view.front]
    return {
        "how": attribution.HOW,
        "one_seed": attribution.ONE_SEED if analysis.known.n_seeds < 2 else "",
        "explained": attribution.explained(analysis),
        "columns": attribution.COLUMNS.values(),
        "scores": analysis.scores,
        "boundaries": attribution.boundary_rows(of_front),
    }


def _order(analysis: Analysis) -> Values | None:
    if not analysis.completed:
        return None
    return {
        "sentence": order(analysis),
        "rows": analysis.order_rows,
        "counts": order_counts(analysis.view),
        "scores": analysis.scores,
        "max_rows": MAX_ORDER_ROWS,
    }


def _degree(analysis: Analysis) -> Values | None:
    if not analysis.completed:
        return None
    return {
        "sentence": dose_answer(analysis),
        "lines": [line for each in analysis.doses for line in degree.dose_sentences(each)],
        "curves": degree.curves(analysis),
        "width": degree.WIDTH,
        "height": degree.HEIGHT,
        "responses": analysis.doses,
        "parameters": degree.parameter_table(analysis),
        "min_trials": MIN_TRIALS,
    }


def _generations(analysis: Analysis) -> Values | None:
    return {} if any(number for number in analysis.samples) else None


def _moved(analysis: Analysis) -> Values | None:
    return moved_values(analysis.moved)


def _confirmation(analysis: Analysis) -> Values | None:
    return {"confirmation": confirmation} if analysis.view.confirmation else None


def _progress(analysis: Analysis) -> Values:
    view = analysis.view
    return {
        "reference": describe.reference_text(view),
        "has_hypervolume": bool(hypervolumes(view)),
        "without_reference": [each.name for each in view.objectives if each.reference is None],
    }


def _holdout(analysis: Analysis) -> Values | None:
    view = analysis.view
    if not view.holdout:
        return None
    base = [view.base] if view.base and view.base.number not in view.front else []
    rows = [*view.front_trials, *base]
    return {
        "searched_infos": _objective_infos(view),
        "holdout_rows": rows[:MAX_HOLDOUT_ROWS],
        "holdout_total": len(rows),
    }


def _kinds(analysis: Analysis) -> Values | None:
    rows = kind_rows(analysis.view)
    sentence = kinds_sentence(analysis.view, rows)
    if not sentence:
        return None
    return {"kinds": sentence, "kind_rows": rows, "kind_headings": HEADINGS}


def _failures(analysis: Analysis) -> Values:
    view = analysis.view
    return {
        "failures": describe.failures(view),
        "lost": describe.lost_rows(view),
        "infeasible": describe.infeasible_rows(view),
        "stopped": stopped_rows(view),
    }


def _space(analysis: Analysis) -> Values:
    return {"influences": describe.influence_rows(analysis.view)}


def _provenance(analysis: Analysis) -> Values:
    view = analysis.view
    return {
        "facts": [*describe.setting_rows(view), *facts(view.study_file)],
        "budget_rows": describe.budget_rows(view),
        "versions": versions(view.study_file),
        "launches": launches(view.study_file),
    }


SECTIONS = (
    Section("start", "In short", _start),
    Section("front", "Front", _front),
    Section("routes", "Routes", _routes),
    Section("attribution", "Attribution", _attribution),
    Section("order", "Order", _order),
    Section("moved", "Where it moved", _moved),
    Section("degree", "Degree", _degree),
    Section("generations", "Generations", _generations),
    Section("confirmation", "Confirmation", _confirmation),
    Section("holdout", "Holdout", _holdout),
    Section("kinds", "Kinds", _kinds),
    Section("trials", "Trials", _trials),
    Section("detail", "One trial", _nothing),
    Section("progress", "Progress", _progress),
    Section("failures", "Failures", _failures),
    Section("space", "Space", _space),
    Section("provenance", "Provenance", _provenance),
)
"""In the order of the page."""


def _table_order(view: StudyView) -> list[TrialRecord]:
    """Return the front, the base, then the feasible, the infeasible, the stopped, the running and the failed."""
    ranks = {"COMPLETE": 2, "PRUNED": 4, "RUNNING": 5, "FAIL": 6}

    def rank(trial: TrialRecord) -> tuple[int, int]:
        if view.base is not None and trial.number == view.base.number:
            return 0, trial.number
        return ranks[trial.state] + (
            trial.state == "COMPLETE" and trial.number not in view.feasible
        ), trial.number

    others = [trial for trial in view.trials if trial.number not in view.front]
    return [*view.front_trials, *sorted(others, key=rank)]


def _objective_infos(view: StudyView) -> list[ScoreInfo]:
    """Return the objectives as scores, with the direction that the study gives them."""
    return [
        ScoreInfo(name=objective.name, unit=objective.unit, direction=objective.direction)
        for objective in view.objectives
    ]


def _shown_scores(view: StudyView) -> list[ScoreInfo]:
    """Return the scores of the table: objectives, then constrained scores that are none."""
    shown = _objective_infos(view)
    constrained = {constraint.score for constraint in view.spec.constraints}
    names = {info.name for info in shown}
    return shown + [i for i in view.suite if i.name in constrained and i.name not in names]
