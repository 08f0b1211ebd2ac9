"""report.html: one file that needs no network, from Jinja templates with autoescape on."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from evaluators.scores import ScoreInfo
from search.records import TrialRecord
from search.report import confirmation, describe, numbers
from search.report.kinds import HEADINGS, kind_rows, kinds_sentence, leaks_sentence
from search.report.payload import payload, script_json
from search.report.stopping import stopped_rows, stopping_sentence
from search.report.study_file import facts, launches, versions
from search.report.view import StudyView, holdout_scores, hypervolumes, total_seconds

SCRIPTS = ("format.js", "front.js", "detail.js", "main.js")
"""Read as one script, in this order."""
MAX_HOLDOUT_ROWS = 60
"""Front members in the holdout table; front.csv has all."""


def report_html(view: StudyView) -> str:
    """Return the page."""
    scripts = [_plotly(), _own_script()]
    context = _context(view)
    page = _environment().get_template("report.html.j2")
    return page.render(
        **context,
        # Safe as markup: our own files, and JSON in which no character can end the element.
        style=Markup(_template("report.css")),
        scripts=[Markup(script) for script in scripts],
        data=Markup(script_json(payload(view))),
        policy=_policy(scripts),
    )


def _context(view: StudyView) -> dict[str, Any]:
    running = [trial for trial in view.trials if trial.state == "RUNNING"]
    front = view.front_trials
    base = [view.base] if view.base and view.base.number not in view.front else []
    holdout_rows = [*front, *base]
    kinds = kind_rows(view)
    missing = [objective.name for objective in view.objectives if objective.reference is None]
    return {
        "view": view,
        "front": describe.front_sentence(view),
        "searched": describe.searched_sentence(view),
        "trials": describe.trials_sentence(view),
        "budget": describe.budget_sentence(view),
        "budget_rows": describe.budget_rows(view),
        "stopping": stopping_sentence(view),
        "stopped": stopped_rows(view),
        "knee": describe.knee_sentence(view),
        "confirmation": confirmation,
        "interval_note": describe.INTERVAL_NOTE,
        "n_running": len(running),
        "rows": _table_order(view),
        "shown": _shown_scores(view),
        "objective_names": {objective.name for objective in view.objectives},
        "searched_infos": _objective_infos(view),
        "holdout_rows": holdout_rows[:MAX_HOLDOUT_ROWS],
        "holdout_total": len(holdout_rows),
        "kind_rows": kinds,
        "kind_headings": HEADINGS,
        "kinds": kinds_sentence(view, kinds),
        "leaks": leaks_sentence(view),
        "has_hypervolume": bool(hypervolumes(view)),
        "without_reference": missing,
        "reference": describe.reference_text(view),
        "failures": describe.failures(view),
        "infeasible": describe.infeasible_rows(view),
        "influences": describe.influence_rows(view),
        "facts": [*describe.setting_rows(view), *facts(view.study_file)],
        "versions": versions(view.study_file),
        "launches": launches(view.study_file),
    }


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


def _policy(scripts: list[str]) -> str:
    """Return a content security policy: these scripts alone, no network, no frames, no forms.

    Plotly sets `style` attributes, hence inline styles; its picture download makes a blob.
    """
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _plotly() -> str:
    return _inline(get_plotlyjs())


@cache
def _own_script() -> str:
    return _inline('"use strict";\n' + "\n".join(_template(name) for name in SCRIPTS))


def _inline(script: str) -> str:
    """Return a script as HTML hands it to the browser, so that its hash is right."""
    return script.replace("\r\n", "\n").replace("</script", "<\\/script")


def _template(name: str) -> str:
    source, _, _ = _loader().get_source(_environment(), name)
    return source


@cache
def _loader() -> PackageLoader:
    return PackageLoader("search.report", "templates")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=_loader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "score_text": numbers.score_text,
        "tokens_text": numbers.tokens_text,
        "duration_text": numbers.duration_text,
        "total_seconds": total_seconds,
        "holdout_scores": holdout_scores,
    }
    return environment
