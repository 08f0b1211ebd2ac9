"""report.md: the facts of the report for people and tools that read text."""

from __future__ import annotations

from collections.abc import Sequence

from search.records import TrialRecord
from search.report import confirmation, describe
from search.report.analysis import Analysis
from search.report.inside import grids
from search.report.kinds import HEADINGS, kind_rows, kinds_sentence, leaks_sentence
from search.report.markdown_findings import (
    attribution_part,
    degree_part,
    order_part,
    routes_part,
    start_part,
)
from search.report.markdown_text import escaped, fenced, heading, table
from search.report.moved import moved_markdown
from search.report.numbers import duration_text, number_text, score_text, tokens_text
from search.report.samples import Sample
from search.report.stopping import stopped_rows, stopping_sentence
from search.report.study_file import facts, launches, versions
from search.report.view import StudyView, holdout_scores, total_seconds
from search.report.warnings import warning_lines
from spaces.recipe import Merge, Parallel, Stage

MAX_FRONT_ROWS = 40
"""Front members in the tables; front.csv has all."""
MAX_INSIDE = 12
"""Tables of single stages."""
MAX_SAMPLED = 3
"""Front members whose generations are shown."""
SAMPLES_EACH = 2
"""Generations shown per evaluator and member."""


def report_markdown(view: StudyView, analysis: Analysis | None = None) -> str:
    """Return the report as Markdown. Model output stands in code fences, other found text is escaped.

    Args:
        view: The study.
        analysis: What follows from its records, if that was asked for already.
    """
    analysis = analysis or Analysis(view)
    parts = [
        f"# {escaped(view.spec.name)}",
        *start_part(analysis),
        describe.front_sentence(view),
        f"{escaped(describe.searched_sentence(view))} {describe.trials_sentence(view)}",
        describe.budget_sentence(view),
        escaped(stopping_sentence(view)),
        escaped(leaks_sentence(view)),
        _warnings(view),
        describe.INTERVAL_NOTE,
        "![Front](front.png)",
        *_front(view),
        *_recipes(view),
        *routes_part(analysis),
        *attribution_part(analysis),
        *order_part(analysis),
        *degree_part(analysis),
        *_samples(view, analysis),
        *_confirmation(view),
        *_kinds(view),
        *_inside(view),
        *moved_markdown(analysis.moved),
        *_failures(view),
        *_provenance(view),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _warnings(view: StudyView) -> str:
    return "\n".join(f"- Warning: {escaped(line)}" for line in warning_lines(view))


def _front(view: StudyView) -> list[str]:
    if not view.front:
        return []
    members = view.front_trials
    base = [view.base] if view.base and view.base.number not in view.front else []
    head = ["trial", "recipe", *(heading(o.name, o.direction) for o in view.objectives)]
    head += [heading(f"{info.name} (holdout)", info.direction) for info in view.holdout]
    rows = [_front_row(view, trial) for trial in [*members[:MAX_FRONT_ROWS], *base]]
    more = len(members) - MAX_FRONT_ROWS
    return [
        "## Front",
        "One row a trial that no other feasible trial matches in every objective and exceeds in one; "
        "↑ higher is better, ↓ lower is better.",
        table([*head, "tokens", "time"], rows),
        f"{more} more rows are in front.csv." if more > 0 else "",
        describe.knee_sentence(view),
    ]


def _front_row(view: StudyView, trial: TrialRecord) -> list[str]:
    marks = []
    if trial.number == view.knee:
        marks.append("knee")
    if trial.baseline and trial.recipe.stages:
        marks.append(f"baseline {trial.baseline}")
    if trial.number not in view.front:
        marks.append("not on the front")
    note = view.noise_note(trial)
    if note is not None and trial.number in view.front:
        marks.append(note)
    ties = confirmation.tie_note(view, trial.number)
    if ties is not None:
        marks.append(ties)
    label = trial.recipe.label() + (f" ({', '.join(marks)})" if marks else "")
    final, holdout = trial.final_scores, holdout_scores(trial)
    scores = [score_text(final.get(objective.name)) for objective in view.objectives]
    scores += [score_text(holdout.get(info.name)) for info in view.holdout]
    cost = [tokens_text(trial.trained_tokens), duration_text(total_seconds(trial))]
    return [str(trial.number), escaped(label), *scores, *cost]


def _confirmation(view: StudyView) -> list[str]:
    if view.confirmation is None:
        return []
    rows = [list(map(escaped, row)) for row in confirmation.score_rows(view)]
    ties = [list(map(escaped, row)) for row in confirmation.tie_rows(view)]
    missing = [list(map(escaped, row)) for row in confirmation.missing_rows(view)]
    noise = [list(map(escaped, row)) for row in confirmation.noise_rows(view)]
    return [
        "## Confirmation",
        f"{confirmation.how(view)} {confirmation.confirmation_sentence(view)}",
        table(["trial", "recipe", "told apart"], ties),
        table(confirmation.HEAD, rows),
        table(["trial", "seed", "why it is missing"], missing) if missing else "",
        "The noise floor: how far trainings of one recipe with other seeds lie apart.",
        table(["score", "sd between seeds", "its 95 % interval", "two trainings differ by"], noise),
    ]


def _kinds(view: StudyView) -> list[str]:
    rows = kind_rows(view)
    sentence = kinds_sentence(view, rows)
    if not sentence:
        return []
    cells = [[str(row.trial.number), *map(escaped, row.cells)] for row in rows]
    grid = table(["trial", *HEADINGS], cells) if rows else ""
    return ["## Seen and unseen kinds", escaped(sentence), grid]


def _recipes(view: StudyView) -> list[str]:
    rows = []
    for trial in view.front_trials[:MAX_FRONT_ROWS]:
        for place, stage in enumerate(trial.recipe.stages, start=1):
            trained = trial.stages[place - 1].trained_tokens if place <= len(trial.stages) else None
            rows.append([str(trial.number), str(place), *_stage_cells(stage, trained)])
    head = ["trial", "stage", "influence", "method", "adapter", "where", "mix", "dose", "trained"]
    if not rows:
        return []
    return [
        "## Recipes of the front",
        "One row a stage, in the order they run; dose and trained are tokens without padding.",
        table([*head, "learning rate", "beta", "handoff"], rows),
    ]


def _inside(view: StudyView) -> list[str]:
    parts = [
        part
        for trial in view.front_trials[:MAX_FRONT_ROWS]
        for place, stage in enumerate(trial.stages, start=1)
        for grid in grids(stage)
        for part in (
            f"### Trial {trial.number}, stage {place}, {escaped(stage.stage.influence)}: {escaped(grid.title)}",
            table([*map(escaped, grid.head)], [[*map(escaped, row)] for row in grid.rows]),
        )
    ]
    if not parts:
        return []
    how = "What joint stages and stages with AdaLoRA left beside scores; other trials are in report.html."
    return ["## Inside stages of the front", how, *parts[: 2 * MAX_INSIDE]]


def _stage_cells(stage: Stage | Parallel | Merge, trained: int | None) -> list[str]:
    own = stage if isinstance(stage, Stage) else None
    cells = [
        stage.influence,
        stage.method_text,
        describe.moved_text(stage),
        describe.where_text(own.adapter) if own else "",
        stage.mix_text,
        f"{stage.dose_tokens:,}",
        f"{trained:,}" if trained is not None else "",
        number_text(own.learning_rate) if own else "",
        number_text(own.beta) if own and own.beta is not None else "",
        stage.handoff,
    ]
    return [escaped(cell) for cell in cells]


def _failures(view: StudyView) -> list[str]:
    rows = [
        [f"{kind}: {escaped(reason[:600])}", str(len(numbers)), _numbers(numbers)]
        for kind, found in (
            ("failed", describe.failures(view)),
            ("tried again", describe.lost_rows(view)),
            ("infeasible", describe.infeasible_rows(view)),
            ("stopped early", stopped_rows(view)),
        )
        for reason, numbers in found
    ]
    if not rows:
        return []
    return [
        "## Failed, infeasible and stopped trials",
        "A failed trial could not be trained or scored; an infeasible one breaks a constraint; one that was stopped "
        "early could no longer reach the front or keep a constraint, by the scores after its first stages.",
        table(["reason", "trials", "numbers"], rows),
    ]


def _samples(view: StudyView, analysis: Analysis) -> list[str]:
    samples = analysis.samples
    chosen = [trial for trial in view.front_trials if trial.recipe.stages]
    chosen.sort(key=lambda trial: trial.number != view.knee)
    parts = []
    for trial in chosen[:MAX_SAMPLED]:
        for sample in _first_of_each(samples.get(trial.number, [])):
            where = f"{sample.evaluator}{' (holdout)' if sample.is_holdout else ''}"
            parts.append(f"### Trial {trial.number}, {escaped(where)}, item {sample.index}")
            parts += ["Prompt:", fenced(sample.prompt)]
            parts += [f"Trial {trial.number}:", fenced(sample.output)]
            if sample.base_output is not None:
                parts += ["Base:", fenced(sample.base_output)]
    if not parts:
        return []
    how = (
        "First generations of the knee and of front members, beside the base's for the same prompt."
    )
    return ["## What they wrote", how, *parts]


def _first_of_each(samples: Sequence[Sample]) -> list[Sample]:
    n_by_evaluator: dict[str, int] = {}
    first = []
    for sample in samples:
        n_by_evaluator[sample.evaluator] = n_by_evaluator.get(sample.evaluator, 0) + 1
        if n_by_evaluator[sample.evaluator] <= SAMPLES_EACH:
            first.append(sample)
    return first


def _provenance(view: StudyView) -> list[str]:
    rows = [*describe.setting_rows(view), *facts(view.study_file)]
    rows += [
        (what, f"{spent} of {allowed}" if allowed else spent)
        for what, spent, allowed in describe.budget_rows(view)
    ]
    found = versions(view.study_file)
    if found:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in found.items())))
    commands = [launch.command for launch in launches(view.study_file) if launch.command]
    return [
        "## Provenance",
        "What is needed to repeat the study; each trial's folder holds its recipe.yaml.",
        table(["what", "value"], [[escaped(what), escaped(value)] for what, value in rows]),
        fenced("\n".join(commands)) if commands else "",
    ]


def _numbers(numbers: Sequence[int]) -> str:
    text = ", ".join(str(number) for number in numbers[:40])
    return text + (f" and {len(numbers) - 40} more" if len(numbers) > 40 else "")
