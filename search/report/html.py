"""report.html: one file that needs no network, from Jinja templates with autoescape on."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from search.report import numbers
from search.report.analysis import Analysis
from search.report.attribution import change_text
from search.report.degree import ends_text
from search.report.kinds import leaks_sentence
from search.report.payload import payload, script_json
from search.report.sections import SECTIONS, Section
from search.report.view import StudyView, holdout_scores, total_seconds
from search.report.warnings import warning_lines

SCRIPTS = (
    "lazy.js",
    "format.js",
    "diff.js",
    "front.js",
    "detail.js",
    "generations.js",
    "main.js",
    "watch.js",
)
"""Read as one script, in this order."""


def report_html(view: StudyView, analysis: Analysis | None = None, is_watched: bool = False) -> str:
    """Return the page.

    Args:
        view: The study.
        analysis: What follows from its records, if that was asked for already.
        is_watched: Whether it is served, and asks its server whether the study has changed.
    """
    analysis = analysis or Analysis(view)
    page = _environment().get_template("report.html.j2")
    return page.render(
        view=view,
        leaks=leaks_sentence(view),
        warnings=warning_lines(view),
        n_running=sum(trial.state == "RUNNING" for trial in view.trials),
        sections=list(_sections(analysis)),
        # Safe as markup: our own files, and JSON in which no character can end the element.
        style=Markup(_template("report.css")),
        charts=Markup(_plotly()),
        script=Markup(_own_script()),
        data=Markup(script_json(payload(analysis))),
        policy=_policy([_plotly(), _own_script()], is_watched),
        is_watched=is_watched,
    )


def with_code(text: str) -> Markup:
    """Return a text of ours, escaped, in which what stands between backticks is code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 and at < len(parts) - 1 else part
        for at, part in enumerate(parts)
    )


def _sections(analysis: Analysis) -> Iterator[tuple[Section, Markup]]:
    """Yield the sections that have something to show, as markup: each is a template with autoescape on."""
    for section in SECTIONS:
        values = section.values(analysis)
        if values is not None:
            template = _environment().get_template(f"{section.name}.html.j2")
            yield section, Markup(template.render(view=analysis.view, **values))


def _policy(scripts: list[str], is_watched: bool) -> str:
    """Return a content security policy: these scripts alone, no network, no frames, no forms.

    A page that is served may ask its own server and no other.
    Plotly sets `style` attributes, hence inline styles; its picture download makes a blob.
    """
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if is_watched else "")
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
        "change_text": change_text,
        "with_code": with_code,
        "ends_text": ends_text,
        "total_seconds": total_seconds,
        "holdout_scores": holdout_scores,
    }
    return environment
