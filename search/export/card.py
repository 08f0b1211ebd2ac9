"""README.md of an exported model or recipe: what it is made of, what was measured, and how to load it. No torch.

Names and reasons come from files that others wrote, so Markdown sees no markup in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from evaluators.scores import Score
from search.base_files import base_name
from search.errors import ApportionError
from search.export.job import Job
from search.graph.build import recipe_graph
from search.graph.mermaid import mermaid_text
from search.report.markdown_text import escaped
from search.report.numbers import number_text, score_text
from search.report.study_file import facts, versions
from search.report.view import holdout_scores
from search.spec import BaseSpec, SourceSpec

NOT_STATED = "not stated"
MAX_CARD_BYTES = 1 << 20
"""Of a README.md that is looked into for a licence."""
ARROWS = {"maximise": "↑", "minimise": "↓"}


def model_card(job: Job, library: str, load: str, origin: str) -> str:
    """Return the card of an export.

    Args:
        job: What is exported.
        library: What loads it, as the hub calls it.
        load: Lines that load it.
        origin: How the files came about, in a sentence or two.
    """
    record, spec = job.record, job.spec
    base = base_name(spec.base)
    graph = recipe_graph(record.recipe, base, f"{spec.name}, trial {record.number}", record)
    picked = len([trial for trial in job.view.trials if trial.state == "COMPLETE"])
    parts = [
        _head(job, library),
        f"# {escaped(spec.name)}, trial {record.number}",
        f"{escaped(record.recipe.label())} on {escaped(base)}. {origin}",
        "## Recipe",
        f"```mermaid\n{mermaid_text(graph)}```",
        "## Scores",
        "Intervals are 1.96 standard errors over items; ↑ higher is better, ↓ lower is better.",
        _scores(job),
        *_holdout(job),
        *_confirmed(job, picked),
        "## Data",
        *_data(job),
        "## How to load it",
        f"```python\n{load}\n```" if library != "apportion" else f"```bash\n{load}\n```",
        "## Provenance",
        _provenance(job),
        "recipe.yaml of the trial, and every reply that was scored, lie in the study's results.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(job: Job, library: str) -> str:
    base = job.spec.base
    head: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    if base.hub is not None:
        head["base_model"] = base.hub
    licence = base_licence(base, job.root)
    if licence != NOT_STATED:
        head["license"] = licence
    head["tags"] = ["apportion", job.spec.name]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _scores(job: Job) -> str:
    base = job.view.base.final_scores if job.view.base else {}
    return _table(
        ["score", "base", "this model", "items"],
        [_score_row(score, base.get(name)) for name, score in job.record.final_scores.items()],
    )


def _holdout(job: Job) -> list[str]:
    scores = holdout_scores(job.record)
    if not scores:
        return []
    base = holdout_scores(job.view.base) if job.view.base else {}
    rows = [_score_row(score, base.get(name)) for name, score in scores.items()]
    return [
        "The holdout, which the search never saw:",
        _table(["score", "base", "this model", "items"], rows),
    ]


def _score_row(score: Score, base: Score | None) -> list[str]:
    own = score_text(score)
    if score.value is None:
        own += f" ({escaped(score.reason or 'no reason known')})"
    name = f"{escaped(score.name)} {ARROWS[score.direction]}"
    return [name, score_text(base), own, f"{score.n:,}"]


def _confirmed(job: Job, n_picked_from: int) -> list[str]:
    found = job.view.confirmation
    trial = found.trial(job.record.number) if found else None
    if trial is None:
        return [
            "Not confirmed: the recipe was not trained again with fresh seeds. If it was chosen as the best-looking of "
            f"{n_picked_from} trials, expect somewhat less than the first table says."
        ]
    rows = []
    for score in trial.scores:
        name = f"{escaped(score.name)}{' (holdout)' if score.is_holdout else ''} {ARROWS[score.direction]}"
        low, high = score.low, score.high
        interval = (
            "" if low is None or high is None else f"{number_text(low)} to {number_text(high)}"
        )
        value = "missing" if score.value is None else number_text(score.value)
        rows.append([name, value, interval, str(score.n_seeds), f"{score.n_items:,}"])
    return [
        "Confirmed: the recipe trained again with fresh seeds. The interval is over seeds and items.",
        _table(["score", "fresh seeds", "95 % interval", "seeds", "items"], rows),
    ]


def _data(job: Job) -> list[str]:
    used = dict.fromkeys(name for stage in job.record.recipe.stages for name in stage.sources)
    if not used:
        return ["Nothing was trained."]
    note = ""
    hashes: dict[str, tuple[str, str]] = {}
    try:
        for name, source in job.sources().items():
            hashes[name] = (f"{len(source.rows):,}", source.content_hash)
    except ApportionError as error:
        note = f"Rows and hashes are missing: {escaped(str(error))}"
    rows = []
    for name in used:
        spec = job.spec.sources[name]
        where = spec.hub or Path(spec.path or "").name
        if spec.revision:
            where += f" @ {spec.revision}"
        n_rows, content = hashes.get(name, ("", ""))
        licence = source_licence(spec, job.root)
        rows.append([*map(escaped, (name, where, spec.format, n_rows, content, licence))])
    head = ["source", "from", "format", "training rows", "SHA-256 of format and rows", "licence"]
    return [_table(head, rows), note]


def _provenance(job: Job) -> str:
    record = job.record
    rows = [
        ("seed", str(record.seed)),
        ("digest", job.digest),
        ("device", record.device),
        ("trained", f"{record.started_at} to {record.finished_at}"),
        *facts(job.view.study_file),
    ]
    found = versions(job.view.study_file)
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in found.items())))
    return _table(["what", "value"], [[escaped(what), escaped(value)] for what, value in rows])


def base_licence(base: BaseSpec, root: Path) -> str:
    """Return the licence that the base's own card states, where its files are in a folder."""
    if base.path is None:
        return NOT_STATED
    return _card_licence(root / base.path / "README.md")


def source_licence(source: SourceSpec, root: Path) -> str:
    """Return the licence that a dataset states: `dataset_info.json` of a saved one, or a README.md beside a file."""
    if source.path is None:
        return "see its page on the hub"
    place = root / source.path
    if not place.is_dir():
        return _card_licence(place.parent / "README.md")
    for path in (place / "dataset_info.json", *sorted(place.glob("*/dataset_info.json"))[:1]):
        try:
            stated = json.loads(path.read_bytes()).get("license")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(stated, str) and stated.strip():
            return stated.strip()[:200]
    return NOT_STATED


def _card_licence(path: Path) -> str:
    """Return `license` of a card's YAML head."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CARD_BYTES).decode("utf-8", "replace")
        parts = text.split("---", 2)
        head = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (OSError, yaml.YAMLError):
        return NOT_STATED
    stated = head.get("license") if isinstance(head, dict) else None
    return stated.strip()[:200] if isinstance(stated, str) and stated.strip() else NOT_STATED


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
